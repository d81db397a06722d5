"""Descent on a quadratic with noise of constant variance on every gradient: floors, and the steps to reach them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.optim import SGD

from steepest.studies import quadratics
from steepest.studies.quadratics import Array, Tuning
from steepest.studies.study import Progress

# Momenta that heavy ball may choose from for a given floor.
_MOMENTA = (0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
# Floors asked for, as parts of that of gradient descent at rate 1.
_SHARES = (1.0, 0.1, 0.01)


@dataclass(frozen=True)
class Noisy:
    """The quadratic in its own basis, and how long it is looked at.

    Args:
        kappa: condition number; the largest curvature is 1.
        dimension: curvatures are spaced geometrically.
        copies: independent runs per seed.
        averaged: steps over which floors are averaged.
    """

    kappa: float
    dimension: int
    copies: int
    averaged: int

    @property
    def curvatures(self) -> Array:
        """From ``1 / kappa`` to 1."""
        return np.geomspace(1.0 / self.kappa, 1.0, self.dimension)

    @property
    def start(self) -> Array:
        """Each coordinate begins with a loss of 50, a hundred times what a variance of 1 means at curvature 1."""
        return 10.0 / np.sqrt(self.curvatures)


@dataclass(frozen=True)
class Floors:
    """What was measured, per method a number per seed.

    Args:
        exact: stationary expected losses.
        measured: the same, measured.
        steps: until the mean loss is twice the floor.
        races: per floor asked for, steps of gradient descent and of heavy ball at the tuning that reaches it soonest.
        at: steps at which ``curves`` were taken.
        curves: mean losses, per seed a line.
    """

    exact: dict[str, float]
    measured: dict[str, list[float]]
    steps: dict[str, list[float]]
    races: dict[float, tuple[list[float], list[float]]]
    at: list[int]
    curves: dict[str, list[list[float]]]


def floors(problem: Noisy, seeds: Sequence[int], progress: Progress) -> Floors:
    """Everything with noise of variance 1 in each coordinate."""
    h, kappa = problem.curvatures, problem.kappa
    tunings = {
        "gradient descent": Tuning(1.0),
        "heavy ball": quadratics.heavy_ball(1.0, 1.0 / kappa),
        "Nesterov": quadratics.nesterov(1.0, 1.0 / kappa),
        "gradient descent, slow": Tuning(0.05),
        "heavy ball, 0.9": Tuning(0.005, 0.9),
    }
    at = sorted({round(t) for t in np.geomspace(1, problem.averaged, 60)})
    measured, steps, curves = {}, {}, {}
    for k, (name, tuning) in enumerate(tunings.items()):
        progress(f"noisy gradients, {name}", 0.5 + 0.3 * k / len(tunings))
        # Ten relaxation times pass before the average begins.
        burn = round(10 / (1.0 - tuning.radius(h)))
        paths = _paths(problem, tuning, seeds, burn + problem.averaged)
        measured[name] = paths[:, burn:].mean(1).tolist()
        steps[name] = [_first(path, 2.0 * tuning.floor(h)) for path in paths]
        if not name.endswith(("slow", "0.9")):
            curves[name] = [[float(path[t - 1]) for t in at] for path in paths]
    races = {}
    for k, share in enumerate(_SHARES):
        progress(f"noisy gradients, a floor of {share:g}", 0.8 + 0.2 * k / len(_SHARES))
        floor = share * Tuning(1.0).floor(h)
        plain = _reaching(floor, 0.0, h)
        ball = min((_reaching(floor, b, h) for b in _MOMENTA), key=lambda t: _expected(problem, t, floor))
        races[floor] = tuple(
            [_first(p, 2.0 * floor) for p in _paths(problem, t, seeds, round(1.5 * _expected(problem, t, floor)) + 10)]
            for t in (plain, ball)
        )
    return Floors({n: t.floor(h) for n, t in tunings.items()}, measured, steps, races, at, curves)


def _paths(problem: Noisy, tuning: Tuning, seeds: Sequence[int], steps: int) -> Array:
    """``[seeds, steps]``, the loss averaged over the copies after each step of torch's SGD."""
    h = torch.from_numpy(problem.curvatures)
    x = torch.nn.Parameter(torch.from_numpy(problem.start).repeat(len(seeds), problem.copies, 1))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.empty_like(x.detach())
    optimizer = SGD([x], tuning.rate, tuning.momentum, nesterov=tuning.nesterov)
    losses = torch.empty(len(seeds), steps, dtype=torch.float64)
    with torch.no_grad():
        for t in range(steps):
            for part, generator in zip(noise, generators, strict=True):
                part.normal_(generator=generator)
            x.grad = noise.addcmul_(h, x)
            optimizer.step()
            losses[:, t] = (x.square() @ h).mean(1)
    return 0.5 * losses.numpy()


def _reaching(floor: float, momentum: float, h: Array) -> Tuning:
    """The largest rate at which the floor is not exceeded."""
    low, high = 0.0, 1.0 if momentum == 0.0 else 2.0 + 2.0 * momentum
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if Tuning(middle, momentum).floor(h) <= floor * (1.0 + 1e-9) else (low, middle)
    return Tuning(low, momentum)


def _expected(problem: Noisy, tuning: Tuning, floor: float) -> float:
    """Steps after which the expected loss is twice the floor, within 1 %."""
    at = np.unique(np.geomspace(1, 100.0 * problem.kappa / floor + 100.0, 1500).astype(int))
    losses = tuning.expected_losses(problem.curvatures, problem.start, 1.0, at)
    reached = np.flatnonzero(losses <= 2.0 * floor)
    return float(at[reached[0]]) if len(reached) else float(at[-1])


def _first(path: Array, level: float) -> float:
    """The first step after which the loss is at most that; one more than there are where none is."""
    reached = np.flatnonzero(path <= level)
    return float(reached[0] + 1 if len(reached) else len(path) + 1)
