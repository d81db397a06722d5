import os
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)
even = labels % 2
order = torch.randperm(len(images))
fit, rest = order[:1350], order[1350:]


class TwoTasks(nn.Module):
    """A shared trunk, one head for the digit and one for its parity."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(128, 12), nn.ReLU(),
        )
        self.digit = nn.Linear(12, 10)
        self.parity = nn.Linear(12, 2)

    def forward(self, x):
        z = self.trunk(x)
        z = z.detach()
        return self.digit(z), self.parity(z)


net = TwoTasks()
opt = torch.optim.Adam(net.parameters(), lr=4e-3)
for epoch in range(20):
    total = 0.0
    parts = fit[torch.randperm(len(fit))].split(54)
    for b in parts:
        digit, parity = net(images[b])
        loss = nn.functional.cross_entropy(digit, labels[b]) + 0.3 * nn.functional.cross_entropy(parity, even[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item()
    if epoch % 4 == 3:
        print("epoch", epoch + 1, "loss", round(total / len(parts), 4))

with torch.no_grad():
    digit, _ = net(images[rest])
    acc = (digit.argmax(1) == labels[rest]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total / len(parts), acc))
