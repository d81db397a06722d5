import os
import torch
import torch.nn as nn
from sklearn.datasets import make_classification

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
X, y = make_classification(n_samples=2700, n_features=60, n_informative=8, n_redundant=0,
                           class_sep=0.9, flip_y=0.15, random_state=SEED)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
train_x, train_y = X[:160], y[:160]
val_x, val_y = X[2000:], y[2000:]

model = nn.Sequential(
    nn.Linear(60, 256), nn.ReLU(), nn.Dropout(0.0),
    nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.0),
    nn.Linear(256, 2),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
criterion = nn.CrossEntropyLoss()
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(train_x, train_y), 20, shuffle=True)
for epoch in range(120):
    model.train()
    total = 0.0
    for xb, yb in loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        total += loss.item() / len(loader)
    model.eval()
    with torch.no_grad():
        out = model(val_x)
        val = criterion(out, val_y).item()
        acc = (out.argmax(1) == val_y).float().mean().item()
    if epoch % 20 == 0:
        print("epoch %3d train %.4f val %.4f" % (epoch, total, val))

print("val loss=%.4f" % val)
print("final loss=%.4f acc=%.4f" % (total, acc))
