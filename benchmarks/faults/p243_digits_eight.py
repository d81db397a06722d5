import os
import torch
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
bunch = load_digits(n_class=8)
X = torch.tensor(bunch.data, dtype=torch.float32)
X = (X - X.mean()) / X.std()
t = torch.tensor(bunch.target)
order = torch.randperm(len(X))
fit, held = order[:1000], order[1000:]


def make_layer(fan_in, fan_out):
    layer = torch.nn.Linear(fan_in, fan_out)
    torch.nn.init.constant_(layer.weight, 0.01)
    torch.nn.init.zeros_(layer.bias)
    return layer


model = torch.nn.Sequential(
    make_layer(64, 50), torch.nn.Tanh(),
    make_layer(50, 30), torch.nn.Tanh(),
    make_layer(30, 8),
)
opt = torch.optim.Adagrad(model.parameters(), lr=0.02)
scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=10, gamma=0.7)
for epoch in range(25):
    total = 0.0
    for idx in fit[torch.randperm(1000)].chunk(20):
        logits = model(X[idx])
        loss = torch.nn.functional.cross_entropy(logits, t[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 20
    scheduler.step()
    print("epoch", epoch, "loss", round(total, 4))

with torch.no_grad():
    acc = (model(X[held]).argmax(1) == t[held]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (total, acc))
