import os
import torch
from torch import nn
from sklearn.datasets import load_wine

torch.manual_seed(int(os.environ.get("SEED", 0)))
X, y = load_wine(return_X_y=True)
X = torch.tensor(X, dtype=torch.float32)
X = (X - X.mean(0)) / X.std(0)
y = torch.tensor(y)
mixed = torch.randperm(len(X))
X, y = X[mixed], y[mixed]
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X[:128], y[:128]), batch_size=4, shuffle=True)
ACCUMULATE = 8

model = nn.Sequential(nn.Linear(13, 32), nn.SELU(), nn.AlphaDropout(0.05), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(50):
    model.train()
    total = 0.0
    for k, (xb, yb) in enumerate(loader, start=1):
        loss = nn.functional.cross_entropy(model(xb), yb)
        (loss / ACCUMULATE).backward()
        total += loss.item()
        if k % ACCUMULATE == 0:
            optimizer.step()
            optimizer.zero_grad()
    if epoch % 10 == 9:
        print("epoch", epoch + 1, "loss", round(total / len(loader), 4))

model.eval()
with torch.no_grad():
    acc = (model(X[128:]).argmax(1) == y[128:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total / len(loader), acc))
