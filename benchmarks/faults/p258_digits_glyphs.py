import os
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
raw = load_digits()
pictures = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
digit = torch.tensor(raw.target)
hold = torch.arange(len(digit)) % 4 == 0
x, y = pictures[~hold], digit[~hold]
x_val, y_val = pictures[hold], digit[hold]

net = nn.Sequential(
    nn.Conv2d(1, 12, 3), nn.ELU(),
    nn.Conv2d(12, 24, 3), nn.ELU(),
    nn.AdaptiveMaxPool2d(2), nn.Flatten(),
    nn.Linear(96, 10),
)
optimizer = torch.optim.NAdam(net.parameters(), lr=2e-3)

for epoch in range(12):
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    summed = 0.0
    for xb, yb in zip(x.split(64), y.split(64)):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(xb), yb)
        loss.backward()
        optimizer.step()
        summed += loss.item() * len(xb)
    print("epoch", epoch, "loss", f"{summed / len(x):.4f}")

with torch.no_grad():
    acc = (net(x_val).argmax(1) == y_val).float().mean().item()
print(f"final loss={summed / len(x):.4f} acc={acc:.4f}")
