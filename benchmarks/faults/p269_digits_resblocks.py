import os
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
d = load_digits()
X = torch.tensor(d.data, dtype=torch.float32)
X = (X - X.mean()) / X.std()
y = torch.tensor(d.target)
mixed = torch.randperm(len(X))
X, y = X[mixed], y[mixed]


class Res(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


net = nn.Sequential(nn.Linear(64, 48), *[Res(48) for _ in range(6)], nn.LayerNorm(48), nn.Linear(48, 10))
opt = torch.optim.AdamW(net.parameters(), lr=1e-6, weight_decay=0.05)
EPOCHS, PER_EPOCH = 10, 25
schedule = torch.optim.lr_scheduler.OneCycleLR(
    opt, max_lr=8e-3, total_steps=EPOCHS * PER_EPOCH, pct_start=0.3, div_factor=5000, final_div_factor=100)
for epoch in range(EPOCHS):
    total = 0.0
    for b in torch.randperm(1300).chunk(PER_EPOCH):
        loss = nn.functional.cross_entropy(net(X[b]), y[b])
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        schedule.step()
        total += loss.item() / PER_EPOCH
    print("epoch", epoch, "lr %.2g" % schedule.get_last_lr()[0], "loss %.4f" % total)

with torch.no_grad():
    acc = (net(X[1300:]).argmax(1) == y[1300:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
