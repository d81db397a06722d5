import os
import torch
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", 0)))
area = torch.rand(1400, 1) * 180 + 20
rooms = (area / 25).round() + torch.randint(-1, 2, (1400, 1))
age = torch.rand(1400, 1) * 90
distance = torch.rand(1400, 1) * 30
price = 2500 * area * torch.exp(-distance / 25) + 9000 * rooms - 600 * age + 15000 * torch.randn(1400, 1)
X = torch.cat([area, rooms, age, distance], 1)


class PriceModel(nn.Module):
    def __init__(self, x, y):
        super().__init__()
        self.register_buffer("x_mean", x.mean(0))
        self.register_buffer("x_std", x.std(0))
        self.register_buffer("y_mean", y.mean())
        self.register_buffer("y_std", y.std())
        self.net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.y_mean + self.y_std * self.net((x - self.x_mean) / self.x_std)


model = PriceModel(X[:1000], price[:1000])
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X[:1000], price[:1000]), 50, shuffle=True)
for epoch in range(40):
    total = 0.0
    for xb, yb in loader:
        loss = ((model(xb) - yb) / model.y_std).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / len(loader)
    if epoch % 8 == 7:
        print("epoch", epoch + 1, "loss %.5f" % total)

with torch.no_grad():
    guess, truth = model(X[1000:]), price[1000:]
    r2 = 1 - (guess - truth).pow(2).mean() / truth.var()
print("mean absolute error=%.0f R2=%.4f" % ((guess - truth).abs().mean().item(), r2.item()))
print("final loss=%.5f" % total)
