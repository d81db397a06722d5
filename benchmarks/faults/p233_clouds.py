import os
import torch
from sklearn.datasets import make_blobs

seed = int(os.environ.get("SEED", 0))
torch.manual_seed(seed)
points, group = make_blobs(n_samples=1500, centers=7, n_features=4, cluster_std=1.6, random_state=11)
points = torch.tensor(points, dtype=torch.float32) / 6
group = torch.tensor(group)
shuffled = torch.randperm(1500)
points, group = points[shuffled], group[shuffled]
x, t = points[:1000], group[:1000]
x_val, t_val = points[1000:], group[1000:]

net = torch.nn.Sequential(
    torch.nn.Linear(4, 32), torch.nn.SiLU(),
    torch.nn.Linear(32, 32), torch.nn.SiLU(),
    torch.nn.Linear(32, 7),
)
opt = torch.optim.Adam(net.parameters(), lr=4e-3)


def classify(scores):
    return scores.argmax(dim=1)


for step in range(1, 901):
    pick = torch.randint(0, 1000, (80,))
    scores = net(x[pick])
    loss = torch.nn.functional.cross_entropy(scores, t[pick])
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step == 1:
        smooth = loss.item()
    smooth = 0.97 * smooth + 0.03 * loss.item()
    if step % 100 == 0:
        print(f"{step:5d} {smooth:.4f}")

with torch.no_grad():
    acc = (classify(net(x_val)) == t_val).float().mean().item()
print(f"final loss={smooth:.4f} acc={acc:.4f}")
