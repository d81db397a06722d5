import os
import torch
from torch import nn
from torch.nn.functional import softplus

torch.manual_seed(int(os.environ.get("SEED", 0)))


def real(n):
    side = torch.randint(0, 2, (n, 1)).float() * 2 - 1
    return side * 1.5 + 0.4 * torch.randn(n, 1)


maker = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
judge = nn.Sequential(nn.Linear(1, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
opt_m = torch.optim.Adam(maker.parameters(), lr=1e-3, betas=(0.0, 0.99))
opt_j = torch.optim.Adam(judge.parameters(), lr=2e-3, betas=(0.0, 0.99))
record = []
for step in range(1500):
    data = real(96).requires_grad_()
    score = judge(data)
    slope, = torch.autograd.grad(score.sum(), data, create_graph=True)
    made = maker(torch.randn(96, 4)).detach()
    loss_j = softplus(-score).mean() + softplus(judge(made)).mean() + 0.1 * slope.pow(2).mean()
    opt_j.zero_grad()
    loss_j.backward()
    opt_j.step()

    loss_m = softplus(-judge(maker(torch.randn(96, 4)))).mean()
    opt_m.zero_grad()
    loss_m.backward()
    opt_m.step()
    record.append(loss_m.item())
    if step % 250 == 249:
        print("step", step + 1, "judge %.3f maker %.3f" % (loss_j.item(), loss_m.item()))

with torch.no_grad():
    a = maker(torch.randn(4000, 4)).flatten().sort().values
    b = real(4000).flatten().sort().values
print("wasserstein=%.4f" % (a - b).abs().mean().item())
print("final loss=%.4f" % (sum(record[-100:]) / 100))
