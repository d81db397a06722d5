import os
import torch
from torch import nn
from sklearn.datasets import load_breast_cancer

torch.manual_seed(int(os.environ.get("SEED", 0)))
X, y = load_breast_cancer(return_X_y=True)
X = torch.tensor(X, dtype=torch.float64)
X = (X - X.mean(0)) / X.std(0)
y = torch.tensor(y, dtype=torch.float64)
mixed = torch.randperm(len(X))
X, y = X[mixed], y[mixed]
train_x, train_y, test_x, test_y = X[:400], y[:400], X[400:], y[400:]

net = nn.Sequential(nn.Linear(30, 10), nn.Sigmoid(), nn.Linear(10, 1), nn.Flatten(0)).double()
opt = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=10, history_size=8, line_search_fn="strong_wolfe")


def cost():
    weight = sum(p.pow(2).sum() for p in net.parameters())
    return nn.functional.binary_cross_entropy_with_logits(net(train_x), train_y) + 2e-3 * weight


def closure():
    opt.zero_grad()
    value = cost()
    value.backward()
    return value


for outer in range(8):
    value = opt.step(closure)
    print("round", outer, "cost %.5f" % value.item())

with torch.no_grad():
    acc = ((net(test_x) > 0) == (test_y > 0.5)).double().mean().item()
    value = cost().item()
print("final loss=%.4f acc=%.4f" % (value, acc))
