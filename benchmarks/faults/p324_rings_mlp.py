import os
import torch
from torch import nn
from sklearn.datasets import make_circles

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
X, y = make_circles(n_samples=1600, noise=0.08, factor=0.5, random_state=SEED)
X = torch.tensor(X, dtype=torch.float32) * 1.8
y = torch.tensor(y, dtype=torch.float32)
X_train, y_train, X_test, y_test = X[:1100], y[:1100], X[1100:], y[1100:]


def block(n_in, n_out):
    return nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(0.05))


model = nn.Sequential(block(2, 64), block(64, 64), block(64, 32), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
dataset = torch.utils.data.TensorDataset(X_train, y_train)
loader = torch.utils.data.DataLoader(dataset, batch_size=55, shuffle=True)

for epoch in range(30):
    model.train()
    total, seen = 0.0, 0
    for xb, yb in loader:
        logit = model(xb).squeeze(-1)
        loss = nn.functional.binary_cross_entropy_with_logits(logit, yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(xb)
        seen += len(xb)
    if (epoch + 1) % 5 == 0:
        model.eval()
        with torch.no_grad():
            acc = ((model(X_test).squeeze(-1) > 0) == (y_test > 0.5)).float().mean().item()
        print("epoch %d  train %.4f  acc %.3f" % (epoch + 1, total / seen, acc))

print("final loss=%.4f acc=%.4f" % (total / seen, acc))
