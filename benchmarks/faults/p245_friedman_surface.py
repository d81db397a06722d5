import os
import numpy as np
import torch
from sklearn.datasets import make_friedman3

SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
X, y = make_friedman3(n_samples=900, noise=0.05, random_state=SEED)
X = (X - X.mean(0)) / X.std(0)
y = (y - y.mean()) / y.std()
X, y = X.astype(np.float32), y.astype(np.float32)
X_train, X_test = torch.from_numpy(X[:650]), torch.from_numpy(X[650:])
y_train, y_test = torch.from_numpy(y[:650]), torch.from_numpy(y[650:])


class Regressor(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 48), torch.nn.Mish(), torch.nn.Linear(48, 48), torch.nn.Mish(), torch.nn.Linear(48, 1))

    def forward(self, x):
        return self.net(x)[:, 0]


def mean_squared(prediction, target):
    return (prediction - target).pow(2).mean()


model = Regressor()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(1200):
    pick = torch.randint(0, len(X_train), (50,))
    loss = mean_squared(model(X_train[pick]), y_train[pick])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
    if step % 200 == 199:
        print("step %d loss %.4f" % (step + 1, average))

with torch.no_grad():
    guess = model(X_test).reshape(-1)
    r2 = 1 - mean_squared(guess, y_test) / y_test.var()
print("R2=%.4f" % r2)
print("final loss=%.4f" % average)
