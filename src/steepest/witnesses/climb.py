"""Ascent of ``log |J(x) v|_p`` in the points and in the directions at once, with gates that sharpen on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.witnesses.budget import Budget
from steepest.witnesses.chart import Chart
from steepest.witnesses.found import Found
from steepest.witnesses.landscape import Landscape, conjugate, dual, norms

LOOK_EVERY = 8
"""Steps between looks at the hard norm."""


@dataclass(frozen=True, eq=False)
class Climb:
    """Adam on ``log |J(x) v|_p`` with the hard gates of J softened to sigmoids that sharpen geometrically.

    The gradient in v that comes with the one in x is ``J' u`` for the u dual to ``J v``: one step of the power method
    for lp norms (Boyd 1974), so the direction follows the point at no cost of its own.

    Args:
        steps: how many; the gates sharpen sooner where time does not suffice for them.
        soft, sharp: sharpness of the gates from first to last, in units of the layer's root mean square.
        rate: of Adam, ``[count, 1]`` or one for all; falls to a twentieth with a half cosine.
    """

    steps: int
    soft: float
    sharp: float
    rate: Tensor | float

    def run(self, landscape: Landscape, chart: Chart, begin: Found, budget: Budget) -> Found:
        """The best hard norm that every start met, in the order of the starts."""
        p, free = landscape.p, landscape.free
        y, v, best = chart.origin(), begin.v, begin
        home, mean, power = y, torch.zeros_like(y), torch.zeros_like(y)
        count = torch.zeros(len(y), 1, dtype=y.dtype)
        tiny, whole, k = torch.finfo(y.dtype).tiny, budget.left(), 0
        while k < self.steps and not budget.passed():
            late = 0.0 if whole == math.inf else 1.0 - budget.left() / whole
            progress = min(1.0, max(k / self.steps, late))
            moving, turning = y.detach().requires_grad_(True), v.detach().requires_grad_(True)
            linear = landscape.at(chart.points(moving), self.soft * (self.sharp / self.soft) ** progress)
            stretch = norms(landscape.push(linear, turning), p)
            # Where the slope is the same everywhere (a linear or sorting network) there is nothing to climb.
            slope, pulled = torch.autograd.grad(torch.log(stretch.clamp(min=tiny)).sum(), (moving, turning), allow_unused=True)
            gradient = torch.zeros_like(y) if slope is None else slope
            assert pulled is not None
            lost = ~(torch.isfinite(gradient).all(-1, keepdim=True) & torch.isfinite(stretch)[:, None])
            # A start that left where the network is finite goes back to its best point and begins anew.
            count = torch.where(lost, 0.0, count + 1)
            mean = torch.where(lost, 0.0, 0.9 * mean + 0.1 * gradient)
            power = torch.where(lost, 0.0, 0.99 * power + 0.01 * gradient.square())
            step = (mean / (1 - 0.9**count + 1e-30)) / ((power / (1 - 0.99**count + 1e-30)).sqrt() + 1e-12)
            rate = self.rate * (0.05 + 0.475 * (1.0 + math.cos(math.pi * progress)))
            y = chart.settle(torch.where(lost, home, y + rate * step))
            turned = dual(torch.where(free, torch.nan_to_num(pulled, nan=0.0, posinf=0.0, neginf=0.0), 0.0), conjugate(p))
            dead = (turned == 0).all(-1, keepdim=True)
            v = torch.where(dead, v, turned)
            k += 1
            if k % LOOK_EVERY == 0 or k == self.steps:
                x = chart.points(y)
                value, direction = landscape.hard(x, v, 2)
                v = torch.where(dead, direction, v)
                home = torch.where((value > best.value)[:, None], y, home)
                best = best.improved(Found(x, direction, value))
        return best
