"""The embedded example: a small convolutional network trained on scikit-learn's digits for a few seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steepest.errors import require_extra


@dataclass(frozen=True, eq=False)
class Example:
    """A trained network and the data it was not trained on.

    Args:
        model: the network, in evaluation mode.
        x, y: test inputs ``[n, 1, 8, 8]`` in [0, 1], float64, and their labels.
        epochs: passes over the training set.
        losses: mean training loss of each epoch.
        accuracy: share of the test inputs classified rightly.
        seconds: wall time of training.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    epochs: int
    losses: tuple[float, ...]
    accuracy: float
    seconds: float


def digits_network() -> nn.Sequential:
    """Two convolutions and two dense layers for 8 x 8 images of digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def train_digits(seed: int = 0, epochs: int = 15) -> Example:
    """Train the example; the same seed gives the same network on one machine.

    Raises:
        UsageError: where scikit-learn is not installed.
    """
    datasets = require_extra("sklearn.datasets", "example")
    started = time.perf_counter()
    digits = datasets.load_digits()
    x = torch.tensor(digits.images / 16.0, dtype=torch.float64).unsqueeze(1)
    y = torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    test, train = order[:400], order[400:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = digits_network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    losses = []
    for _ in range(epochs):
        total = 0.0
        shuffled = train[torch.randperm(len(train), generator=generator)]
        for batch in shuffled.split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[batch].float()), y[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        losses.append(total / len(train))
    model.eval()
    with torch.no_grad():
        accuracy = (model(x[test].float()).argmax(1) == y[test]).double().mean().item()
    return Example(model, x[test], y[test], epochs, tuple(losses), accuracy, time.perf_counter() - started)
