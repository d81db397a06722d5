"""A small network of dense layers on scikit-learn's digits."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from steepest.race.data import digits
from steepest.race.task import Task, shuffled


def task() -> Task:
    """64-64-64-10 with ReLU, cross-entropy, batches of 64; judged by the cross-entropy on 400 images held out."""
    x, y, held, labels = digits()
    return Task(
        "digits_mlp",
        "Digits, 8 x 8 images, three dense layers",
        lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        shuffled(64, x, y),
        lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        lambda model: float(cross_entropy(model(held), labels)),
        measure="validation cross-entropy",
        steps=300,
        every=10,
        score=lambda model: float((model(held).argmax(1) == labels).to(torch.float64).mean()),
        score_name="validation accuracy",
    )
