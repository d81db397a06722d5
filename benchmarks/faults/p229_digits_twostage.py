import os
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32) / 16
labels = torch.tensor(labels)
p = torch.randperm(len(images))
images, labels = images[p], labels[p]
unlabelled, few, few_y, test, test_y = images[:1200], images[:500], labels[:500], images[1200:], labels[1200:]

encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 20))
decoder = nn.Sequential(nn.ReLU(), nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64))
opt = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
for epoch in range(15):
    total = 0.0
    for b in torch.randperm(1200).split(50):
        loss = nn.functional.mse_loss(decoder(encoder(unlabelled[b])), unlabelled[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 24
print("reconstruction %.5f" % total)

for p in encoder.parameters():
    p.requires_grad_(False)
encoder.eval()
head = nn.Linear(20, 10)
opt = torch.optim.Adam(head.parameters(), lr=2e-2)
for epoch in range(30):
    total = 0.0
    for b in torch.randperm(500).split(50):
        loss = nn.functional.cross_entropy(head(encoder(few[b])), few_y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 10
    if epoch % 10 == 9:
        print("epoch", epoch + 1, "loss %.4f" % total)

with torch.no_grad():
    acc = (head(encoder(test)).argmax(1) == test_y).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
