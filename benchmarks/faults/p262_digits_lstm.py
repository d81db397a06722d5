import os

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", "0")))
data = load_digits()
X = torch.tensor(data.images, dtype=torch.float32) / 16
Y = torch.tensor(data.target)
perm = torch.randperm(len(X))
train, test = perm[:1300], perm[1300:]


class RowReader(nn.Module):
    """Reads an image row by row."""

    def __init__(self, hidden=40):
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x):
        states, _ = self.lstm(x)
        return self.head(states[:, -1])


net = RowReader()
opt = torch.optim.RMSprop(net.parameters(), lr=0.1)
ce = nn.CrossEntropyLoss()

for epoch in range(14):
    net.train()
    losses = []
    for chunk in train[torch.randperm(len(train))].split(65):
        opt.zero_grad()
        loss = ce(net(X[chunk]), Y[chunk])
        loss.backward()
        opt.step()
        losses.append(loss.item())
    print(f"epoch {epoch:2d}  loss {sum(losses) / len(losses):.4f}")

net.eval()
with torch.no_grad():
    acc = (net(X[test]).argmax(1) == Y[test]).float().mean()
print(f"final loss={sum(losses) / len(losses):.4f} acc={acc:.4f}")
