import os
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import make_classification

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
np.random.seed(SEED)
X, y = make_classification(n_samples=1500, n_features=20, n_informative=10, n_redundant=4,
                           n_classes=3, class_sep=1.6, flip_y=0.0, random_state=SEED)
X = torch.tensor((X - X.mean(0)) / X.std(0)).float()
y = torch.tensor(y).long()


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.a = nn.Linear(d, d)
        self.b = nn.Linear(d, d)
        nn.init.kaiming_normal_(self.a.weight)
        nn.init.kaiming_normal_(self.b.weight)
        nn.init.zeros_(self.a.bias)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


net = nn.Sequential(nn.Linear(20, 32), *[Block(32) for _ in range(24)], nn.Linear(32, 3))
opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
loss_fn = nn.CrossEntropyLoss()
for epoch in range(12):
    idx = np.random.permutation(1100)
    losses = []
    for k in range(0, 1100, 50):
        rows = idx[k:k + 50]
        loss = loss_fn(net(X[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    print("epoch %2d loss %.5g" % (epoch, np.mean(losses)))

with torch.no_grad():
    acc = (net(X[1100:]).argmax(1) == y[1100:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (np.mean(losses), acc))
