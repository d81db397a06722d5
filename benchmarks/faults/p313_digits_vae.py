import os
import torch
from torch import nn
from torch.nn import functional as F
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
x_all = torch.tensor(load_digits().data, dtype=torch.float32) / 16
x_all = x_all[torch.randperm(len(x_all))]
x_train, x_val = x_all[:1440], x_all[1440:]


class VAE(nn.Module):
    def __init__(self, code=8):
        super().__init__()
        self.enc = nn.Linear(64, 80)
        self.mu = nn.Linear(80, code)
        self.logvar = nn.Linear(80, code)
        self.dec = nn.Sequential(nn.Linear(code, 80), nn.ReLU(), nn.Linear(80, 64))

    def forward(self, x):
        h = F.relu(self.enc(x))
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        kl = 0.5 * (mu ** 2 + logvar.exp() - 1 - logvar).sum(1).mean()
        return self.dec(z), kl


net = VAE()
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
for epoch in range(24):
    beta = min(1.0, max(0.0, (epoch - 8) / 8))
    total, kls = 0.0, 0.0
    for b in torch.randperm(1440).split(60):
        recon, kl = net(x_train[b])
        rec = F.binary_cross_entropy_with_logits(recon, x_train[b], reduction="none").sum(1).mean()
        loss = rec + beta * kl
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 24
        kls += kl.item() / 24
    if epoch % 4 == 3:
        print("epoch %d beta %.2f objective %.3f kl %.2f" % (epoch + 1, beta, total, kls))

with torch.no_grad():
    recon, kl = net(x_val)
    bound = F.binary_cross_entropy_with_logits(recon, x_val, reduction="none").sum(1).mean() + kl
print("held-out bound=%.3f" % bound.item())
print("final loss=%.4f" % total)
