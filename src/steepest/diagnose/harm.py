"""Did it hurt? What the run reached, beside what can be reached on the same data and what a constant answer reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from steepest.diagnose.case import Case
from steepest.probes.losses import LossSeries
from steepest.probes.task import POINTWISE
from steepest.results.finding import Evidence

MILD, CLEAR = 0.1, 0.25
"""Shortfalls from which on a run counts as mildly and as clearly worse than it could be; fitted, see docs/judgement.md."""


def fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether torch would broadcast the shapes; those that it would refuse are not those of a prediction and its target."""
    rank = max(len(a), len(b))
    wide = [(1,) * (rank - len(s)) + s for s in (a, b)]
    return all(i == j or 1 in (i, j) for i, j in zip(*wide, strict=True))


@dataclass(frozen=True)
class Harm:
    """The outcome of a run, as pure numbers.

    *Skill* is (accuracy - chance) / (1 - chance) for classes and R^2 for a regression: 0 for the best constant answer, 1 for a
    perfect one. The
    *shortfall* is 1 - skill / (skill of a kernel method on some of the same data, each sample predicted from the others): a
    reference that a
    network which trains at all should come near on its own training data.
    """

    case: Case

    @cached_property
    def series(self) -> LossSeries | None:
        """The losses of the optimizer with most of them."""
        return None if self.case.losses is None else self.case.losses.main

    @cached_property
    def adversarial(self) -> bool:
        """Whether several optimizers descend different losses, so that the level of neither tells anything."""
        return self.case.losses is not None and len(self.case.losses.series) > 1

    @cached_property
    def diverged(self) -> bool:
        """Whether the loss became NaN or infinite, or ended far above where it began."""
        s = self.series
        if s is None:
            return False
        if s.non_finite_step is not None or not s.bins:
            return True
        start = s.bins[0].mean
        return start > 0 and s.final > 3 * start and (math.isnan(self.left) or self.left > 1)

    @cached_property
    def left(self) -> float:
        """(Final criterion - that of a perfect answer) / (that of the best constant - that of a perfect answer); NaN where unknown."""
        task, fit = self.case.task, self.case.fit
        if task is None or not task.trivial > task.floor:
            return math.nan
        final = math.nan if fit is None or fit.final is None else fit.final.loss
        return (final - task.floor) / (task.trivial - task.floor)

    @cached_property
    def chance(self) -> float:
        """The share of the most frequent class; NaN for a regression."""
        return math.nan if self.case.task is None else self.case.task.chance

    @cached_property
    def train_skill(self) -> float:
        """At the end of training, on training batches."""
        fit, task = self.case.fit, self.case.task
        if fit is None or fit.final is None or task is None:
            return math.nan
        final = fit.final
        if final.accuracy == final.accuracy and self.chance < 1:
            return (final.accuracy - self.chance) / (1 - self.chance)
        if task.loss in POINTWISE and task.kind in ("continuous", "integers") and fits(task.prediction_shape, task.target_shape):
            variance = task.trivial if task.loss == "mse_loss" and task.reduction == "mean" and task.trivial > 0 else task.std**2
            return 1 - final.error / variance if variance > 0 else math.nan
        return math.nan

    @cached_property
    def held_skill(self) -> float:
        """At the last evaluation on fresh data."""
        score = None if self.case.fit is None else self.case.fit.held_final
        if score is None:
            return math.nan
        if score.accuracy == score.accuracy and self.chance < 1:
            return (score.accuracy - self.chance) / (1 - self.chance)
        return score.explained

    @cached_property
    def reference(self) -> float:
        """Skill of the kernel method; NaN where it has none worth the name (below 0.2)."""
        r = self.case.reachable
        if r is None or r.classes == 1:
            return math.nan
        skill = r.explained if math.isnan(r.accuracy) else (r.accuracy - r.chance) / max(1e-9, 1 - r.chance)
        # Few samples say little: two standard errors of the share of right answers less.
        if r.accuracy == r.accuracy:
            skill -= 2 * math.sqrt(max(0.0, r.accuracy * (1 - r.accuracy)) / r.rows) / max(1e-9, 1 - r.chance)
        else:
            skill -= 2 * math.sqrt(max(0.0, skill * (1 - skill)) / r.rows)
        return skill if skill >= 0.2 else math.nan

    @cached_property
    def train_shortfall(self) -> float:
        """On training batches. Without a reference only a loss near that of a constant answer counts."""
        if self.diverged:
            return 1.0
        if self.reference == self.reference and self.train_skill == self.train_skill:
            return min(1.0, 1 - self.train_skill / self.reference)
        if self.left == self.left and not self.adversarial:
            return min(1.0, max(0.0, (self.left - 0.85) / 0.15))
        return 0.0

    @cached_property
    def held_shortfall(self) -> float:
        """On fresh data, less two standard errors; 0 where there are none."""
        score = None if self.case.fit is None else self.case.fit.held_final
        if score is None or self.held_skill != self.held_skill or self.reference != self.reference:
            return 0.0
        noise = 0.0
        if score.accuracy == score.accuracy and self.chance < 1:
            noise = 2 * math.sqrt(score.accuracy * (1 - score.accuracy) / max(1, score.count)) / (1 - self.chance)
        return min(1.0, 1 - (self.held_skill + noise) / self.reference)

    @cached_property
    def shortfall(self) -> float:
        """The larger of both.

        Dropout lowers scores in training, so that held-out data decide there, or a wider margin where there are none.
        """
        if self.diverged:
            return 1.0
        train = self.train_shortfall
        if self.case.modes is not None and self.case.modes.largest_dropout > 0:
            known = self.held_skill == self.held_skill and self.reference == self.reference
            train = min(train, self.held_shortfall) if known else train - 0.15
        return max(train, self.held_shortfall)

    @property
    def mild(self) -> bool:
        """Worse than it could be."""
        return self.shortfall >= MILD

    @property
    def clear(self) -> bool:
        """Much worse than it could be."""
        return self.shortfall >= CLEAR

    @cached_property
    def unlearnt(self) -> bool:
        """At the level of a constant answer."""
        skill = self.held_skill if self.held_skill == self.held_skill else self.train_skill
        return self.diverged or (skill < 0.1 if skill == skill else self.left > 0.95)

    @cached_property
    def falling(self) -> float:
        """Per cent of the loss that the last quarter of training took away, beyond twice its noise; 0 where the noise hides it."""
        s = self.series
        if s is None or len(s.bins) < 8:
            return 0.0
        last = s.bins[-max(4, len(s.bins) // 4) :]
        half = len(last) // 2
        first, second = (sum(b.mean for b in part) / len(part) for part in (last[:half], last[-half:]))
        noise = math.sqrt(sum(b.std**2 / max(1, b.count) for b in last) / len(last) / half * 2)
        drop = first - second
        return 100 * 2 * (drop - 2 * noise) / abs(first) if first and drop > 2 * noise else 0.0

    def evidence(self) -> Evidence:
        """The outcome in one line."""
        if self.diverged and self.series is not None:
            step = self.series.non_finite_step
            if step is not None:
                return Evidence("step at which the loss stopped being finite", float(step))
            return Evidence(
                "final loss / loss at the start", self.series.final / self.series.bins[0].mean, 3.0, "a descent method ends below its start"
            )
        source = "leave-one-out kernel ridge regression (Allen 1974) on samples of the same data"
        if self.reference == self.reference:
            held = self.held_shortfall >= self.train_shortfall
            skill = self.held_skill if held else self.train_skill
            return Evidence(
                f"skill {'on held-out data' if held else 'in training'} (0: a constant answer, 1: perfect)", skill, self.reference, source
            )
        return Evidence("final loss / loss of the best constant answer", self.left, 0.7, "a constant answer needs no network")
