import os
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
data = load_digits()
X = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
y = torch.tensor(data.target)
order = torch.randperm(len(X))
X, y = X[order], y[order]

net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
    nn.Flatten(), nn.Linear(384, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
    nn.Linear(64, 10),
)
opt = torch.optim.SGD(net.parameters(), lr=0.9)
for epoch in range(10):
    net.train()
    total = 0.0
    for b in torch.randperm(1280).split(64):
        loss = nn.functional.cross_entropy(net(X[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 20
    print("epoch", epoch, "loss %.4f" % total)

net.eval()
with torch.no_grad():
    acc = (net(X[1280:]).argmax(1) == y[1280:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
