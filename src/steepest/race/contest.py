"""From trials to what is shown of a method in one task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from steepest.optim.method import Method
from steepest.race.space import rounded
from steepest.race.statistics import expected_best, median_interval, ratios
from steepest.race.task import Landscape
from steepest.results.race import Comparison, Entry, RacedTrial, Range, Relief, SeedResult, Standing, TunedPoint
from steepest.results.study import Interval, Series

_GRID = 61


def entry(
    method: Method,
    asked: bool,
    tuning: Sequence[RacedTrial],
    chosen: Mapping[str, float],
    target: float | None,
    *,
    rates: Sequence[RacedTrial] = (),
    runs: Sequence[RacedTrial] = (),
    reference: Sequence[RacedTrial] = (),
    reference_name: str = "",
    level: float = 0.95,
    path: tuple[tuple[float, float], ...] = (),
) -> Entry:
    """One method's row, from its trials.

    Args:
        tuning, rates, runs: trials of the budget, at other rates, and on the fresh seeds.
        chosen: the options of ``runs``.
        target: to be reached; None for a landscape.
        reference: trials of the reference on the same seeds as ``runs``.
        path: of a landscape.
    """
    ends = [(method.rate_name if name == "lr" else name, rounded(r.at(0.0)), rounded(r.at(1.0))) for name, r in method.space.items()]
    row = Entry(
        method.name,
        method.title,
        method.source,
        asked,
        tuple(Range(name, min(a, b), max(a, b)) for name, a, b in ends),
        tuple(_tuned(t, target) for t in tuning),
        expected_best([t.best for t in tuning]),
        dict(chosen),
        path=path,
    )
    if not runs or target is None:
        return row
    results = tuple(SeedResult(t.seed, t.best, t.final, t.score, t.steps_to(target), t.seconds_to(target)) for t in runs)
    scores = [r.score for r in results if r.score is not None]
    return Entry(
        **{
            **{name: getattr(row, name) for name in Entry.__dataclass_fields__},
            "rates": tuple(_tuned(t, target) for t in rates),
            "runs": results,
            "steps": median_interval([r.steps for r in results], level),
            "seconds": median_interval([r.seconds for r in results], level),
            "best": median_interval([r.best for r in results], level),
            "score": median_interval(scores, level) if len(scores) == len(results) else None,
            "misses": sum(r.steps == math.inf for r in results),
            "against": compare(runs, reference, target, reference_name, level) if reference else None,
            "curve": band(runs),
        }
    )


def compare(runs: Sequence[RacedTrial], reference: Sequence[RacedTrial], target: float, name: str, level: float = 0.95) -> Comparison:
    """A method beside the reference, seed by seed.

    The difference is of best values, which are finite; the sentence follows from its interval alone.
    """
    assert [r.seed for r in runs] == [r.seed for r in reference]
    difference = median_interval([a.best - b.best for a, b in zip(runs, reference, strict=True)], level)
    if runs[0].method == name:
        return Comparison(name, difference, Interval(1.0, 1.0, 1.0), Standing.REFERENCE)
    standing = Standing.BETTER if difference.high < 0 else Standing.WORSE if difference.low > 0 else Standing.NO_DIFFERENCE
    factor = median_interval(ratios([a.steps_to(target) for a in runs], [b.steps_to(target) for b in reference]), level)
    return Comparison(name, difference, factor, standing)


def band(runs: Sequence[RacedTrial]) -> Series:
    """Median value over the runs against steps, with the quartiles; after a divergence a run counts as infinite."""
    grid = sorted({e.step for t in runs for e in t.evaluations})
    values = np.array([_held(t, grid) for t in runs])
    low, middle, high = (np.quantile(values, q, axis=0, method="inverted_cdf") for q in (0.25, 0.5, 0.75))
    return Series(runs[0].method, tuple(map(float, grid)), tuple(middle.tolist()), tuple(low.tolist()), tuple(high.tolist()))


def relief(landscape: Landscape) -> Relief:
    """Heights over a grid of 61 x 61."""
    x = torch.linspace(*landscape.x, _GRID, dtype=torch.float64)
    y = torch.linspace(*landscape.y, _GRID, dtype=torch.float64)
    heights = landscape.function(x.expand(_GRID, _GRID), y.unsqueeze(1).expand(_GRID, _GRID))
    return Relief(landscape.x, landscape.y, tuple(tuple(float(f"{h:.5g}") for h in row) for row in heights.tolist()), landscape.minima)


def _tuned(trial: RacedTrial, target: float | None) -> TunedPoint:
    steps = math.inf if target is None else trial.steps_to(target)
    return TunedPoint(dict(trial.point), trial.best, steps, trial.diverged_at is not None)


def _held(trial: RacedTrial, grid: Sequence[int]) -> list[float]:
    """The value at each step of the grid: that of the last look, infinite from a divergence on."""
    held, k = [], 0
    for step in grid:
        while k + 1 < len(trial.evaluations) and trial.evaluations[k + 1].step <= step:
            k += 1
        gone = trial.diverged_at is not None and step >= trial.diverged_at
        held.append(math.inf if gone else trial.evaluations[k].value)
    return held
