import os
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
d = load_digits()
x_all = torch.tensor(d.images).float()[:, None] / 16
y_all = torch.tensor(d.target)
p = torch.randperm(len(x_all))
x_train, y_train, x_test, y_test = x_all[p[:1200]], y_all[p[:1200]], x_all[p[1200:]], y_all[p[1200:]]


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 2, bias=False), nn.ReLU(),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.4), nn.Linear(32, 10))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


model = Reader()
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
model.train()
for epoch in range(12):
    total = 0.0
    for idx in torch.randperm(1200).split(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x_train[idx]), y_train[idx])
        loss.backward()
        optimizer.step()
        total += loss.item() / 20
    print("epoch", epoch + 1, "loss", round(total, 4))

hits = 0
with torch.no_grad():
    for image, label in zip(x_test, y_test):
        hits += int(model(image[None]).argmax() == label)
print("final loss=%.4f acc=%.4f" % (total, hits / len(x_test)))
