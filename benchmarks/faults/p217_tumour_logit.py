import os
import torch
from torch import nn
from sklearn.datasets import load_breast_cancer

torch.manual_seed(int(os.environ.get("SEED", 0)))
bc = load_breast_cancer()
X = torch.tensor(bc.data, dtype=torch.float32)
X = (X - X.mean(0)) / X.std(0)
y = torch.tensor(bc.target, dtype=torch.float32)
order = torch.randperm(len(X))
X, y = X[order], y[order]
LAMBDA = 0.2


class Logit(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(30, 16)
        self.l2 = nn.Linear(16, 1)

    def forward(self, x):
        return self.l2(torch.tanh(self.l1(x)))[:, 0]


net = Logit()
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(40):
    fit_sum, cost_sum = 0.0, 0.0
    for b in torch.randperm(400).split(25):
        fit = nn.functional.binary_cross_entropy_with_logits(net(X[b]), y[b])
        cost = fit + LAMBDA * sum(p.abs().sum() for p in net.parameters())
        opt.zero_grad()
        cost.backward()
        opt.step()
        fit_sum += fit.item() / 16
        cost_sum += cost.item() / 16
    if epoch % 8 == 7:
        print("epoch %d cost %.4f" % (epoch + 1, cost_sum))

with torch.no_grad():
    acc = ((net(X[400:]) > 0) == (y[400:] > 0.5)).float().mean().item()
print("data term=%.4f" % fit_sum)
print("final loss=%.4f acc=%.4f" % (cost_sum, acc))
