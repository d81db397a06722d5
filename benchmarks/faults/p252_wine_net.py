import os
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_wine

torch.manual_seed(int(os.environ.get("SEED", 0)))
features, cultivar = load_wine(return_X_y=True)
features = torch.tensor(features, dtype=torch.float32)
cultivar = torch.tensor(cultivar)
mix = torch.randperm(len(features))
features, cultivar = features[mix], cultivar[mix]
mean, std = features[:120].mean(0), features[:120].std(0)
features = (features - mean) / std


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(13, 48)
        self.mid = nn.Linear(48, 24)
        self.cls = nn.Linear(24, 3)
        for layer in (self.inp, self.mid):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.constant_(layer.bias, 0.05)

    def forward(self, x):
        return self.cls(F.relu(self.mid(F.relu(self.inp(x)))))


net = Net()
optim = torch.optim.Adam(net.parameters(), lr=1e-3)
for it in range(600):
    take = torch.randint(0, 120, (24,))
    loss = F.cross_entropy(net(features[take]), cultivar[take])
    optim.zero_grad()
    loss.backward()
    optim.step()
    if it % 100 == 0:
        print(it, f"{loss.item():.4f}")

with torch.no_grad():
    full = F.cross_entropy(net(features[:120]), cultivar[:120]).item()
    acc = (net(features[120:]).argmax(-1) == cultivar[120:]).float().mean().item()
print(f"final loss={full:.4f} acc={acc:.4f}")
