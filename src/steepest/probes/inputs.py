"""On what scale are the inputs, and do their features agree in it?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.probes.events import Forward
from steepest.probes.probe import Probe
from steepest.results.measured import Measured


@dataclass(frozen=True)
class Inputs(Measured):
    """The first floating-point input of the model that is called first, in training.

    Args:
        tokens: whether the first input is whole numbers (indices), and nothing below is known.
        features: entries of one row that are told apart (columns, or channels); rows: samples looked at.
        rms, low, high: over all entries.
        std_low, std_middle, std_high: least (above zero), median and largest standard deviation of a feature.
        offset: largest |mean| / standard deviation of a feature with one.
        constant: share of features that never change.
        condition: largest / median eigenvalue-free conditioning: (largest mean square of a feature) / (median variance of a feature).
    """

    tokens: bool
    features: int
    rows: int
    rms: float
    low: float
    high: float
    std_low: float
    std_middle: float
    std_high: float
    offset: float
    constant: float
    condition: float


class InputProbe(Probe):
    """Sums and sums of squares over the inputs in sampled windows."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.model: int | None = None
        self.tokens = False
        self.n = 0
        self.rows = 0
        self.sums: Tensor | None = None
        self.squares: Tensor | None = None
        self.low, self.high = math.inf, -math.inf

    def on_forward(self, event: Forward) -> None:
        """One batch."""
        if not event.grad or not event.sampled or not event.inputs:
            return
        self.model = id(event.module) if self.model is None else self.model
        x = event.inputs[0]
        if self.model != id(event.module) or x.ndim < 1:
            return
        if not x.is_floating_point():
            self.tokens = True
            return
        # Images share a scale within a channel, sequences within a feature.
        axis = 1 if x.ndim >= 4 else x.ndim - 1
        flat = (x[:, None] if x.ndim == 1 else x.detach()).movedim(axis if x.ndim > 1 else 1, -1)
        flat = flat.reshape(-1, flat.shape[-1]).double()
        if not bool(torch.isfinite(flat).all()) or (self.sums is not None and self.sums.shape[0] != flat.shape[1]):
            return
        self.sums = flat.sum(0) + (0 if self.sums is None else self.sums)
        self.squares = flat.square().sum(0) + (0 if self.squares is None else self.squares)
        self.n += len(flat)
        self.rows += len(x)
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))

    def finish(self) -> Inputs | None:
        """The moments."""
        nan = math.nan
        if self.sums is None or self.squares is None:
            return Inputs(True, 0, 0, nan, nan, nan, nan, nan, nan, nan, 0.0, nan) if self.tokens else None
        mean, square = self.sums / self.n, self.squares / self.n
        std = (square - mean.square()).clamp(min=0).sqrt()
        varies = std > 1e-6 * square.sqrt().max()
        kept = std[varies]
        if not len(kept):
            return Inputs(False, len(std), self.rows, float(square.mean().sqrt()), self.low, self.high, 0.0, 0.0, 0.0, nan, 1.0, nan)
        middle = float(kept.median())
        return Inputs(
            False,
            len(std),
            self.rows,
            float(square.mean().sqrt()),
            self.low,
            self.high,
            float(kept.min()),
            middle,
            float(kept.max()),
            float((mean.abs()[varies] / kept).max()),
            1 - float(varies.float().mean()),
            float(square.max()) / middle**2,
        )
