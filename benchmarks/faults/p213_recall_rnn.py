import os
import torch
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", 0)))
STEPS, CLASSES = 40, 4


def sample(n):
    key = torch.randint(0, CLASSES, (n,))
    seq = 0.5 * torch.randn(n, STEPS, CLASSES + 1)
    seq[:, 0, :CLASSES] = nn.functional.one_hot(key, CLASSES).float() * 2
    seq[:, 0, CLASSES] = 1
    return seq, key


class Recall(nn.Module):
    def __init__(self, size=32):
        super().__init__()
        self.cell = nn.RNN(CLASSES + 1, size, batch_first=True)
        self.read = nn.Linear(size, CLASSES)
        nn.init.normal_(self.cell.weight_ih_l0, std=0.1)
        nn.init.orthogonal_(self.cell.weight_hh_l0)

    def forward(self, seq):
        _, last = self.cell(seq)
        return self.read(last[0])


net = Recall()
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
history = []
for step in range(700):
    seq, key = sample(64)
    loss = nn.functional.cross_entropy(net(seq), key)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    opt.step()
    history.append(loss.item())
    if step % 100 == 99:
        print("step", step + 1, "loss %.4f" % (sum(history[-50:]) / 50))

with torch.no_grad():
    seq, key = sample(1000)
    acc = (net(seq).argmax(1) == key).float().mean().item()
print("final loss=%.4f acc=%.4f" % (sum(history[-50:]) / 50, acc))
