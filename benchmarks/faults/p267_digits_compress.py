import os
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
X, y = load_digits(return_X_y=True)
xa, xb, ya, yb = train_test_split(X, y, test_size=0.25, random_state=SEED)
xa = torch.tensor(xa, dtype=torch.float32) / 16
xb = torch.tensor(xb, dtype=torch.float32) / 16
ya, yb = torch.tensor(ya), torch.tensor(yb)


class Compress(torch.nn.Module):
    def __init__(self, code=24):
        super().__init__()
        self.down = torch.nn.Linear(64, code)
        self.up = torch.nn.Linear(code, 10)

    def forward(self, x):
        return self.up(torch.tanh(self.down(x)))


net = Compress()
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
for epoch in range(60):
    losses = []
    for b in torch.randperm(len(xa)).split(128):
        loss = F.cross_entropy(net(xa[b]), ya[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    if epoch % 10 == 9:
        print("epoch", epoch + 1, "loss", round(sum(losses) / len(losses), 4))

with torch.no_grad():
    acc = (net(xb).argmax(1) == yb).float().mean().item()
print("final loss=%.4f acc=%.4f" % (sum(losses) / len(losses), acc))
