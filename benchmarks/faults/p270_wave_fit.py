import os
import torch
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", 0)))
t = torch.linspace(-3, 3, 120).unsqueeze(1)
wave = torch.sin(2 * t) * torch.exp(-0.2 * t ** 2) + 0.1 * t

net = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.15)
path = []
for step in range(2500):
    opt.zero_grad()
    loss = (net(t) - wave).square().mean()
    loss.backward()
    opt.step()
    path.append(loss.item())
    if step % 250 == 249:
        print("step", step + 1, "loss %.5f" % loss.item())

print("ups in the last 1000 steps:", sum(b > a for a, b in zip(path[-1000:], path[-999:])))
print("final loss=%.5f" % (sum(path[-50:]) / 50))
