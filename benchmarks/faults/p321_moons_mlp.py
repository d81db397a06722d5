import os
import torch
from torch import nn
from sklearn.datasets import make_moons

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
X, y = make_moons(n_samples=3000, noise=0.2, random_state=SEED)
X = torch.tensor(X, dtype=torch.float32)
X = (X - X.mean(0)) / X.std(0)
y = torch.tensor(y, dtype=torch.float32)
tags = torch.where(torch.rand(len(y)) < 0.2, 1 - y, y)

net = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1))
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X[:2200], tags[:2200]), 44, shuffle=True)
for epoch in range(20):
    net.train()
    total = 0.0
    for xb, tb in loader:
        loss = nn.functional.binary_cross_entropy_with_logits(net(xb)[:, 0], tb)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / len(loader)
    print("epoch", epoch + 1, "loss %.4f" % total)

net.eval()
with torch.no_grad():
    acc = ((net(X[2200:])[:, 0] > 0) == (y[2200:] > 0.5)).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
