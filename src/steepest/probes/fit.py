"""How good does the network get, on the data it trains on and on data held out?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.probes.events import Backward, Comparison, Criterion, Forward
from steepest.probes.examples import fingerprints
from steepest.probes.handwritten import handwritten
from steepest.probes.probe import Probe
from steepest.results.measured import Measured

BINS, HELD = 20, 60
LARGEST = 200_000


@dataclass(frozen=True)
class Score(Measured):
    """The quality of a stretch of training, or of one evaluation; NaN where it was not seen.

    Args:
        step: steps done before; count: samples; loss: mean criterion; accuracy: share of right classes.
        error: mean squared difference from the target, entry by entry; spread: variance of these targets.
        seen: share of these inputs that were met in training.
    """

    step: int
    count: int
    loss: float
    accuracy: float
    error: float
    spread: float
    seen: float = 0.0

    @property
    def explained(self) -> float:
        """1 - error / variance of the targets (R^2)."""
        return 1 - self.error / self.spread if self.spread > 0 else math.nan


@dataclass(frozen=True)
class Fit(Measured):
    """Quality over the run.

    Args:
        train: in training passes, in stretches of equal number; held: evaluations without gradient, in order.
        penalty: share of the differentiated loss that is not the criterion, late in training; NaN where several criteria enter.
        answers: late in training, the number of distinct answers (classes), or the standard deviation of predictions over that of targets.
    """

    train: tuple[Score, ...]
    held: tuple[Score, ...]
    penalty: float
    answers: float

    @property
    def final(self) -> Score | None:
        """The last tenth of training."""
        return merged(self.train[-max(1, len(self.train) // 10) :]) if self.train else None

    @property
    def held_final(self) -> Score | None:
        """The last evaluation on data that were mostly not trained on."""
        fresh = [s for s in self.held if s.seen < 0.5]
        return fresh[-1] if fresh else None


@dataclass
class _Sum:
    step: int
    count: int = 0
    loss: list[tuple[float, int]] = field(default_factory=list)
    accuracy: list[tuple[float, int]] = field(default_factory=list)
    error: list[tuple[float, int]] = field(default_factory=list)
    moments: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seen: list[tuple[float, int]] = field(default_factory=list)

    def score(self) -> Score:
        """The averages."""
        n, s, q = self.moments
        count = max(self.count, *(sum(c for _, c in v) for v in (self.loss, self.accuracy, self.error)))
        spread = max(0.0, q / n - (s / n) ** 2) if n else math.nan
        return Score(self.step, count, _mean(self.loss), _mean(self.accuracy), _mean(self.error), spread, _mean(self.seen, 0.0))


class FitProbe(Probe):
    """Accuracy or squared error of each training pass and evaluation: two or three reductions over the predictions."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.train: list[Score] = []
        self.held: dict[int, _Sum] = {}
        self.known: set[int] = set()
        self.seen: tuple[float, int] | None = None
        self.place = 0
        self.penalties: list[float] = []
        self.answers: list[float] = []
        self.compared = -1

    def on_forward(self, event: Forward) -> None:
        """Which inputs are known."""
        self.place = 0 if event.prediction is None else event.prediction.untyped_storage().data_ptr()
        self.seen = None
        if not event.inputs or event.inputs[0].ndim < 2:
            return
        if event.grad:
            if len(self.known) < 8192 and event.sampled:
                self.known.update(fingerprints(event.inputs[0], 128))
        elif event.step:
            marks = fingerprints(event.inputs[0], 128)
            self.seen = (sum(m in self.known for m in marks) / max(1, len(marks)), len(marks))

    def on_criterion(self, event: Criterion) -> None:
        """A training pass, or a loss measured in evaluation."""
        x, y = event.input, event.target
        if x is None or y is None or not y.ndim or (y.numel() > LARGEST and not event.sampled):
            return
        x, y = x.detach(), y.detach()
        accuracy = accuracy_of(event.name, x, y)
        error, moments = _error(x, y) if y.is_floating_point() else (math.nan, [0.0, 0.0, 0.0])
        value = math.nan if event.value is None else event.value
        if event.grad:
            n, s, q = moments
            spread = max(0.0, q / n - (s / n) ** 2) if n else math.nan
            self.train.append(Score(event.step, len(y), value, accuracy, error, spread))
            if event.sampled:
                self.answers.append(_answers(x, y, spread))
        elif event.step:
            total = self.held.setdefault(event.step, _Sum(event.step))
            for values, v in ((total.loss, value), (total.accuracy, accuracy), (total.error, error)):
                if v == v:
                    values.append((v, len(y)))
            total.moments = [a + b for a, b in zip(total.moments, moments, strict=True)]
            self._note(total)

    def on_comparison(self, event: Comparison) -> None:
        """Accuracy or residual written by hand; the first comparison after a model call counts."""
        if event.grad or not event.step or event.result.shape not in (event.left.shape, event.right.shape):
            return
        total = self.held.setdefault(event.step, _Sum(event.step))
        n = len(event.result) if event.result.ndim else 1
        if event.name == "eq":
            if event.result.numel() > 1 and self.compared != event.count:
                self.compared = event.count
                total.accuracy.append((float(event.result.float().mean()), n))
                self._note(total)
        elif event.left.shape == event.right.shape and event.result.is_floating_point():
            is_left = event.left.untyped_storage().data_ptr() == self.place
            target = (event.right if is_left else event.left).detach().double()
            if self.compared != -event.count - 2:
                self.compared = -event.count - 2
                total.error.append((float(event.result.detach().double().square().mean()), n))
                total.moments = [a + b for a, b in zip(total.moments, _moments(target), strict=True)]
                self._note(total)

    def before_backward(self, event: Backward) -> None:
        """What the differentiated loss holds besides the criterion; or a loss written by hand."""
        written = handwritten(event)
        if written is not None:
            self.on_criterion(written)
        trained = [c for c in event.criteria if c.grad and c.value is not None]
        if event.sampled and len(trained) == 1 and event.value and trained[0].value is not None:
            self.penalties.append(1 - trained[0].value / event.value)

    def finish(self) -> Fit | None:
        """Training in bins; evaluations thinned, the last one kept."""
        if not self.train and not self.held:
            return None
        size = max(1, math.ceil(len(self.train) / BINS))
        train = tuple(merged(self.train[i : i + size]) for i in range(0, len(self.train), size))
        held = [s.score() for s in self.held.values()]
        held = [s for s in held if s.count]
        stride = max(1, math.ceil(len(held) / HELD))
        late = self.penalties[-8:]
        return Fit(
            train,
            tuple(held[(len(held) - 1) % stride :: stride]) if held else (),
            sum(late) / len(late) if late else math.nan,
            sum(self.answers[-4:]) / len(self.answers[-4:]) if self.answers else math.nan,
        )

    def _note(self, total: _Sum) -> None:
        if self.seen is not None:
            total.seen.append(self.seen)
            self.seen = None


def accuracy_of(name: str, x: Tensor, y: Tensor) -> float:
    """Share of right answers: the largest entry for classes and one-hot rows, a threshold for 0/1 targets; NaN for a regression."""
    if not y.is_floating_point():
        if x.ndim >= 2 and x.ndim == y.ndim + 1 and x.shape[1] > 1:
            return float((x.argmax(1) == y).float().mean())
        return math.nan
    if x.shape == y.shape and x.ndim == 2 and x.shape[1] > 1 and bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all()):
        return float((x.argmax(1) == y.argmax(1)).float().mean())
    if x.numel() == y.numel() and bool(((y == 0) | (y == 1)).all()):
        threshold = 0.0 if "logits" in name else 0.5
        return float(((x.reshape(-1) > threshold) == (y.reshape(-1) > 0.5)).float().mean())
    return math.nan


def merged(scores: Sequence[Score]) -> Score:
    """Means weighted by the number of samples; the spread includes differences of means between batches only through its average."""

    def over(name: str) -> float:
        return _mean([(v, s.count) for s in scores if (v := getattr(s, name)) == v and v not in (math.inf, -math.inf)])

    return Score(scores[0].step, sum(s.count for s in scores), over("loss"), over("accuracy"), over("error"), over("spread"), over("seen"))


def _mean(values: Sequence[tuple[float, int]], default: float = math.nan) -> float:
    total = sum(n for _, n in values)
    return sum(v * n for v, n in values) / total if total else default


def _error(x: Tensor, y: Tensor) -> tuple[float, list[float]]:
    if x.numel() != y.numel():
        return math.nan, [0.0, 0.0, 0.0]
    a, b = x.reshape(-1).double(), y.reshape(-1).double()
    return float((a - b).square().mean()), _moments(b)


def _moments(y: Tensor) -> list[float]:
    return [float(y.numel()), float(y.sum()), float(y.square().sum())]


def _answers(x: Tensor, y: Tensor, spread: float) -> float:
    if not y.is_floating_point() and x.ndim >= 2 and x.shape[1] > 1:
        return float(len(torch.unique(x.argmax(1))))
    return float(x.double().std(correction=0)) / math.sqrt(spread) if spread > 0 else math.nan
