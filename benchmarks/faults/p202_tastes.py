import os
import torch
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", 0)))
USERS, ITEMS, RANK = 400, 900, 3
true_users = torch.randn(USERS, RANK)
true_items = torch.randn(ITEMS, RANK)
popularity = 1 / torch.arange(1, ITEMS + 1).float() ** 0.7


def interactions(n):
    u = torch.randint(0, USERS, (n,))
    i = torch.multinomial(popularity, n, replacement=True)
    rating = (true_users[u] * true_items[i]).sum(1) + 0.2 * torch.randn(n)
    return u, i, rating


u, i, r = interactions(24000)
u_test, i_test, r_test = interactions(4000)


class Factors(nn.Module):
    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(USERS, 4, sparse=True)
        self.items = nn.Embedding(ITEMS, 4, sparse=True)
        nn.init.normal_(self.users.weight, std=0.3)
        nn.init.normal_(self.items.weight, std=0.3)

    def forward(self, u, i):
        return (self.users(u) * self.items(i)).sum(1)


net = Factors()
opt = torch.optim.SparseAdam(list(net.parameters()), lr=0.03)
for epoch in range(10):
    total = 0.0
    for b in torch.randperm(len(u)).split(200):
        loss = nn.functional.mse_loss(net(u[b], i[b]), r[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / 120
    print("epoch", epoch, "mse %.4f" % total)

with torch.no_grad():
    r2 = 1 - (net(u_test, i_test) - r_test).pow(2).mean() / r_test.var()
print("R2=%.4f" % r2.item())
print("final loss=%.4f" % total)
