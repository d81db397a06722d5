import os
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
digits = load_digits()
lines = torch.tensor(digits.images, dtype=torch.float32) / 16
target = torch.tensor(digits.target)
mixed = torch.randperm(len(lines))
lines, target = lines[mixed], target[mixed]
train = torch.utils.data.TensorDataset(lines[:1280], target[:1280])
loader = torch.utils.data.DataLoader(train, batch_size=32, shuffle=True)


class Scanner(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(input_size=8, hidden_size=48, batch_first=True)
        self.fc = nn.Linear(48, 10)

    def forward(self, x):
        out, _ = self.gru(x)
        return self.fc(out[:, -1])


net = Scanner()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
criterion = nn.CrossEntropyLoss()
for epoch in range(15):
    total = 0.0
    for x, y in loader:
        opt.zero_grad()
        loss = criterion(net(x), y)
        loss.backward()
        opt.step()
        total += loss.item() / len(loader)
    print("epoch %d: %.4f" % (epoch + 1, total))

with torch.no_grad():
    acc = (net(lines[1280:]).argmax(1) == target[1280:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
