import os
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
clean = torch.tensor(load_digits().data, dtype=torch.float32) / 16
clean = clean[torch.randperm(len(clean))]
train, val = clean[:1500], clean[1500:]


def spoil(x):
    return x + 0.3 * torch.randn_like(x)



net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 64))
opt = torch.optim.SGD(net.parameters(), lr=0.15, momentum=0.5)
mse = nn.MSELoss()
for epoch in range(25):
    total = 0.0
    opt.zero_grad()
    for x in train[torch.randperm(len(train))].split(30):
        loss = mse(net(spoil(x)), x)
        loss.backward()
        opt.step()
        total += loss.item()
    if epoch % 5 == 4:
        print("epoch", epoch + 1, "mse %.5f" % (total / 50))

with torch.no_grad():
    held = mse(net(spoil(val)), val).item()
print("held-out mse=%.5f" % held)
print("final loss=%.5f" % (total / 50))
