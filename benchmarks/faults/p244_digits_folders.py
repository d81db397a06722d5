import os
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from sklearn.datasets import load_digits

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
rng = np.random.RandomState(SEED)


class Folders(Dataset):
    """Images listed folder by folder, one folder per class."""

    def __init__(self, images, labels):
        self.items = [(im, c) for c in range(10) for im in images[labels == c]]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        image, label = self.items[k]
        return torch.tensor(image, dtype=torch.float32).flatten() / 16, label


digits = load_digits()
test_mask = rng.rand(len(digits.target)) < 0.25
train_data = Folders(digits.images[~test_mask], digits.target[~test_mask])
test_data = Folders(digits.images[test_mask], digits.target[test_mask])
train_loader = DataLoader(train_data, batch_size=30)
test_loader = DataLoader(test_data, batch_size=200)

model = nn.Sequential(nn.Linear(64, 80), nn.LayerNorm(80), nn.ReLU(), nn.Linear(80, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
for epoch in range(12):
    total = 0.0
    for images, labels in train_loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
    print("epoch", epoch, "loss", round(total / len(train_data), 4))

right = 0
with torch.no_grad():
    for images, labels in test_loader:
        right += (model(images).argmax(1) == labels).sum().item()
print("final loss=%.4f acc=%.4f" % (total / len(train_data), right / len(test_data)))
