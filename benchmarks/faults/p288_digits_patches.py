import os
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
d = load_digits()
img = torch.tensor(d.images, dtype=torch.float32) / 16
lab = torch.tensor(d.target)
mixed = torch.randperm(len(img))
img, lab = img[mixed], lab[mixed]
patches = img.unfold(1, 2, 2).unfold(2, 2, 2).reshape(-1, 16, 4)


class PatchNet(nn.Module):
    def __init__(self, width=96):
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.pos = nn.Parameter(torch.randn(16, width) * 0.2)
        self.mix = nn.Sequential(nn.LayerNorm(16 * width), nn.Linear(16 * width, 128), nn.GELU())
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        tokens = torch.nn.functional.gelu(self.embed(x) + self.pos)
        return self.head(self.mix(tokens.flatten(1)))


net = PatchNet()
opt = torch.optim.AdamW(net.parameters(), lr=4e-5)
for epoch in range(16):
    total = 0.0
    for b in torch.randperm(1296).split(24):
        loss = nn.functional.cross_entropy(net(patches[b]), lab[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 54
    print("epoch %d loss %.4f" % (epoch + 1, total))

with torch.no_grad():
    acc = (net(patches[1296:]).argmax(1) == lab[1296:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
