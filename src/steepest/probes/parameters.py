"""Which parameters learn? Ownership, initial values, gradients and movement, one record a parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from steepest.probes.events import Backward, Forward, Step
from steepest.probes.probe import Probe
from steepest.probes.tape import read
from steepest.results.measured import Measured

LARGEST = 50_000_000
"""No copy of the initial values is kept of a parameter with more entries than this."""


@dataclass(frozen=True)
class Parameter(Measured):
    """One parameter tensor.

    Args:
        name, shape, layer: its qualified name, its shape, the class of its module.
        registered: whether a model or an optimizer knows it; owned: whether an optimizer does.
        trainable: its ``requires_grad`` at the end; reached: whether the graph of a loss led to it.
        fan_in: entries that one output sums over.
        init_mean, init_std: of its initial entries; twins, twins_end: share of rows that equal another row of it, at the start and
            at the end.
        gradient: median norm of its gradient where it was seen; NaN where it never had one.
        update: median |change in one step| / |value|.
        moved: |end - start| / max(|start|, |end|).
        size: number of entries.
    """

    name: str
    shape: tuple[int, ...]
    layer: str
    registered: bool
    owned: bool
    trainable: bool
    reached: bool
    fan_in: int
    init_mean: float
    init_std: float
    twins: float
    twins_end: float
    gradient: float
    update: float
    moved: float
    size: int

    @property
    def weight(self) -> bool:
        """Whether it multiplies inputs (two axes or more)."""
        return len(self.shape) >= 2


@dataclass(frozen=True)
class Parameters(Measured):
    """All parameters in the order of their models; looks: in how many steps their gradients were looked at."""

    parameters: tuple[Parameter, ...]
    looks: int


@dataclass
class _Seen:
    tensor: Tensor
    name: str
    layer: str
    registered: bool
    start: Tensor | None
    facts: tuple[float, float, float]
    reached: bool = False
    owned: bool = False
    gradients: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)


class ParameterProbe(Probe):
    """A copy of the initial values; in every sampled step a copy of all parameters and three norms of each."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.seen: dict[int, _Seen] = {}
        self.models: set[int] = set()
        self.before: dict[int, Tensor] = {}
        self.looks = 0

    def on_forward(self, event: Forward) -> None:
        """The parameters of a model at its first call."""
        if id(event.module) in self.models:
            return
        self.models.add(id(event.module))
        for module in event.module.modules():
            for parameter in module.parameters(recurse=False):
                self._meet(parameter, self.run.parameter_name(parameter), type(module).__name__, True)

    def before_backward(self, event: Backward) -> None:
        """Which leaves the loss reaches, those of no model among them."""
        if not event.sampled:
            return
        tape = read(event.loss.grad_fn)
        for leaf, _ in () if tape is None else tape.parameters:
            if id(leaf) not in self.seen and leaf.ndim >= 1 and isinstance(leaf, nn.Parameter):
                self._meet(leaf, self.run.parameter_name(leaf), "", False)
            if id(leaf) in self.seen:
                self.seen[id(leaf)].reached = True

    def before_step(self, event: Step) -> None:
        """Gradients as they will be used."""
        for p in event.parameters if not event.own_step else ():
            self._meet(p, self.run.parameter_name(p), "", True)
            self._own(p)
        if not event.sampled:
            return
        self.looks += 1
        for p in event.parameters:
            self._own(p)
            if p.grad is not None and id(p) in self.seen:
                self.seen[id(p)].gradients.append(float(_dense(p.grad).norm()))
                self.before[id(p)] = p.detach().clone()

    def after_step(self, event: Step) -> None:
        """How far each moved."""
        for p in event.parameters if self.before else ():
            old = self.before.get(id(p))
            if old is not None and id(p) in self.seen:
                norm = float(old.norm())
                if norm > 0:
                    self.seen[id(p)].updates.append(float((p.detach() - old).norm()) / norm)
        self.before = {}

    def finish(self) -> Parameters | None:
        """One record a parameter."""
        if not self.seen:
            return None
        return Parameters(tuple(_record(s) for s in self.seen.values()), self.looks)

    def _own(self, p: Tensor) -> None:
        if id(p) in self.seen:
            self.seen[id(p)].owned = self.seen[id(p)].registered = True

    def _meet(self, p: Tensor, name: str, layer: str, registered: bool) -> None:
        if id(p) in self.seen or not p.is_floating_point():
            return
        start = p.detach().clone() if p.numel() <= LARGEST else None
        facts = (float(p.detach().mean()), float(p.detach().std(correction=0)), _twins(p)) if p.numel() else (0.0, 0.0, 0.0)
        self.seen[id(p)] = _Seen(p, name, layer, registered, start, facts)


def _record(s: _Seen) -> Parameter:
    p = s.tensor.detach()
    fan_in = max(1, p.numel() // p.shape[0]) if p.ndim >= 2 else 1
    moved = math.nan
    if s.start is not None and s.start.shape == p.shape:
        scale = max(float(s.start.norm()), float(p.norm()))
        moved = float((p - s.start).norm()) / scale if scale > 0 else 0.0
    return Parameter(
        s.name,
        tuple(p.shape),
        s.layer,
        s.registered,
        s.owned,
        s.tensor.requires_grad,
        s.reached,
        fan_in,
        s.facts[0],
        s.facts[1],
        s.facts[2],
        _twins(p),
        _middle(s.gradients),
        _middle(s.updates),
        moved,
        p.numel(),
    )


def _middle(values: list[float]) -> float:
    return median(values) if values else math.nan


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _twins(p: Any) -> float:
    """Share of rows (units) of a matrix or kernel that are equal to the first row with the same sum, to rounding."""
    if p.ndim < 2 or p.shape[0] < 2 or p.shape[0] > 4096:
        return 0.0
    rows = p.detach().flatten(1)
    ramp = torch.cos(torch.arange(rows.shape[1], dtype=rows.dtype, device=rows.device))
    marks = rows @ ramp
    scale = float(rows.abs().sum(1).max())
    ordered = marks.sort().values
    return float(((ordered[1:] - ordered[:-1]).abs() <= 1e-6 * scale).float().mean())
