"""Small trainings of many kinds, each a function that returns everything it computed, to be run observed and unobserved."""

import threading

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


def data(n=48, classes=3):
    x = torch.randn(n, 6)
    return x, torch.randint(0, classes, (n,))


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(16, 3))


def everything(losses, *modules):
    return [torch.tensor(losses, dtype=torch.float64), *(t.detach().clone() for m in modules for t in m.state_dict().values())]


def plain(steps=30):
    x, y = data()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(steps):
        batch = torch.randperm(len(x))[:16]
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append((net.eval()(x).argmax(1) == y).float().mean().item())
    return everything(losses, net)


def closure():
    x, y = data()
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=5)
    losses = []

    def evaluate():
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(4):
        optimizer.step(evaluate)
    return everything(losses, net)


def accumulation():
    x, y = data()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for step in range(24):
        loss = nn.CrossEntropyLoss()(net(x[step : step + 8]), y[step : step + 8]) / 4
        loss.backward()
        losses.append(loss.item())
        if step % 4 == 3:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    return everything(losses, net)


def gan():
    g, d = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)), nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    of_g, of_d = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    losses = []
    for _ in range(10):
        real, fake = torch.randn(16, 2) + 3, g(torch.randn(16, 2))
        loss_d = F.binary_cross_entropy_with_logits(d(real), torch.ones(16, 1)) + F.softplus(d(fake.detach())).mean()
        mixed = (0.5 * real + 0.5 * fake.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(d(mixed).sum(), mixed, create_graph=True)
        loss_d = loss_d + 0.1 * (slope.norm(dim=1) - 1).square().mean()
        of_d.zero_grad()
        loss_d.backward()
        of_d.step()
        loss_g = F.softplus(-d(fake)).mean()
        of_g.zero_grad()
        loss_g.backward()
        of_g.step()
        losses += [loss_d.item(), loss_g.item()]
    return everything(losses, g, d)


def recurrent():
    net, head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 1)
    optimizer = torch.optim.RMSprop([*net.parameters(), *head.parameters()], lr=0.01)
    losses = []
    for _ in range(8):
        x = torch.randn(8, 12, 3)
        loss = ((head(net(x)[0][:, -1]) - x.sum((1, 2), keepdim=False)[:, None]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return everything(losses, net, head)


def amp():
    x, y = data()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(net(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return everything(losses, net)


def loaders(workers=0):
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, num_workers=workers)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        for xb, yb in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(xb), yb)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return everything(losses, net)


def by_hand():
    x, y = data()
    w = nn.Linear(6, 3)
    losses = []
    for _ in range(10):
        loss = F.cross_entropy(w(x), y)
        loss.backward()
        with torch.no_grad():
            for p in w.parameters():
                p -= 0.1 * p.grad
                p.grad = None
        losses.append(loss.item())
    return everything(losses, w)


def functional():
    x = torch.randn(20, 2)
    w = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    losses = []
    for _ in range(10):
        loss = (x @ w - 1).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [torch.tensor(losses), w.detach().clone()]


def embedding():
    net = nn.Sequential(nn.EmbeddingBag(30, 4, sparse=True), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(net(torch.randint(0, 30, (6, 5))), torch.randint(0, 2, (6,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return everything(losses, net)


def transforms():
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 6)
    parameters = dict(net.named_parameters())

    def one(p, row):
        return torch.func.functional_call(net, p, (row,)).squeeze()

    per_sample = torch.func.vmap(torch.func.grad(one), (None, 0))(parameters, x)
    traced = torch.jit.trace(net, x)
    checkpointed = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)
    checkpointed.sum().backward()
    return [*per_sample.values(), traced(x).detach(), *(p.grad for p in net.parameters())]


def threads():
    results = {}

    def train(k):
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(16, 4, generator=generator)
        # Of the one generator that threads share each gets numbers by chance, watched or not.
        net = nn.utils.skip_init(nn.Linear, 4, 1)
        with torch.no_grad():
            net.weight.copy_(torch.randn(1, 4, generator=generator))
            net.bias.zero_()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        results[k] = net.weight.detach().clone()

    workers = [threading.Thread(target=train, args=(k,)) for k in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return [results[k] for k in range(3)]


ALL = (plain, closure, accumulation, gan, recurrent, amp, loaders, by_hand, functional, embedding, transforms, threads)


def seeded(training):
    """What a training computes from a fixed seed, and the state of every random generator after it."""
    torch.manual_seed(1)
    np.random.seed(1)
    result = training()
    return [*result, torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64))]
