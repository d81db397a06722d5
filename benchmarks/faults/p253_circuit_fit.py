import os
import torch
from sklearn.datasets import make_friedman2

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
X, y = make_friedman2(n_samples=1000, noise=20.0, random_state=SEED)
X = (X - X[:700].mean(axis=0)) / X[:700].std(axis=0)
y = (y - y[:700].mean()) / y[:700].std()
X = torch.as_tensor(X, dtype=torch.float32)
y = torch.as_tensor(y, dtype=torch.float32).view(-1, 1)
train = torch.utils.data.TensorDataset(X[:700], y[:700])
batches = torch.utils.data.DataLoader(train, batch_size=35, shuffle=True)

net = torch.nn.Sequential(
    torch.nn.Linear(4, 40), torch.nn.Tanh(),
    torch.nn.Linear(40, 40), torch.nn.Tanh(),
    torch.nn.Linear(40, 1),
)
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
huber = torch.nn.SmoothL1Loss()

for epoch in range(50):
    net.train()
    mean_loss = 0.0
    for features, target in batches:
        opt.zero_grad()
        loss = huber(net(features), target)
        loss.backward()
        opt.step()
        mean_loss += loss.item() / len(batches)
    if epoch % 10 == 9:
        print("epoch {} loss {:.4f}".format(epoch + 1, mean_loss))

net.eval()
with torch.no_grad():
    rest = y[700:]
    r2 = 1 - ((net(X[700:]) - rest) ** 2).sum() / ((rest - rest.mean()) ** 2).sum()
print("R2={:.4f}".format(r2.item()))
print("final loss={:.4f}".format(mean_loss))
