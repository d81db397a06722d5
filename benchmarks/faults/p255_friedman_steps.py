import os
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import make_friedman1

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
np.random.seed(SEED)
X, y = make_friedman1(n_samples=1200, n_features=6, noise=0.3, random_state=SEED)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32).unsqueeze(1)


class SoftSteps(nn.Module):
    def __init__(self, width=40, slope=1.0):
        super().__init__()
        self.slope = slope
        self.first = nn.Linear(6, width)
        self.second = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        x = torch.tanh(self.slope * self.first(x))
        x = torch.tanh(self.slope * self.second(x))
        return self.out(x)


net = SoftSteps()
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.8, nesterov=True)
for epoch in range(60):
    idx = np.random.permutation(900)
    total = 0.0
    for part in np.array_split(idx, 18):
        err = net(X[part]) - y[part]
        loss = (err ** 2).mean()
        net.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 18
    if epoch % 10 == 0:
        print("epoch %d mse %.4f" % (epoch, total))

with torch.no_grad():
    held = ((net(X[900:]) - y[900:]) ** 2).mean().item()
print("held-out mse=%.4f" % held)
print("final loss=%.4f" % total)
