"""Pairs of gradients of successive steps: the Polyak-Lojasiewicz constant, the noise of the gradient, and how it depends on the place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steepest.measures.noise_scale import NoiseScale, from_pairs
from steepest.monitors.abc_variance import ABCReport, ABCVariance
from steepest.monitors.polyak_lojasiewicz import PLReport, PolyakLojasiewicz
from steepest.monitors.sketch import Sketch, gather
from steepest.monitors.windows import Sampling
from steepest.probes.events import Forward, Step
from steepest.probes.probe import Probe
from steepest.results.convergence import number

PAIRS = 16
"""Pairs of steps in a point of the path."""

FEWEST = 3 * PAIRS
KNOWN = 2.0
"""Standard errors by which a squared gradient must stand out from zero to be a point of the path."""


@dataclass(frozen=True)
class GradientPathReport:
    """One optimizer's gradients along its path.

    Args:
        optimizer: its index; batch: samples behind a gradient, 0 where unknown.
        pairs: of successive steps that were compared.
        repeated: whether every step saw the same batch, so that the gradient has no noise.
        loss, squared_gradient: means over the last pairs, the latter as large as its standard error allows it to be known; may be negative.
        squared_error: its standard error.
        path: the Polyak-Lojasiewicz constant, with f* taken as 0; None where a loss was negative.
        lost_from: the step from which the gradient is lost in its noise, so that the path ends there; None where it is not.
        variance: the fit of the noise; None as for ``path`` and where there is no noise.
        noise: the simple noise scale over the second half of the pairs; None where there is no noise or the batch size is not known.
        sketch: part of the coordinates that was looked at; squares are scaled by its inverse.
    """

    optimizer: int
    batch: int
    pairs: int
    repeated: bool
    loss: float
    squared_gradient: float
    squared_error: float
    path: PLReport | None
    lost_from: int | None
    variance: ABCReport | None
    noise: NoiseScale | None
    sketch: float

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {k: v.to_json() if hasattr(v, "to_json") else number(v) for k, v in vars(self).items()}


@dataclass(frozen=True)
class GradientPathRecord:
    """A report for each optimizer with enough pairs, in the order in which they first stepped."""

    reports: tuple[GradientPathReport, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"reports": [r.to_json() for r in self.reports]}


@dataclass
class _Seen:
    sketch: Sketch
    batch: int = 0
    last: tuple[int, Tensor, Tensor] | None = None
    rows: list[tuple[int, float]] = field(default_factory=list)
    moments: list[Tensor] = field(default_factory=list)


class GradientPathProbe(Probe):
    """``E|g|^2`` and ``|grad f|^2`` from the gradients g, g' of two successive steps, as the optimizer uses them.

    Between two steps x hardly moves, and batches are independent, so that ``<g, g'>`` estimates ``|grad f|^2`` without the noise, and
    ``|g - g'|^2 / 2`` the trace of the noise's covariance (McCandlish et al. 2018, appendix A.1, with a batch for each of the two
    sizes). Where every step sees the same batch there is no noise, and ``|g|^2`` is taken instead, which steps at the edge of
    stability, whose gradients change sign, would make wrong otherwise. Means over some pairs are the points of the path.

    Cost: a gather per tensor in all of the first ``dense`` steps and about ``2 dense`` a doubling after them. More than ``coordinates``
    parameters are sampled.
    """

    def __init__(self, coordinates: int = 4096, dense: int = 64) -> None:
        self.coordinates, self.sampling = coordinates, Sampling(dense)
        self.seen: dict[int, _Seen] = {}
        self.marks: list[tuple[float, ...]] = []
        self.repeated = True

    def on_forward(self, event: Forward) -> None:
        """Is it the same batch again?"""
        if not (event.sampled and event.grad and event.training and self.repeated) or len(self.marks) >= 2 * FEWEST:
            return
        first = next((t for t in event.inputs if t.numel()), None)
        if first is not None:
            flat = first.detach().reshape(-1)
            # An odd stride, so that rows of an even length are not met in the same columns, which may be empty.
            some = flat[:: flat.numel() // 1024 | 1].double()
            mark = (float(len(flat)), *torch.stack([some.sum(), some.square().sum()]).tolist())
            self.repeated = not self.marks or mark == self.marks[-1]
            self.marks.append(mark)

    def before_step(self, event: Step) -> None:
        """The gradient as it will be used, and the one before."""
        if event.optimizer is None:
            return
        step = event.own_step + 1
        if not (self.sampling.takes(step) or self.sampling.takes(step + 1)):
            return
        if event.index not in self.seen:
            groups = [[p for p in g["params"] if p.requires_grad] for g in event.optimizer.param_groups]
            self.seen[event.index] = _Seen(Sketch.of(groups, self.coordinates))
        seen = self.seen[event.index]
        shares = [s for group in seen.sketch.shares for s in group]
        if not shares or not event.losses:
            seen.last = None
            return
        g = gather(shares, lambda p: p.grad.to_dense() if p.grad is not None and p.grad.is_sparse else p.grad)
        # A fused method divides by the scale of a GradScaler as it steps.
        scale = getattr(event.optimizer, "grad_scale", None)
        g = g if scale is None else g / float(scale)
        square = g @ g
        if seen.last is not None and seen.last[0] == step - 1:
            seen.rows.append((step, sum(event.losses) / len(event.losses)))
            seen.moments.append(torch.stack([g @ seen.last[1], 0.5 * (square + seen.last[2]), square]))
        seen.last = (step, g, square)
        seen.batch = max(seen.batch, self.run.losses[-1].weight * max(event.backwards, 1))

    def finish(self) -> GradientPathRecord | None:
        """What the pairs say."""
        repeated = self.repeated and len(self.marks) > 1
        reports = [_report(k, s, repeated) for k, s in sorted(self.seen.items()) if len(s.rows) >= FEWEST]
        found = tuple(r for r in reports if r is not None)
        return GradientPathRecord(found) if found else None


def _report(index: int, seen: _Seen, repeated: bool) -> GradientPathReport | None:
    moments = torch.stack(seen.moments).cpu() * seen.sketch.scale
    losses = torch.tensor([loss for _, loss in seen.rows], dtype=torch.float64)
    good = torch.isfinite(moments).all(1) & torch.isfinite(losses)
    steps = [step for (step, _), fine in zip(seen.rows, good.tolist(), strict=True) if fine]
    products, squares, losses = moments[good, 0], moments[good, 1], losses[good]
    if len(losses) < FEWEST:
        return None
    known, path, lost = bool((losses >= 0).all()), None, None
    if repeated:
        products = moments[good, 2]
    if known:
        path, lost = _path(steps, losses, products, 1 if repeated else PAIRS)
    late = slice(len(losses) // 2, None)
    noise = None
    if not repeated and seen.batch:
        noise = from_pairs(products[late], 2.0 * (squares - products)[late], seen.batch)
    last = products[-2 * PAIRS :]
    return GradientPathReport(
        index,
        seen.batch,
        len(losses),
        repeated,
        float(losses[-2 * PAIRS :].mean()),
        float(last.mean()),
        float(last.std()) / math.sqrt(len(last)),
        path,
        lost,
        _variance(losses, products, squares) if known and not repeated else None,
        noise,
        1.0 / seen.sketch.scale,
    )


def _path(steps: Sequence[int], losses: Tensor, products: Tensor, fewest: int) -> tuple[PLReport, int | None]:
    """Points of as few pairs as make the squared gradient stand out from its noise; what is left at the end is lost in it."""
    monitor, start = PolyakLojasiewicz(), 0
    for end in range(fewest, len(losses) + 1):
        part = products[start:end]
        error = float(part.std()) / math.sqrt(len(part)) if len(part) > 1 else 0.0
        if end - start >= fewest and float(part.mean()) > KNOWN * error:
            monitor.record(float(losses[start:end].mean()), float(part.mean()))
            start = end
    return monitor.report(), steps[start] if len(losses) - start >= 2 * PAIRS else None


def _variance(losses: Tensor, products: Tensor, squares: Tensor) -> ABCReport:
    monitor = ABCVariance()
    for k in range(0, len(losses) - PAIRS + 1, PAIRS):
        part = slice(k, k + PAIRS)
        monitor.record(float(squares[part].mean()), float(products[part].mean()), float(losses[part].mean()))
    return monitor.report()
