"""Adam on the multipliers of covariance propagation: every iterate is feasible, the best is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.bounds.lipsdp.propagation import Infeasible, OutOfTime
from steepest.bounds.lipsdp.starts import HasStages, Start, even
from steepest.numerics.deadline import Deadline

RATE = 0.1
"""Of the logarithms of the multipliers."""

PATIENCE = 10.0
"""Seconds by which a method may at all events overrun its time to prove what it has found."""

LOSS = 1.2
"""A step that leaves rho this much above the best is taken back."""


class Propagates(Protocol):
    """Covariance propagation in any form: rho from multipliers, and its gradient."""

    @property
    def system(self) -> HasStages:
        """The network."""
        ...

    def run(
        self, log_d: Sequence[Tensor], ratios: Sequence[float] | None, deadline: Deadline | None = None, trace: bool = True
    ) -> tuple[Tensor, list[Tensor], list[Any]]:
        """The output's covariance, D of every stage, and what ``gradient`` needs."""
        ...

    def gradient(self, records: list[Any], directions: Tensor, weights: Tensor) -> tuple[list[Tensor], list[float]]:
        """By log_d and by the ratios."""
        ...


def minimise(
    propagation: Propagates,
    deadline: Deadline,
    seen: Callable[[float], None],
    rate: float = RATE,
    steps: int = 2000,
    reserve: float = 0.0,
    enough: float = math.inf,
    start: Start | None = None,
    overrun: float = 1.5,
) -> list[Tensor] | None:
    """Multipliers ``1 / D`` with a small rho, up to a common factor.

    What is minimised is ``log`` of a p-norm of the output covariance's eigenvalues, p growing from 20 to 200 as the rate falls by a
    cosine; where a step fails or loses too much, it starts again from the best with half the rate.

    Args:
        propagation: of the network.
        deadline: when to return; the first pass alone may be too long for it.
        seen: called with rho whenever it improves.
        rate: Adam's, on ``log D``.
        steps: at most.
        reserve: how many times as long as a pass what comes after takes; that is left free before the deadline.
        enough: seconds after which to stop, though never before the first pass is through.
        overrun: what comes after may take as many times the time left, or else nothing is returned.
        start: where to begin; by default D alike within a stage.

    Returns:
        D of every stage, float64, or None where not even the first pass came to its end, or what comes after would take far too long.
    """
    start = start or even(propagation.system)
    logs = [x.double().clone() for x in start.logs]
    # The inverse of softplus, with which ratios stay positive.
    ratios = [torch.full((), r + math.log(-math.expm1(-r)), dtype=torch.float64) for r in start.ratios]
    state = [*logs, *ratios]
    first, second = [torch.zeros_like(x) for x in state], [torch.zeros_like(x) for x in state]
    opened, count, since = time.perf_counter(), 0, 0
    best, found, kept = math.inf, None, [x.clone() for x in state]
    slowest, until = 0.0, min(deadline.at, opened + enough)
    while count < steps and rate > 1e-4:
        begun = time.perf_counter()
        part = min(1.0, max(count / steps, (begun - opened) / max(1e-9, until - opened)))
        try:
            out, d, records = propagation.run(logs, [F.softplus(r).item() for r in ratios], deadline)
        except OutOfTime:
            break
        except Infeasible:
            out, d, records = torch.full((1, 1), math.inf), [], []
        values, vectors = torch.linalg.eigh(out) if torch.isfinite(out).all() else (torch.full((1,), math.inf), out)
        rho = values[-1].item()
        if rho < best:
            best, found, kept = rho, [x.double().clone() for x in d], [x.clone() for x in state]
            seen(rho)
        count += 1
        if not rho < LOSS * best:
            if found is None:
                return None
            for x, y, m, v in zip(state, kept, first, second, strict=True):
                x.copy_(y)
                m.zero_()
                v.zero_()
            rate, since = 0.5 * rate, 0
            continue
        slowest = max(slowest, time.perf_counter() - begun)
        until = min(deadline.at - reserve * slowest, opened + enough)
        if count == 1 and not deadline.asked and reserve * slowest > overrun * deadline.left() + PATIENCE:
            return None
        if deadline.passed() or time.perf_counter() + slowest > until:
            break
        power = 20.0 * 10.0**part
        level = (values / rho).clamp(min=0.0)
        weights = level ** (power - 1) / (level**power).sum() / rho
        keep = weights * rho > 1e-6
        by_log, by_ratio = propagation.gradient(records, vectors[:, keep].mT, weights[keep])
        del records
        since += 1
        grads = [*by_log, *(torch.sigmoid(r) * g for r, g in zip(ratios, by_ratio, strict=True))]
        step = rate * (0.02 + 0.49 * (1 + math.cos(math.pi * part)))
        for x, g, m, v in zip(state, grads, first, second, strict=True):
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.99).addcmul_(g, g, value=0.01)
            x.sub_(step * (m / (1 - 0.9**since)) / ((v / (1 - 0.99**since)).sqrt() + 1e-12))
        for log in logs:
            log.sub_(log.mean())
    return found
