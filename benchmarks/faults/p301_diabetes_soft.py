import os
import torch
import torch.nn as nn
from sklearn.datasets import load_diabetes

torch.manual_seed(int(os.environ.get("SEED", 0)))
X, y = load_diabetes(return_X_y=True, scaled=True)
X = torch.tensor(X, dtype=torch.float32) * 21
y = torch.tensor(y, dtype=torch.float32)
y = (y - y.mean()) / y.std()
order = torch.randperm(len(X))
X, y = X[order], y[order]
n = 340
batch_size = 34

net = nn.Sequential(nn.Linear(10, 20), nn.Softplus(), nn.Linear(20, 1), nn.Flatten(0))
opt = torch.optim.SGD(net.parameters(), lr=0.012, momentum=0.8)
for epoch in range(60):
    seen = torch.randperm(n)
    total = 0.0
    for i in range(0, n, batch_size):
        b = seen[i:i + batch_size]
        opt.zero_grad()
        loss = nn.functional.mse_loss(net(X[b]), y[b])
        loss.backward()
        opt.step()
        total += loss.item() * len(b) / n
    print("epoch", epoch, "mse", "%.4f" % total)

with torch.no_grad():
    fit = nn.functional.mse_loss(net(X[:n]), y[:n]).item()
    held = nn.functional.mse_loss(net(X[n:]), y[n:]).item()
print("train mse=%.4f held-out mse=%.4f" % (fit, held))
print("final loss=%.4f" % total)
