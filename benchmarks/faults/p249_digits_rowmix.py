import os
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
d = load_digits()
rows = torch.tensor(d.images, dtype=torch.float32) / 16
label = torch.tensor(d.target)
mixed = torch.randperm(len(rows))
rows, label = rows[mixed], label[mixed]


class Tiny(nn.Module):
    def __init__(self, d_model=24):
        super().__init__()
        self.lift = nn.Linear(8, d_model)
        self.place = nn.Parameter(0.1 * torch.randn(8, d_model))
        self.block = nn.TransformerEncoderLayer(d_model, 2, 48, dropout=0.0, batch_first=True)
        self.head = nn.Linear(d_model, 10)

    def forward(self, x):
        return self.head(self.block(self.lift(x) + self.place).mean(1))


net = Tiny()
opt = torch.optim.SGD(net.parameters(), lr=0.08, momentum=0.8)
micro_batches = 8
for epoch in range(20):
    total = 0.0
    opt.zero_grad()
    for k, b in enumerate(torch.randperm(1280).split(8)):
        loss = nn.functional.cross_entropy(net(rows[b]), label[b])
        (loss / micro_batches).backward()
        total += loss.item() / 160
        if (k + 1) % micro_batches == 0:
            opt.step()
            opt.zero_grad()
    print("epoch", epoch, "loss %.4f" % total)

net.eval()
with torch.no_grad():
    acc = (net(rows[1280:]).argmax(1) == label[1280:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
