"""A small convolutional network on a part of Fashion-MNIST."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from steepest.race.data import fashion
from steepest.race.task import Task, shuffled

_TRAINING, _VALIDATION = 6000, 1000


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def task(data: str | None = None) -> Task:
    """Two convolutions and two dense layers, 6,000 images in batches of 64; judged by the cross-entropy on 1,000 others.

    Args:
        data: folder of Fashion-MNIST (``steepest.race.data.fashion``).
    """
    images, names, others, other_names = fashion(data)
    x, y, held, labels = images[:_TRAINING], names[:_TRAINING], others[:_VALIDATION], other_names[:_VALIDATION]
    return Task(
        "fashion_cnn",
        "Fashion-MNIST, two convolutions and two dense layers",
        _network,
        shuffled(64, x, y),
        lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        lambda model: float(cross_entropy(model(held), labels)),
        measure="validation cross-entropy",
        steps=300,
        every=15,
        score=lambda model: float((model(held).argmax(1) == labels).to(torch.float64).mean()),
        score_name="validation accuracy",
    )
