"""Logistic regression with decay: strongly convex, its optimum known."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steepest.race.data import digits
from steepest.race.task import Task, shuffled

DECAY = 1e-3


def objective(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy plus ``DECAY / 2`` times the squared norm of all parameters."""
    return cross_entropy(model(x), y) + DECAY / 2 * sum(p.square().sum() for p in model.parameters())


@lru_cache(maxsize=1)
def optimum() -> tuple[float, float]:
    """The least value of the objective on all training images, in float64, and how far below it the true one may lie.

    By L-BFGS; the objective is ``DECAY``-strongly convex, so f - f* <= |grad f|^2 / (2 DECAY).
    """
    x, y, _, _ = digits()
    x = x.double()
    model = nn.Linear(64, 10, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=2000,
        max_eval=4000,
        tolerance_grad=1e-11,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(model, x, y)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
        value = float(closure().detach())
    slack = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) / (2 * DECAY)
    return value, slack


def task() -> Task:
    """Ten classes of digits, float64, batches of 64; judged by how far the objective on all training images is above its optimum."""
    x, y, held, labels = digits()
    x, held = x.double(), held.double()
    least, _ = optimum()
    return Task(
        "logistic",
        "Logistic regression on digits, with decay",
        lambda: nn.Linear(64, 10, dtype=torch.float64),
        shuffled(64, x, y),
        lambda model, batch: objective(model, *batch),
        lambda model: float(objective(model, x, y)) - least,
        measure="objective above its optimum",
        steps=300,
        every=10,
        score=lambda model: float((model(held).argmax(1) == labels).to(torch.float64).mean()),
        score_name="validation accuracy",
    )
