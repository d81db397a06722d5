import os
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
data = load_digits(n_class=6)
x = torch.tensor(data.data, dtype=torch.float32) / 16
y = torch.tensor(data.target)
order = torch.randperm(len(x))
x, y = x[order], y[order]
n = 750

tower = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
opt = torch.optim.Adam(tower.parameters(), lr=1e-3)
margin = 1.5
history = []
for step in range(900):
    left = torch.randint(0, n, (96,))
    right = torch.randint(0, n, (96,))
    same = (y[left] == y[right]).float()
    gap = tower(x[left]) - tower(x[right])
    distance = torch.sqrt((gap ** 2).sum(1) + 1e-8)
    loss = (same * distance ** 2 + (1 - same) * torch.relu(margin - distance) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    history.append(loss.item())
    if step % 150 == 149:
        print("step", step + 1, "loss", round(sum(history[-50:]) / 50, 4))

with torch.no_grad():
    codes, queries = tower(x[:n]), tower(x[n:])
    nearest = torch.cdist(queries, codes).argmin(1)
    acc = (y[:n][nearest] == y[n:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (sum(history[-50:]) / 50, acc))
