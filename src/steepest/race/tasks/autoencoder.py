"""An autoencoder of digits through eight numbers."""

from __future__ import annotations

from torch import nn
from torch.nn.functional import mse_loss

from steepest.race.data import digits
from steepest.race.task import Task, shuffled


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 8), nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 64))


def task() -> Task:
    """64-48-8-48-64 with tanh, squared error, batches of 64; judged by the squared error per pixel on 400 images held out."""
    x, _, held, _ = digits()
    return Task(
        "autoencoder",
        "Autoencoder of digits through eight numbers",
        _network,
        shuffled(64, x),
        lambda model, batch: mse_loss(model(batch[0]), batch[0]),
        lambda model: float(mse_loss(model(held), held)),
        measure="validation squared error per pixel",
        steps=400,
        every=10,
    )
