import os
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
data = load_digits()
X = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
Y = torch.tensor(data.target)
mixed = torch.randperm(len(X))
X, Y = X[mixed], Y[mixed]


class Layer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + torch.relu(self.norm(self.conv(x)))


net = nn.Sequential(
    nn.Conv2d(1, 8, 3, stride=2, padding=1),
    *[Layer(8) for _ in range(24)],
    nn.Flatten(), nn.Linear(128, 10),
)
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=9)
for epoch in range(9):
    net.train()
    total = 0.0
    for idx in torch.randperm(1200).split(50):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(X[idx]), Y[idx])
        loss.backward()
        opt.step()
        total += loss.item() / 24
    schedule.step()
    print("epoch", epoch, "loss %.4f" % total)

net.eval()
with torch.no_grad():
    acc = (net(X[1200:]).argmax(1) == Y[1200:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
