import os
import torch
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", 0)))


def world(n):
    x = torch.rand(n, 1) * 4 - 2
    spread = 0.3 + 0.25 * torch.sin(2 * x).abs()
    return x, torch.cos(2 * x) + spread * torch.randn(n, 1)


x, y = world(1500)
x_val, y_val = world(800)


class MeanAndSpread(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh())
        self.mean = nn.Linear(40, 1)
        self.log_var = nn.Linear(40, 1)

    def forward(self, x):
        h = self.body(x)
        return self.mean(h), self.log_var(h).exp()


net = MeanAndSpread()
opt = torch.optim.Adam(net.parameters(), lr=4e-3)
nll = nn.GaussianNLLLoss()
for epoch in range(60):
    total = 0.0
    for b in torch.randperm(1500).split(75):
        mean, var = net(x[b])
        loss = nll(mean, y[b], var)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 20
    if epoch % 10 == 9:
        print("epoch", epoch + 1, "nll", round(total, 4))

with torch.no_grad():
    held = nll(*[net(x_val)[0], y_val, net(x_val)[1]]).item()
    spread = 0.3 + 0.25 * torch.sin(2 * x_val).abs()
    best = (spread.log() + 0.5).mean().item()
print("held-out nll=%.4f best possible=%.4f" % (held, best))
print("final loss=%.4f" % total)
