import os
import torch
import torch.nn as nn
from sklearn.datasets import make_classification

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
X, y = make_classification(n_samples=6500, n_features=16, n_informative=12, n_redundant=0, n_classes=4,
                           n_clusters_per_class=2, class_sep=1.2, flip_y=0.02, random_state=SEED)
X = torch.tensor(X).float()
X = (X - X.mean(0)) / X.std(0)
y = torch.tensor(y)

net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
opt = torch.optim.Rprop(net.parameters(), lr=2e-3)
for epoch in range(14):
    total = 0.0
    for b in torch.randperm(4500).split(30):
        loss = nn.functional.cross_entropy(net(X[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 150
    if epoch % 2 == 1:
        print("epoch", epoch + 1, "loss %.4f" % total)

with torch.no_grad():
    acc = (net(X[4500:]).argmax(1) == y[4500:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
