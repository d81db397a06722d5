"""The edge of stability: how far the curvature is from what a method's step sizes bear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop


class Stability(StrEnum):
    """What the curvature and the loss say together."""

    STABLE = "the curvature is below what the step size bears"
    AT_EDGE = "the curvature is at what the step size bears, and the loss does not grow: normal for large steps"
    UNSTABLE = "the curvature is beyond what the step size bears and the loss grows: lower the step size"


@dataclass(frozen=True)
class Edge:
    """A method on a quadratic ``h x^2 / 2``: it diverges where ``h`` is above ``threshold / rate`` (with P = 1).

    Args:
        threshold: in units of one over the rate.
        shift: what decay adds to every eigenvalue of the Hessian.
    """

    threshold: float
    shift: float = 0.0


def gradient_descent() -> float:
    """``rate times sharpness`` at which gradient descent turns unstable: 2 (Cohen et al. 2021, section 2)."""
    return 2.0


def heavy_ball(momentum: float) -> float:
    """``2 + 2 b`` for ``m = b m + g, w -= rate m`` (Cohen et al. 2021, appendix B)."""
    return 2.0 + 2.0 * momentum


def nesterov(momentum: float) -> float:
    """``(2 + 2 b) / (1 + 2 b)`` (Cohen et al. 2021, appendix B)."""
    return (2.0 + 2.0 * momentum) / (1.0 + 2.0 * momentum)


def averaged_momentum(momentum: float) -> float:
    """``(2 + 2 b) / (1 - b)`` for ``m = b m + (1 - b) g, w -= rate P^-1 m``, of ``P^-1 H``; 38 for b = 0.9 (Cohen et al. 2022)."""
    return (2.0 + 2.0 * momentum) / (1.0 - momentum)


def step_scale(optimizer: Optimizer, parameters: Sequence[Tensor]) -> tuple[Tensor, float] | None:
    """What makes the Hessian of the loss comparable with 1: a vector s, flat, and a shift.

    The method is at its edge where the largest eigenvalue of ``diag(s) H diag(s)``, plus the shift, is 1: ``s^2 = rate / (threshold P)``
    per coordinate, with the preconditioner P as its next step will use it, each parameter with the rate and momentum of its own group.
    Parameters that are in no group do not move and have s = 0.

    Known: SGD (momentum, Nesterov, decay), Adam, AdamW (AMSGrad too), RMSprop (centred, momentum), Adagrad. None for other methods, and
    while a preconditioner has no state yet. Coupled weight decay of a preconditioned method enters as its largest share over coordinates.
    """
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    parts, shift = [], 0.0
    for p in parameters:
        group = groups.get(id(p))
        if group is None:
            parts.append(torch.zeros_like(p).flatten())
            continue
        edge = _edge(optimizer, group)
        conditioner = _preconditioner(optimizer, group, p)
        if edge is None or conditioner is None:
            return None
        square = float(group["lr"]) / (edge.threshold * conditioner)
        shift = max(shift, edge.shift * float(square.max()))
        parts.append(square.sqrt().expand_as(p).flatten())
    return torch.cat(parts).detach(), shift


def judge(ratio: float, losses: Sequence[float], margin: float = 0.05) -> Stability:
    """What a ratio of sharpness to threshold means: at the edge is normal, the alarm is the edge plus a growing loss.

    Args:
        ratio: largest eigenvalue in units of the edge.
        losses: recent ones, oldest first; they grow where the median of the later half is above that of the earlier half and above
            all but a tenth of it.
        margin: how far below 1 still counts as the edge.

    Source: Cohen et al. 2021 (training goes on at the edge, non-monotonically, and the loss falls over long spans).
    """
    if not ratio >= 1.0 - margin:
        return Stability.STABLE
    half = len(losses) // 2
    early, late = torch.tensor(losses[:half], dtype=torch.float64), torch.tensor(losses[half:], dtype=torch.float64)
    grows = half > 0 and not bool(late.median() <= early.quantile(0.9))
    return Stability.UNSTABLE if grows else Stability.AT_EDGE


def _edge(optimizer: Optimizer, group: Mapping[str, Any]) -> Edge | None:
    decay = float(group.get("weight_decay", 0.0))
    if isinstance(optimizer, SGD):
        momentum = float(group["momentum"])
        if group["nesterov"]:
            return Edge(nesterov(momentum), decay)
        return Edge(heavy_ball(momentum) / (1.0 - float(group["dampening"]) * (momentum > 0)), decay)
    if isinstance(optimizer, Adam):
        threshold = averaged_momentum(float(group["betas"][0]))
        if isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay"):
            # w -= rate decay w first: on a quadratic -1 is a root where h / P = (2 - rate decay) (1 + b) / ((1 - b) rate).
            return Edge(threshold * (1.0 - 0.5 * float(group["lr"]) * decay))
        return Edge(threshold, decay)
    if isinstance(optimizer, RMSprop):
        return Edge(heavy_ball(float(group["momentum"])), decay)
    if isinstance(optimizer, Adagrad):
        return Edge(gradient_descent(), decay)
    return None


def _preconditioner(optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor) -> Tensor | None:
    """P by coordinate, from the state that the last step left."""
    state = optimizer.state.get(parameter, {})
    if isinstance(optimizer, SGD):
        return torch.ones((), dtype=parameter.dtype, device=parameter.device)
    if isinstance(optimizer, Adam):
        square = state.get("max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
        if square is None:
            return None
        first, second = (float(b) for b in group["betas"])
        step = float(state["step"])
        return (1.0 - first**step) * ((square / (1.0 - second**step)).sqrt() + group["eps"])
    if isinstance(optimizer, RMSprop):
        square = state.get("square_avg")
        if square is None:
            return None
        if group["centered"]:
            square = (square - state["grad_avg"].square()).clamp(min=0.0)
        return square.sqrt() + group["eps"]
    square, step = state.get("sum"), float(state.get("step", 0.0))
    if square is None or not step:
        return None
    return (1.0 + step * group["lr_decay"]) * (square.sqrt() + group["eps"])
