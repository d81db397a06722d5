import os
import torch
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", 0)))
RHYME = (
    "one for the rook and one for the crow one to wither and one to grow "
    "rain on the green grass and rain on the tree rain on the house top but not upon me "
    "the north wind doth blow and we shall have snow and what will the robin do then poor thing "
)
text = RHYME * 6
alphabet = sorted(set(text))
codes = torch.tensor([alphabet.index(c) for c in text])
WINDOW = 24
starts = torch.arange(0, len(codes) - WINDOW - 1)


class CharModel(nn.Module):
    def __init__(self, vocabulary, width=48):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 16)
        self.gru = nn.GRU(16, width, batch_first=True)
        self.out = nn.Linear(width, vocabulary)

    def forward(self, x):
        h, _ = self.gru(self.embed(x))
        return self.out(h)


net = CharModel(len(alphabet))
opt = torch.optim.AdamW(net.parameters(), lr=3e-3)
for epoch in range(12):
    losses, right, count = [], 0, 0
    for s in starts[torch.randperm(len(starts))].split(48):
        window = codes[s[:, None] + torch.arange(WINDOW + 1)]
        logits = net(window[:, :-1])
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), window[:, 1:])
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
        right += (logits.argmax(-1) == window[:, 1:]).sum().item()
        count += window[:, 1:].numel()
    print("pass", epoch, "loss %.4f" % (sum(losses) / len(losses)))

tail = losses[-5:]
with torch.no_grad():
    check = codes[starts[::7, None] + torch.arange(WINDOW + 1)]
    acc = (net(check[:, :-1]).argmax(-1) == check[:, 1:]).float().mean().item()
print("final loss=%.4f acc=%.4f" % (sum(tail) / len(tail), acc))
