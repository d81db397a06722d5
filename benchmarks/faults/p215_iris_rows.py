import os
import random
import torch
from torch import nn
from sklearn.datasets import load_iris

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
random.seed(SEED)
X, y = load_iris(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
rows = list(range(150))
random.shuffle(rows)
train, test = rows[:105], rows[105:]

net = nn.Sequential(nn.Linear(4, 12), nn.Hardswish(), nn.Linear(12, 3), nn.LogSoftmax(dim=-1))
opt = torch.optim.SGD(net.parameters(), lr=0.01)
nll = nn.NLLLoss()
for epoch in range(40):
    random.shuffle(train)
    total = 0.0
    for r in train:
        opt.zero_grad()
        loss = nll(net(X[r:r + 1]), y[r:r + 1])
        loss.backward()
        opt.step()
        total += loss.item() / len(train)
    if epoch % 8 == 7:
        print(f"epoch {epoch + 1} loss {total:.4f}")

with torch.no_grad():
    acc = (net(X[test]).argmax(1) == y[test]).float().mean().item()
print(f"final loss={total:.4f} acc={acc:.4f}")
