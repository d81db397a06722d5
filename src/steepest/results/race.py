"""What a race of descent methods found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from steepest.results.study import Interval, Series


class Standing(StrEnum):
    """How a method compares with the reference over paired seeds."""

    REFERENCE = "the reference"
    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference seen"


@dataclass(frozen=True)
class Evaluation:
    """A look at a training run.

    Args:
        step: gradients computed so far.
        seconds: processor time of training so far, evaluations left out.
        value: the task's measure; infinite where it is not a number.
        loss: mean training loss since the last look; NaN before the first step.
    """

    step: int
    seconds: float
    value: float
    loss: float


@dataclass(frozen=True)
class RacedTrial:
    """One training run of one method with one choice of options and one seed.

    Args:
        method: its name.
        point: the options.
        seed: of the initial parameters and of the order of batches.
        evaluations: from before the first step on.
        diverged_at: gradients computed when the loss ceased to be finite.
        score: the task's second measure after the last step, such as accuracy.
        path: of a landscape: the points visited.
    """

    method: str
    point: dict[str, float]
    seed: int
    evaluations: tuple[Evaluation, ...]
    diverged_at: int | None = None
    score: float | None = None
    path: tuple[tuple[float, float], ...] = ()

    @property
    def best(self) -> float:
        """The least value seen; that before the first step counts, so it is finite."""
        return min(e.value for e in self.evaluations)

    @property
    def final(self) -> float:
        """The last value; infinite after a divergence."""
        return math.inf if self.diverged_at is not None else self.evaluations[-1].value

    def reached(self, target: float) -> Evaluation | None:
        """The first look at which the value was at most the target; None for a miss."""
        return next((e for e in self.evaluations if e.value <= target), None)

    def steps_to(self, target: float) -> float:
        """Gradients to the target; a miss is infinite."""
        hit = self.reached(target)
        return math.inf if hit is None else float(hit.step)

    def seconds_to(self, target: float) -> float:
        """Processor seconds of training to the target; a miss is infinite."""
        hit = self.reached(target)
        return math.inf if hit is None else hit.seconds

    def to_json(self) -> dict[str, Any]:
        """The JSON form; numbers that are not finite are words."""
        return plain(asdict(self))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RacedTrial:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        return cls(
            method=str(content["method"]),
            point={str(key): float(value) for key, value in content["point"].items()},
            seed=int(content["seed"]),
            evaluations=tuple(
                Evaluation(int(e["step"]), float(e["seconds"]), float(e["value"]), float(e["loss"])) for e in content["evaluations"]
            ),
            diverged_at=None if content["diverged_at"] is None else int(content["diverged_at"]),
            score=None if content["score"] is None else float(content["score"]),
            path=tuple((float(x), float(y)) for x, y in content["path"]),
        )


@dataclass(frozen=True)
class TunedPoint:
    """What one choice of options gave on the tuning seed."""

    point: dict[str, float]
    best: float
    steps: float
    diverged: bool


@dataclass(frozen=True)
class SeedResult:
    """What the tuned method gave on one fresh seed; infinite steps and seconds are a miss."""

    seed: int
    best: float
    final: float
    score: float | None
    steps: float
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """A method beside the reference on the same seeds.

    Args:
        reference: its name.
        difference: median over seeds of this method's best value less the reference's; below zero is better.
        ratio: median over seeds of this method's steps to the target by the reference's; below one is faster. Both missing is a tie.
        standing: whether the interval of the difference leaves out zero, and on which side.
    """

    reference: str
    difference: Interval
    ratio: Interval | None
    standing: Standing


@dataclass(frozen=True)
class Range:
    """An option and the ends of the range it was tuned over."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Entry:
    """One method in one task.

    Args:
        method, title, source: of the catalogue.
        asked: False for a baseline that runs along to set the target.
        space: the ranges of the options.
        tuning: all trials of the budget, in their quasi-random order.
        budget: expected least value after 1, 2, ... trials drawn at random from them.
        chosen: the options taken into the race.
        rates: what other rates give, all else as chosen, on the tuning seed.
        runs: the fresh seeds.
        steps, seconds, best, score: medians over the fresh seeds with intervals.
        misses: seeds that did not reach the target.
        against: the comparison with the reference.
        curve: median value against steps over the seeds, with the quartiles as a band.
        path: of a landscape: the points visited.
    """

    method: str
    title: str
    source: str
    asked: bool
    space: tuple[Range, ...]
    tuning: tuple[TunedPoint, ...]
    budget: tuple[float, ...]
    chosen: dict[str, float]
    rates: tuple[TunedPoint, ...] = ()
    runs: tuple[SeedResult, ...] = ()
    steps: Interval | None = None
    seconds: Interval | None = None
    best: Interval | None = None
    score: Interval | None = None
    misses: int = 0
    against: Comparison | None = None
    curve: Series | None = None
    path: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Relief:
    """Heights of a toy landscape over a grid: ``heights[i][j]`` at ``(x_j, y_i)``, evenly spaced; where its minima are."""

    x: tuple[float, float]
    y: tuple[float, float]
    heights: tuple[tuple[float, ...], ...]
    minima: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Contest:
    """One task: what was measured, the target, and each method; ranked by steps to the target unless it is a toy landscape.

    Args:
        name, title: of the task.
        measure: what the values are; lower is better.
        score_name: the second measure, higher is better.
        steps: gradients each trial may compute.
        target: the value to reach; None for a landscape.
        target_from: where the target comes from, in words.
        entries: best first; a landscape's in the order they were asked for.
        relief: of a landscape.
    """

    name: str
    title: str
    measure: str
    score_name: str | None
    steps: int
    target: float | None
    target_from: str
    entries: tuple[Entry, ...]
    relief: Relief | None = None

    @property
    def ranked(self) -> bool:
        """Whether the order of the entries means anything."""
        return self.relief is None


@dataclass(frozen=True)
class RaceResult:
    """One or more contests under one protocol.

    Args:
        contests: one per task.
        profiles: of each method: share of problems (tasks, or the seeds of a single task) solved within a factor of the fastest.
        problems: what the problems of the profiles are.
        trials: options tried per method. seeds: fresh seeds. seed: from which all seeds and points come.
        seconds: of the whole, wall clock; trials that were on disk cost nothing.
        versions: of what ran.
        notes: what to know before believing it.
        schedule: of the rate, the same for all methods.
    """

    contests: tuple[Contest, ...]
    profiles: tuple[Series, ...]
    problems: str
    trials: int
    seeds: int
    seed: int
    seconds: float
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    schedule: str = "constant"

    def to_json(self) -> dict[str, Any]:
        """The JSON form; numbers that are not finite are words."""
        return {"format": "steepest-race/1", **plain(asdict(self))}


def plain(value: Any) -> Any:
    """Tuples as lists, floats that are not finite as words."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
