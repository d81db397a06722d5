"""The nearest other answer in l2, as far as an attack finds it, and the norm of the Jacobian, for many small inputs at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Outputs = Callable[[Tensor], Tensor]
"""``[n, inputs]`` to ``[n, classes]``, differentiable."""


def jacobian(outputs: Outputs, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs ``[n, classes]`` and their derivatives ``[n, classes, inputs]``."""
    z = x.detach().requires_grad_()
    y = outputs(z)
    rows = [torch.autograd.grad(y[:, j].sum(), z, retain_graph=True)[0] for j in range(y.shape[1])]
    return y.detach(), torch.stack(rows, 1)


def nearest_boundary(outputs: Outputs, x: Tensor, steps: int = 30, rounds: int = 3) -> Tensor:
    """The least perturbations found that change the answer, ``[n, inputs]``; zero where none was found.

    DeepFool: the step to the nearest boundary of the linearised network, until the answer changes; then bisection on the way back. The next
    rounds start from a half of what was found, whose own linearisation is closer to that at the boundary.

    Args:
        outputs: the network.
        x: ``[n, inputs]``.
        steps: linearisations of each round.
        rounds: how often.

    Source: Moosavi-Dezfooli, Fawzi and Frossard 2016.
    """
    answer = outputs(x).detach().argmax(1, keepdim=True)
    best = torch.zeros_like(x)
    for _ in range(rounds):
        move = 0.5 * best
        for _ in range(steps):
            y, rows = jacobian(outputs, x + move)
            changed = y.argmax(1, keepdim=True) != answer
            if changed.all():
                break
            gaps = (y.gather(1, answer) - y).clamp(min=0.0)
            rows = rows.gather(1, answer[..., None].expand(-1, -1, x.shape[1])) - rows
            distance = (gaps / rows.norm(dim=2).clamp(min=1e-12)).scatter(1, answer, torch.inf)
            target = distance.argmin(1, keepdim=True)
            row = rows.gather(1, target[..., None].expand(-1, -1, x.shape[1]))[:, 0]
            step = -row / row.norm(dim=1, keepdim=True).clamp(min=1e-12) * (1.02 * distance.gather(1, target) + 1e-6)
            move = torch.where(changed, move, move + step)
        move = _back(outputs, x, answer, move)
        better = (move != 0).any(1) & ((move.norm(dim=1) < best.norm(dim=1)) | (best == 0).all(1))
        best = torch.where(better[:, None], move, best)
    return best


def _back(outputs: Outputs, x: Tensor, answer: Tensor, move: Tensor) -> Tensor:
    """The shortest part of each perturbation that changes the answer, zero where the whole does not."""
    with torch.no_grad():
        low, high = torch.zeros(len(x), 1, dtype=x.dtype), torch.ones(len(x), 1, dtype=x.dtype)
        for _ in range(20):
            middle = 0.5 * (low + high)
            changed = outputs(x + middle * move).argmax(1, keepdim=True) != answer
            low, high = torch.where(changed, low, middle), torch.where(changed, middle, high)
        return torch.where(outputs(x + high * move).argmax(1, keepdim=True) != answer, high * move, 0.0)
