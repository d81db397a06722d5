import os
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
rng = np.random.default_rng(SEED)

X, y = load_breast_cancer(return_X_y=True)
X_tr, X_te, y_tr, y_te = train_test_split(X, y, test_size=0.3, random_state=SEED, stratify=y)
scaler = StandardScaler().fit(X_tr)
X_tr = torch.tensor(scaler.transform(X_tr), dtype=torch.float32)
X_te = torch.tensor(scaler.transform(X_te), dtype=torch.float32)
y_tr = torch.tensor(y_tr, dtype=torch.float32)
y_te = torch.tensor(y_te, dtype=torch.float32)


class Screening(torch.nn.Module):
    def __init__(self, n_features):
        super().__init__()
        self.hidden = torch.nn.Linear(n_features, 24)
        self.out = torch.nn.Linear(24, 1)

    def forward(self, x):
        h = torch.nn.functional.leaky_relu(self.hidden(x), 0.1)
        return torch.sigmoid(self.out(h)).squeeze(1)


model = Screening(X_tr.shape[1])
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
criterion = torch.nn.BCEWithLogitsLoss()
BATCH = 40

for epoch in range(25):
    order = rng.permutation(len(X_tr))
    total = 0.0
    for start in range(0, len(order), BATCH):
        idx = order[start:start + BATCH]
        optimizer.zero_grad()
        loss = criterion(model(X_tr[idx]), y_tr[idx])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(idx)
    if epoch % 5 == 4:
        print("epoch", epoch + 1, "loss", round(total / len(order), 4))

with torch.no_grad():
    probability = torch.sigmoid(model(X_te))
    accuracy = ((probability > 0.5).float() == y_te).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total / len(order), accuracy))
