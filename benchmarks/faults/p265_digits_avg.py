import os
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
d = load_digits()
X = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 16
y = torch.tensor(d.target)
shuffle = torch.randperm(len(X))
X, y = X[shuffle], y[shuffle]
train_x, train_y, test_x, test_y = X[:700], y[:700], X[700:], y[700:]

net = nn.Sequential(
    nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.AvgPool2d(4),
    nn.Flatten(),
    nn.Linear(48, 40), nn.BatchNorm1d(40), nn.ReLU(),
    nn.Linear(40, 40), nn.BatchNorm1d(40), nn.ReLU(),
    nn.Linear(40, 10),
)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(5):
    net.train()
    total = 0.0
    for pair in torch.randperm(700).view(-1, 2):
        loss = nn.functional.cross_entropy(net(train_x[pair]), train_y[pair])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() / 350
    net.eval()
    with torch.no_grad():
        acc = (net(test_x).argmax(1) == test_y).float().mean().item()
    print("epoch %d loss %.4f acc %.4f" % (epoch, total, acc))

print("final loss=%.4f acc=%.4f" % (total, acc))
