"""What is asked of the network: the loss, the activation it meets, and the kind and order of the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steepest.probes.events import Backward, Criterion
from steepest.probes.examples import thinned
from steepest.probes.handwritten import handwritten
from steepest.probes.probe import Probe
from steepest.probes.tape import tail
from steepest.results.measured import Measured

KEPT, ORDERED, OFTEN = 2048, 1500, 200
POINTWISE = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"))
LOGITS = frozenset(("cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "soft_margin_loss"))
PROBABILITIES = frozenset(("binary_cross_entropy", "nll_loss"))


@dataclass(frozen=True)
class Task(Measured):
    """The loss that was differentiated most often, and its targets.

    Args:
        loss: its name in ``torch.nn.functional``; reduction; calls: how often; others: names of further losses.
        prediction_shape, target_shape: as first given; broadcast: whether they differ though the loss compares entry by entry.
        tail: operations between the last weights and the loss, from the loss backwards; single: whether a softmax among them runs
            over one unit.
        classes: how many the prediction can tell apart, 1 for a single output.
        kind: of the targets: ``classes``, ``binary``, ``one_hot``, ``distribution``, ``integers`` (few, whole, not 0/1 alone),
            ``continuous``.
        distinct: distinct target values met, at most 1000; low, high, mean, std: of the targets.
        trivial: the loss of the best constant prediction; NaN where unknown. floor: that of a perfect one (above 0 for targets that are
            distributions). chance: the share of the most frequent class; NaN for others.
        output_low, output_high: extreme predictions over the run.
        within: variance of labels within stretches of consecutive samples / overall: about 1 for shuffled data, 0 for sorted.
        batches: how many different batches of targets were met, told apart by their sums; 1 for full batches.
    """

    loss: str
    reduction: str
    calls: int
    others: tuple[str, ...]
    prediction_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    broadcast: bool
    tail: tuple[str, ...]
    single: bool
    classes: int
    kind: str
    distinct: int
    low: float
    high: float
    mean: float
    std: float
    trivial: float
    floor: float
    chance: float
    output_low: float
    output_high: float
    within: float
    batches: int


@dataclass
class _Seen:
    first: Criterion
    shape: tuple[int, ...]
    tail: tuple[str, ...]
    single: bool
    calls: int = 0
    targets: list[Tensor] = field(default_factory=list)
    rows: int = 0
    low: float = math.inf
    high: float = -math.inf
    out_low: float = math.inf
    out_high: float = -math.inf
    labels: list[Tensor] = field(default_factory=list)
    marks: set[float] = field(default_factory=set)
    integer: bool = False
    dtype: str = ""


class TaskProbe(Probe):
    """Copies of the first targets, and four reductions in each pass."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.seen: dict[tuple[str, int], _Seen] = {}

    def on_criterion(self, event: Criterion) -> None:
        """The loss and its targets."""
        x, y = event.input, event.target
        if not event.grad or x is None or y is None or x.numel() == 0:
            return
        key = (event.name, len(event.input_shape))
        if key not in self.seen:
            ops = tail(x.grad_fn)
            single = any(
                op.name in ("Softmax", "SafeSoftmax", "LogSoftmax") and _axis_length(op.node, event.input_shape) == 1 for op in ops
            )
            self.seen[key] = _Seen(event, event.input_shape, tuple(op.name for op in ops), single, integer=not y.is_floating_point())
        s = self.seen[key]
        s.calls += 1
        small = y.numel() <= 100_000
        if (small and s.calls <= OFTEN) or event.sampled:
            s.low, s.high = min(s.low, float(y.min())), max(s.high, float(y.max()))
            s.out_low, s.out_high = min(s.out_low, float(x.min())), max(s.out_high, float(x.max()))
        if s.rows < KEPT and y.ndim:
            s.targets.append(thinned(y.reshape(len(y), -1), 64))
            s.rows += len(y)
        if len(s.labels) < ORDERED and small and y.ndim:
            label = _label(x, y)
            s.labels.append(label)
            s.marks.add(float(f"{float(label.double().sum()):.9g}"))

    def before_backward(self, event: Backward) -> None:
        """A loss written by hand."""
        criterion = handwritten(event)
        if criterion is not None:
            self.on_criterion(criterion)

    def finish(self) -> Task | None:
        """The most frequent loss."""
        s = max(self.seen.values(), key=lambda s: s.calls, default=None)
        if s is None or not s.targets or len({t.shape[1] for t in s.targets}) > 1:
            return None
        name, options = s.first.name, s.first.options
        y = torch.cat(s.targets).double()
        reduction = str(options.get("reduction", "mean"))
        kind = _kind(y, s.integer)
        shape, target = s.first.input_shape, s.first.target_shape
        classes = shape[1] if len(shape) >= 2 else 1
        trivial = _trivial(name, kind, y, classes)
        floor = _floor(name, kind, y, float(options.get("label_smoothing") or 0), classes)
        if reduction == "sum":
            trivial, floor = trivial * math.prod(target), floor * math.prod(target)
        others = tuple(sorted({o.first.name for o in self.seen.values() if o is not s}))
        return Task(
            name,
            reduction,
            s.calls,
            others,
            shape,
            target,
            name in POINTWISE | {"binary_cross_entropy_with_logits"} and shape != target,
            s.tail,
            s.single,
            classes,
            kind,
            min(1000, len(torch.unique(y))),
            s.low,
            s.high,
            float(y.mean()),
            float(y.std(correction=0)),
            trivial,
            floor,
            _chance(kind, y),
            s.out_low,
            s.out_high,
            _within(s.labels),
            len(s.marks),
        )


def _axis_length(node: Any, shape: tuple[int, ...]) -> int:
    axis = getattr(node, "_saved_dim", -1)
    axis = axis - 2**64 if axis >= 2**63 else axis
    return shape[axis] if shape and -len(shape) <= axis < len(shape) else 0


def _label(x: Tensor, y: Tensor) -> Tensor:
    """One number a sample."""
    flat = y.detach().reshape(len(y), -1)
    if flat.shape[1] > 1 and y.is_floating_point() and y.shape == x.shape and y.ndim == 2:
        return flat.argmax(1).cpu()
    return flat.double().mean(1).cpu() if flat.shape[1] > 1 else flat[:, 0].cpu().clone()


def _kind(y: Tensor, integer: bool) -> str:
    if integer:
        return "classes"
    whole = bool((y == y.round()).all())
    zero_one = bool(((y == 0) | (y == 1)).all())
    if y.shape[1] > 1 and bool((y >= 0).all()) and bool(((y.sum(1) - 1).abs() < 1e-4).all()):
        return "one_hot" if zero_one else "distribution"
    if zero_one:
        return "binary"
    return "integers" if whole and len(torch.unique(y)) <= 50 and y.shape[1] == 1 else "continuous"


def _entropy(p: Tensor) -> float:
    p = p[p > 0]
    return float(-(p * p.log()).sum())


def _trivial(name: str, kind: str, y: Tensor, classes: int) -> float:
    """The loss of the best constant: the entropy of the labels, the variance of the targets, their mean distance from the median."""
    if name in ("cross_entropy", "nll_loss"):
        if kind == "classes":
            return _entropy(torch.unique(y, return_counts=True)[1].double() / y.numel())
        return _entropy(y.mean(0)) if kind in ("one_hot", "distribution") and y.shape[1] == classes else math.nan
    if name.startswith("binary_cross_entropy"):
        p = y.mean(0).clamp(0, 1)
        return sum(_entropy(torch.stack([q, 1 - q])) for q in p) / len(p) if float(y.min()) >= 0 and float(y.max()) <= 1 else math.nan
    if name == "mse_loss":
        return float(y.var(0, correction=0).mean())
    if name == "l1_loss":
        return float((y - y.median(0).values).abs().mean())
    if name in ("smooth_l1_loss", "huber_loss"):
        d = (y - y.median(0).values).abs()
        return float(torch.where(d < 1, d.square() / 2, d - 0.5).mean())
    return math.nan


def _floor(name: str, kind: str, y: Tensor, smoothing: float, classes: int) -> float:
    """The loss of a prediction equal to the target: the mean entropy of targets that are distributions."""
    if name.startswith("binary_cross_entropy") and kind == "continuous" and float(y.min()) >= 0 and float(y.max()) <= 1:
        p = y.clamp(1e-12, 1 - 1e-12)
        return float(-(p * p.log() + (1 - p) * (1 - p).log()).mean())
    if name == "cross_entropy" and kind == "distribution":
        p = y.clamp(min=1e-12)
        return float(-(p * p.log()).sum(1).mean())
    if name == "cross_entropy" and 0 < smoothing < 1 and classes > 1:
        off, on = smoothing / classes, 1 - smoothing + smoothing / classes
        return -(on * math.log(on) + (classes - 1) * off * math.log(off))
    return 0.0


def _chance(kind: str, y: Tensor) -> float:
    if kind in ("classes", "binary", "integers"):
        return float(torch.unique(y, return_counts=True)[1].max()) / y.numel()
    return float(torch.bincount(y.argmax(1)).max()) / len(y) if kind == "one_hot" else math.nan


def _within(labels: list[Tensor], group: int = 8) -> float:
    """Unbiased variance within stretches of ``group`` samples in the order of training, over that of all; classes are unordered."""
    if not labels:
        return math.nan
    y = torch.cat(labels).double()
    parts = torch.split(y, group)
    parts = [p for p in parts if len(p) == group]
    if len(parts) < 4:
        return math.nan
    blocks = torch.stack(parts)
    values = torch.unique(blocks)
    if len(values) <= 50:

        def spread(b: Tensor) -> Tensor:
            n = b.shape[1]
            shares = torch.stack([(b == v).double().mean(1) for v in values])
            return (1 - shares.square().sum(0)) * n / (n - 1)

        within, overall = spread(blocks).mean(), spread(blocks.reshape(1, -1)).mean()
    else:
        within, overall = blocks.var(1).mean(), blocks.var()
    return float(within / overall) if overall > 0 else math.nan
