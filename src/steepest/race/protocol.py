"""The protocol: equal tuning budgets, a target from tuned baselines, fresh paired seeds."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from steepest.optim.catalogue import find
from steepest.optim.method import Method, Need
from steepest.optim.space import LogUniform
from steepest.race.contest import entry, relief
from steepest.race.runner import Runner
from steepest.race.space import points, rounded
from steepest.race.statistics import performance_profile
from steepest.race.task import Task, same_batch
from steepest.race.trial import Setting, require_finite
from steepest.results.race import Contest, Entry, RacedTrial, RaceResult
from steepest.results.study import Series

_MakeSetting = Callable[..., Setting]
BASELINES = ("momentum", "adam")
REFERENCE = "momentum"
_SHARE = 0.75
_FINALISTS, _CONFIRMATIONS = 4, 2
_RATES = tuple(10.0 ** (k / 2) for k in range(-4, 5))


@dataclass(frozen=True)
class Raced:
    """A task on its way through the protocol: the task, the name and fingerprint that its trials are kept under, and its data folder."""

    task: Task
    spec: str
    fingerprint: str
    data: str | None = None


@dataclass(frozen=True)
class Racing:
    """The protocol, after AlgoPerf (Dahl et al. 2023) and made for one machine.

    1. Tuning: every method, and the baselines momentum and Adam whether asked for or not, tries the same number of points of one
       quasi-random sequence, each from the same initial parameters and batches.
    2. Target: each baseline's best point runs on seeds of its own, for three quarters of the steps, as in AlgoPerf: what takes a baseline
       all of them is out of reach for a method that is a little slower. The better baseline is the one with the lower median of best
       values, and the target the value that it reaches on three of four of those seeds. (Its median, which AlgoPerf takes, it would
       itself miss every other time.)
    3. Choice: each method's four points that reached the target soonest, or came closest, run on two more tuning seeds; the one with the
       fewest misses, then the least median of steps, then of best values, is chosen. One seed alone would choose the lucky.
    4. Race: the chosen point of every method on fresh seeds, the same for all.

    Toy landscapes are tuned in the same way, by the value at the end, and drawn; they have no target and no rank.

    Args:
        trials: points per method.
        seeds: fresh seeds.
        seed: from which the points and all seeds come.
        steps: gradients per trial instead of the task's own number.
        rates: range of the (effective) rate for every method, instead of the catalogue's.
        schedule: of the rate, the same for all methods.
        level: of confidence of intervals.
    """

    trials: int = 24
    seeds: int = 10
    seed: int = 0
    steps: int | None = None
    rates: tuple[float, float] | None = None
    schedule: str = "constant"
    level: float = 0.95

    def run(self, raced: Sequence[Raced], names: Sequence[str], runner: Runner) -> RaceResult:
        """Race methods of the catalogue on tasks.

        Raises:
            UsageError: for a method that does not exist, is not installed, or cannot take part.
            ModelError: for a task whose loss is not finite before the first step.
            LimitError: when the runner was asked to stop.
        """
        started = time.perf_counter()
        for one in raced:
            require_finite(one.task, self._seed(0))
        runner.total = sum(self._trials(one.task, names) for one in raced)
        contests = tuple(self._contest(one, names, runner) for one in raced)
        profiles, problems = self._profiles([c for c in contests if c.ranked], names)
        changing = [one.task.name for one in raced if not same_batch(one.task)]
        notes = [
            f"{name} expects the same loss at every step, and the batches of {', '.join(changing)} do not give it that"
            for name in names
            if changing and Need.FULL_BATCH in find(name).needs
        ]
        for contest in contests:
            ends = [(e.method, at_edge(self._limited(find(e.method)), e.chosen)) for e in contest.entries if contest.ranked]
            edges = [f"{name} {end}" for name, end in ends if end]
            if edges:
                notes.append(
                    f"{contest.name}: the tuned rate lies at an end of its range ({', '.join(edges)}): a wider range may do better"
                )
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        seconds = time.perf_counter() - started
        return RaceResult(contests, profiles, problems, self.trials, self.seeds, self.seed, seconds, versions, tuple(notes), self.schedule)

    def _methods(self, task: Task, names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([*names, *(() if task.landscape else BASELINES)]))

    def _trials(self, task: Task, names: Sequence[str]) -> int:
        methods = len(self._methods(task, names))
        if task.landscape:
            return methods * self.trials
        finals = min(_FINALISTS, self.trials) * _CONFIRMATIONS
        return methods * (self.trials + finals + self.seeds + len(_RATES)) + (0 if task.target is not None else len(BASELINES) * self.seeds)

    def _seed(self, kind: int, k: int = 0) -> int:
        """Seeds of different kinds never meet: 0 tuning, 1 target, 2 race."""
        return int(np.random.SeedSequence([self.seed, kind, k]).generate_state(1)[0])

    def _contest(self, raced: Raced, names: Sequence[str], runner: Runner) -> Contest:
        task, methods = raced.task, [self._limited(find(name)) for name in self._methods(raced.task, names)]
        steps = self.steps or task.steps

        def setting(method: Method, point: dict[str, float], seed: int, share: float = 1.0) -> Setting:
            length = max(1, int(share * steps))
            every = min(task.every, length)
            return Setting(raced.spec, raced.fingerprint, raced.data, method.name, tuple(point.items()), seed, length, every, self.schedule)

        drawn = {m.name: points(m, self.trials, self.seed) for m in methods}
        tuning = self._each(
            runner, f"{task.name}: tuning", {m.name: [setting(m, p, self._seed(0)) for p in drawn[m.name]] for m in methods}
        )
        if task.landscape:
            best = {name: min(trials, key=lambda t: (t.final, t.best)) for name, trials in tuning.items()}
            entries = tuple(entry(m, m.name in names, tuning[m.name], best[m.name].point, None, path=best[m.name].path) for m in methods)
            return Contest(task.name, task.title, task.measure, None, steps, None, "", entries, relief(task.landscape))
        target, words = self._target(raced, methods, tuning, setting, runner)
        chosen = self._choose(f"{task.name}: choice", methods, tuning, target, setting, runner)
        near = {
            m.name: [{**chosen[m.name], "lr": rounded(chosen[m.name]["lr"] * f)} for f in _RATES] if "lr" in m.space else []
            for m in methods
        }
        fresh = [self._seed(2, k) for k in range(self.seeds)]
        wanted = {f"{m.name}/race": [setting(m, chosen[m.name], s) for s in fresh] for m in methods}
        wanted |= {f"{m.name}/rates": [setting(m, p, self._seed(0)) for p in near[m.name]] for m in methods}
        ran = self._each(runner, f"{task.name}: race", wanted)
        reference = ran[f"{REFERENCE}/race"]
        entries = [
            entry(
                m,
                m.name in names,
                tuning[m.name],
                chosen[m.name],
                target,
                rates=ran[f"{m.name}/rates"],
                runs=ran[f"{m.name}/race"],
                reference=reference,
                reference_name=REFERENCE,
                level=self.level,
            )
            for m in methods
        ]
        entries.sort(key=_rank)
        return Contest(task.name, task.title, task.measure, task.score_name, steps, target, words, tuple(entries))

    def _target(
        self, raced: Raced, methods: Sequence[Method], tuning: dict[str, list[RacedTrial]], setting: _MakeSetting, runner: Runner
    ) -> tuple[float, str]:
        if raced.task.target is not None:
            return raced.task.target, "given by the task"
        known = {m.name: m for m in methods}
        seeds = [self._seed(1, k) for k in range(self.seeds)]
        best = {name: min(tuning[name], key=lambda t: t.best).point for name in BASELINES}
        wanted = {name: [setting(known[name], best[name], s, _SHARE) for s in seeds] for name in BASELINES}
        ran = self._each(runner, f"{raced.task.name}: target", wanted)
        values = {name: sorted(t.best for t in trials) for name, trials in ran.items()}
        better = min(BASELINES, key=lambda name: values[name][(self.seeds - 1) // 2])
        reached = math.ceil(_SHARE * self.seeds)
        target = values[better][reached - 1]
        return (
            target,
            f"tuned {better}, the better of {' and '.join(BASELINES)}, reaches it in three quarters of the steps on {reached} of "
            f"{self.seeds} seeds of their own",
        )

    def _choose(
        self,
        stage: str,
        methods: Sequence[Method],
        tuning: dict[str, list[RacedTrial]],
        target: float,
        setting: _MakeSetting,
        runner: Runner,
    ) -> dict[str, dict[str, float]]:
        def order(trials: Sequence[RacedTrial]) -> tuple[int, float, float]:
            """Misses, then medians over the tuning seeds."""
            middle, steps = (len(trials) - 1) // 2, sorted(t.steps_to(target) for t in trials)
            return steps.count(math.inf), steps[middle], sorted(t.best for t in trials)[middle]

        finalists = {m.name: sorted(tuning[m.name], key=lambda t: order([t]))[:_FINALISTS] for m in methods}
        seeds = [self._seed(0, k + 1) for k in range(_CONFIRMATIONS)]
        wanted = {m.name: [setting(m, t.point, s) for t in finalists[m.name] for s in seeds] for m in methods}
        again = self._each(runner, stage, wanted)
        chosen = {}
        for name, trials in finalists.items():
            groups = [[t, *again[name][k * _CONFIRMATIONS : (k + 1) * _CONFIRMATIONS]] for k, t in enumerate(trials)]
            chosen[name] = min(groups, key=order)[0].point
        return chosen

    def _each(self, runner: Runner, stage: str, wanted: dict[str, list[Setting]]) -> dict[str, list[RacedTrial]]:
        """All settings at once, so that no worker waits for another method."""
        flat = iter(runner.run([s for settings in wanted.values() for s in settings], stage))
        return {name: [next(flat) for _ in settings] for name, settings in wanted.items()}

    def _limited(self, method: Method) -> Method:
        if self.rates is None or "lr" not in method.space:
            return method
        return replace(method, space={**method.space, "lr": LogUniform(*self.rates)})

    def _profiles(self, contests: Sequence[Contest], names: Sequence[str]) -> tuple[tuple[Series, ...], str]:
        """Over the tasks; over the seeds where there is one task."""
        if not contests:
            return (), ""
        shown = [e.method for e in contests[0].entries]
        by = [{e.method: e for e in c.entries} for c in contests]
        if len(contests) > 1:
            costs = [[_rank(entries[m])[0] for m in shown] for entries in by]
        else:
            costs = [[by[0][m].runs[k].steps for m in shown] for k in range(self.seeds)]
        # A target met before the first step costs nothing: count from one.
        profiles = performance_profile([[max(1.0, c) for c in row] for row in costs])
        series = tuple(Series(m, tuple(f for f, _ in p), tuple(s for _, s in p)) for m, p in zip(shown, profiles, strict=True))
        return series, f"{len(costs)} tasks, median steps" if len(contests) > 1 else f"the {len(costs)} seeds of {contests[0].name}"


def at_edge(method: Method, chosen: Mapping[str, float]) -> str:
    """Which end of its range the chosen rate is next to, within a twentieth of it; empty where neither."""
    low, high = method.space["lr"].at(0.0), method.space["lr"].at(1.0)
    place = math.log(method.rate(chosen) / low) / math.log(high / low)
    return "low" if place < 0.05 else "high" if place > 0.95 else ""


def _rank(e: Entry) -> tuple[float, int, float]:
    assert e.steps is not None and e.best is not None
    return e.steps.value, e.misses, e.best.value
