"""Do signals reach the loss, and gradients the first layer? Scale, flatness and death of activations, per layer and time step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from steepest.probes.events import Backward
from steepest.probes.probe import Probe
from steepest.probes.tape import ACTIVATIONS, BOUNDED, NORMALISATIONS, OTHER_NONLINEAR, RELU, SOFTMAX, WEIGHTED, Op, Tape, read, short_name
from steepest.results.measured import Measured

EARLY, LATE, MOST = 3, 4, 48
FLAT = 0.05
"""A bounded unit is flat where its slope is below this share of its largest slope."""


@dataclass(frozen=True)
class Activation(Measured):
    """One elementwise nonlinearity, in the order of the forward pass; medians over the windows at the start and at the end.

    Args:
        kind: ``Relu``, ``Tanh``, ...; level: weighted operations between it and the loss; units: channels or features.
        rms, rms_end: root mean square of its values.
        shared, shared_end: |mean over the batch|^2 / mean |value|^2: 1 where all samples look alike.
        flat, flat_end: share of entries whose slope is below 5 % of the largest (zero for a ReLU).
        dead, dead_end: share of units that gave no slope for any sample of any of these windows.
        gradient, gradient_end: root mean square of the loss gradient in it, times the length of the batch.
    """

    kind: str
    level: int
    units: int
    rms: float
    rms_end: float
    shared: float
    shared_end: float
    flat: float
    flat_end: float
    dead: float
    dead_end: float
    gradient: float
    gradient_end: float


@dataclass(frozen=True)
class Signals(Measured):
    """The network as the loss sees it.

    Args:
        depth, short_depth: weighted operations on the longest path, and on the shortest path to the same end (less: skips).
        recurrent: whether a weight is used at several time steps.
        normalisations: how many normalisation layers; nonlinear: how many nonlinear operations of any kind before the last weighted one.
        activations: before the last weighted operation; windows: how many passes were looked at.
        seen: the share of activations whose values autograd keeps.
        softmaxes: before the last weighted operation, where no product of activations makes attention of them.
    """

    depth: int
    short_depth: int
    recurrent: bool
    normalisations: int
    nonlinear: int
    activations: tuple[Activation, ...]
    windows: int
    seen: float
    softmaxes: int = 0


@dataclass
class _Window:
    rms: float
    shared: float
    flat: float
    alive: Tensor | None
    gradient: float = float("nan")


@dataclass
class _Group:
    early: list[list[_Window]] = field(default_factory=list)
    late: deque[list[_Window]] = field(default_factory=lambda: deque(maxlen=LATE))
    windows: int = 0
    facts: tuple[int, int, bool, int, int, int] = (0, 0, False, 0, 0, 0)
    shapes: list[tuple[str, int, int]] = field(default_factory=list)


class SignalProbe(Probe):
    """Reads the autograd graph of every sampled window: some microseconds a node and four reductions an activation."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.groups: dict[tuple[Any, ...], _Group] = {}

    def before_backward(self, event: Backward) -> None:
        """Values, and hooks for the gradients of this one graph."""
        if not event.sampled or event.number or not torch.isfinite(event.loss.detach()).all():
            return
        tape = read(event.loss.grad_fn)
        if tape is None or not tape.depth:
            return
        inner = [op for op in tape.activations if op.far >= 1]
        ops = inner if len(inner) <= MOST else [inner[i * (len(inner) - 1) // (MOST - 1)] for i in range(MOST)]
        key = (tape.depth, tuple(op.name for op in ops))
        group = self.groups.setdefault(key, _Group())
        if not group.facts[0]:
            group.facts = _facts(tape)
        row: list[_Window] = []
        shapes = []
        for op in ops:
            window, units = _look(op)
            row.append(window)
            shapes.append((op.name, op.far, units))
            _listen(op.node, window, len_of(event))
        group.shapes = shapes
        group.windows += 1
        (group.early if len(group.early) < EARLY else group.late).append(row)

    def finish(self) -> Signals | None:
        """The graph that was met most often."""
        group = max(self.groups.values(), key=lambda g: g.windows, default=None)
        if group is None:
            return None
        late = list(group.late) or group.early
        found = []
        for i, (kind, level, units) in enumerate(group.shapes):
            first, last = [w[i] for w in group.early], [w[i] for w in late]
            found.append(
                Activation(
                    kind,
                    level,
                    units,
                    _mid(first, "rms"),
                    _mid(last, "rms"),
                    _mid(first, "shared"),
                    _mid(last, "shared"),
                    _mid(first, "flat"),
                    _mid(last, "flat"),
                    _dead(first),
                    _dead(last),
                    _mid(first, "gradient"),
                    _mid(last, "gradient"),
                )
            )
        depth, short, recurrent, norms, nonlinear, softmaxes = group.facts
        kept = sum(a.rms == a.rms for a in found) / len(found) if found else 1.0
        return Signals(depth, short, recurrent, norms, nonlinear, tuple(found), group.windows, kept, softmaxes)


def len_of(event: Backward) -> int:
    """The length of the batch, by the first criterion; 1 where unknown."""
    shapes = [c.target_shape for c in event.criteria if c.target_shape]
    return shapes[0][0] if shapes else 1


def _facts(tape: Tape) -> tuple[int, int, bool, int, int, int]:
    norms = sum(op.name in NORMALISATIONS for op in tape.ops)
    nonlinear = sum(op.far >= 1 and (op.name in ACTIVATIONS or op.name in SOFTMAX or op.name in OTHER_NONLINEAR) for op in tape.ops)
    # An LSTM is one node that is weighted and nonlinear at once.
    nonlinear += sum(op.name in WEIGHTED and "Rnn" in op.name for op in tape.ops)
    attention = any(op.name == "Bmm" or op.name.startswith("ScaledDot") for op in tape.ops)
    softmaxes = 0 if attention else sum(op.far >= 1 and op.name in ("Softmax", "SafeSoftmax") for op in tape.ops)
    return tape.depth, tape.short_depth, tape.recurrent, norms, nonlinear, softmaxes


def _look(op: Op) -> tuple[_Window, int]:
    value, exact = None, True
    for name in ("_saved_result", "_saved_self", "_saved_self_or_result"):
        try:
            value = getattr(op.node, name, None)
        except RuntimeError:  # changed in place since
            value = None
        if isinstance(value, Tensor):
            exact = name == "_saved_result"
            break
    nan = float("nan")
    if not isinstance(value, Tensor) or value.ndim == 0 or not value.is_floating_point():
        return _Window(nan, nan, nan, None), 0
    value = value.detach()
    if value.ndim == 1:
        value = value[None]
    energy = float(value.square().mean())
    shared = float(value.mean(0).square().mean()) / energy if energy > 0 else 1.0
    axis = 1 if value.ndim >= 4 or (value.ndim == 3 and _convolved(op.node)) else value.ndim - 1
    others = [d for d in range(value.ndim) if d != axis]
    if op.name in RELU and (exact or op.name == "Threshold"):
        on = value > 0
    elif op.name in RELU and op.name.startswith("Clamp"):
        on = value > float(getattr(op.node, "_saved_min", 0) or 0)
    elif op.name == "Tanh" and exact:
        on = value.square() < 1 - FLAT
    elif op.name == "Sigmoid" and exact:
        on = (2 * value - 1).square() < 1 - FLAT
    elif op.name in BOUNDED and not exact:
        on = value.abs() < (1 if op.name == "Hardtanh" else 3)
    else:
        return _Window(energy**0.5, shared, 0.0, None), value.shape[axis]
    alive = on.any(dim=others) if others else on
    return _Window(energy**0.5, shared, 1 - float(on.float().mean()), alive), value.shape[axis]


def _convolved(node: Any) -> bool:
    for _ in range(4):
        below = [n for n, _ in node.next_functions if n is not None and not hasattr(n, "variable")]
        if not below:
            return False
        node = below[0]
        if short_name(node) in WEIGHTED:
            return "Conv" in short_name(node)
    return False


def _listen(node: Any, window: _Window, batch: int) -> None:
    def keep(gradients: tuple[Tensor | None, ...]) -> None:
        if gradients and gradients[0] is not None:
            window.gradient = float(gradients[0].detach().float().square().mean().sqrt()) * batch

    node.register_prehook(keep)


def _mid(windows: list[_Window], name: str) -> float:
    values = [v for w in windows if (v := getattr(w, name)) == v]
    return median(values) if values else float("nan")


def _dead(windows: list[_Window]) -> float:
    masks = [w.alive for w in windows if w.alive is not None]
    if not masks or any(m.shape != masks[0].shape for m in masks):
        return 0.0
    return 1 - float(torch.stack(masks).any(0).float().mean())
