"""Tasks made for the tests."""

import time

import torch
from torch import nn

from steepest.race import Task, full_batch, shuffled

SEEN: list = []


class Slope(nn.Module):
    """A random point that slides to zero."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.randn(3, dtype=torch.float64))


def tiny(wait=0.0, **changes):
    """|x|^2 / 2 with a little noise from the batch."""
    rows = torch.linspace(-0.1, 0.1, 24, dtype=torch.float64).reshape(8, 3)

    def loss(model, batch):
        if wait:
            time.sleep(wait)
        SEEN.append((model.x.detach().clone(), batch[0].clone()))
        return (model.x - batch[0].mean(0)).square().sum() / 2

    options = {
        "name": "tiny",
        "title": "A tiny bowl",
        "model": Slope,
        "batches": shuffled(2, rows),
        "loss": loss,
        "evaluate": lambda model: float(model.x.square().sum() / 2),
        "measure": "height",
        "steps": 10,
        "every": 2,
    }
    return Task(**{**options, **changes})


def slow():
    """Two hundredths of a second for each gradient."""
    return tiny(0.02, name="slow")


def broken():
    """Not a number from the start."""
    return tiny(name="broken", loss=lambda model, batch: (model.x - float("nan")).sum())


def crashes():
    """Raises in the first loss."""

    def loss(model, batch):
        raise RuntimeError("no such table")

    return tiny(name="crashes", loss=loss)


def vector():
    """A loss for each sample."""
    return tiny(name="vector", loss=lambda model, batch: model.x.square())


def not_a_task():
    """Something else."""
    return 3


def empty():
    """No batches at all."""
    return tiny(name="bowl", batches=full_batch(), loss=lambda model, batch: model.x.square().sum() / 2)
