"""Late gradients: what asynchronous workers win in time, and what the delay of their gradients costs in steps."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch.optim import SGD

from steepest.distributed import BackupWorkers, DelayCompensated, Downpour, Exponential, Heterogeneous, Stragglers
from steepest.distributed.delays import Delay
from steepest.distributed.method import Method
from steepest.optim import AdaDelay
from steepest.optim.descent import Closure
from steepest.results import Claim, Figure, Interval, Series
from steepest.studies.delayed_quadratics import implicit_momentum, largest_contracting_rate, mean_path
from steepest.studies.figures import band
from steepest.studies.quadratics import largest_stable_step
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, slope, text, together
from steepest.studies.workers import Arrival, MakeMethod, Race


@dataclass(frozen=True)
class LateGradients(Study):
    """Simulated workers on a parabola, and on a ReLU network with one hidden layer that is trained until its loss is low enough.

    Each step of a worker takes a random time of mean 1, a message none. A method's rate is the best of a grid, for each number of workers
    and each seed.

    Args:
        delayed: numbers of workers on the parabola, at equal times.
        momentum_workers, momentum_rate, momentum_steps, copies: of the mean path; runs per seed.
        workers: numbers of them on the network, from one; some, many: those at which methods are compared.
        width, batch, target, limit, extra, every: of the network's race.
        rates: halvings of the grid; fastest, fastest_together, fastest_adaptive: its first rate for asynchronous, synchronous
            and AdaDelay's descent.
    """

    name: ClassVar[str] = "staleness"
    question: ClassVar[str] = "How much sooner do many asynchronous workers arrive, and what does the delay of their gradients cost?"
    seeds: int = 5
    delayed: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    momentum_workers: int = 8
    momentum_rate: float = 0.3
    momentum_steps: int = 100
    copies: int = 40
    workers: tuple[int, ...] = (1, 4, 16, 64, 256)
    some: int = 16
    many: int = 64
    width: int = 16
    batch: int = 4
    target: float = 0.2
    limit: int = 4000
    extra: int = 10
    every: int = 25
    rates: int = 9
    fastest: float = 0.2
    fastest_together: float = 1.6
    fastest_adaptive: float = 0.4

    def measure(self, progress: Progress) -> Findings:
        """The parabola, then races of every method."""
        seeds = range(self.seeds)
        edges: dict[int, Interval] = {}
        for k, p in enumerate(self.delayed):
            progress(f"a parabola, {p} workers", 0.05 * k / len(self.delayed))
            edges[p] = largest_contracting_rate(p)
        progress("the mean path", 0.05)
        fits = [self._fit(seed) for seed in seeds]
        plain = self._scaling(progress)
        races = self._comparisons(progress, [runs.rate for runs in plain[self.many]])
        return Findings(
            f"simulated workers with exponential times of mean 1; x^2 / 2 in float64; a ReLU network 64-{self.width}-10 on scikit-learn's "
            f"digits, batches of {self.batch}, until the loss over the training set is {self.target:g}, looked at every {self.every} "
            f"gradients; the best of {self.rates} rates, halved each",
            (*self._parabola_claims(edges, fits), *self._scaling_claims(plain), *self._method_claims(plain, races)),
            (
                self._edge_figure(edges),
                Figure(
                    "Speed-up of asynchronous descent",
                    "workers",
                    "time of one worker / time",
                    (
                        band("measured", self.workers, self._speedups(plain), True),
                        Series("linear", tuple(map(float, self.workers)), tuple(map(float, self.workers))),
                    ),
                    log_x=True,
                    log_y=True,
                ),
                Figure(
                    "Gradients to the loss, and the best rate",
                    "workers",
                    "gradients; gradients of one worker x its best rate / rate",
                    (
                        band("gradients", self.workers, [[a.steps for a in plain[p]] for p in self.workers], True),
                        band(
                            "if they grew as the rate shrinks",
                            self.workers,
                            [
                                [one.steps * one.rate / a.rate for one, a in zip(plain[self.workers[0]], plain[p], strict=True)]
                                for p in self.workers
                            ],
                            True,
                        ),
                    ),
                    log_x=True,
                    log_y=True,
                ),
            ),
        )

    def _fit(self, seed: int) -> tuple[float, float]:
        """Coefficients of the path with implicit momentum and of plain descent in the mean path."""
        p, r, n = self.momentum_workers, self.momentum_rate, self.momentum_steps
        paths = np.stack([implicit_momentum(p, r, n), (1.0 - r) ** np.arange(n + 1)], 1)
        found = np.linalg.lstsq(paths, mean_path(p, r, n, self.copies, seed), rcond=None)[0]
        return float(found[0]), float(found[1])

    def _grid(self, fastest: float) -> tuple[float, ...]:
        return tuple(fastest * 0.5**k for k in range(self.rates))

    def _race(self) -> Race:
        return Race(self.width, self.batch, self.target, self.limit, self.extra, self.every)

    def _scaling(self, progress: Progress) -> dict[int, list[Arrival]]:
        found: dict[int, list[Arrival]] = {}
        near: list[float | None] = [None] * self.seeds
        for k, p in enumerate(self.workers):
            progress(f"a network, {p} workers", 0.1 + 0.5 * k / len(self.workers))
            found[p] = [
                self._race().best(_asynchronous, self._grid(self.fastest), p, Exponential(), seed, near[seed]) for seed in range(self.seeds)
            ]
            near = [a.rate for a in found[p]]
        return found

    def _comparisons(self, progress: Progress, near: Sequence[float]) -> dict[str, list[Arrival]]:
        late = Stragglers(Exponential(), share=0.02, factor=50.0)
        lasting = Heterogeneous(Exponential(), spread=1.0)
        jobs: dict[str, tuple[MakeMethod, float, int, Delay]] = {
            "stragglers": (_asynchronous, self.fastest, self.some, late),
            "synchronous": (lambda lr: BackupWorkers(_sgd(lr)), self.fastest_together, self.some, late),
            "compensated": (
                lambda lr: DelayCompensated(_sgd(lr), strength=2.0, momentum=0.95),
                4.0 * self.fastest,
                self.many,
                Exponential(),
            ),
            "AdaDelay": (lambda lr: Downpour(lambda p: AdaDelay(p, lr)), self.fastest_adaptive, self.many, lasting),
            "AdaDelay, not told": (lambda lr: Downpour(lambda p: _Untold(p, lr)), self.fastest_adaptive, self.many, lasting),
        }
        found: dict[str, list[Arrival]] = {}
        for k, (name, (make, fastest, workers, service)) in enumerate(jobs.items()):
            progress(f"a network, {name}", 0.6 + 0.4 * k / len(jobs))
            found[name] = [self._race().best(make, self._grid(fastest), workers, service, seed) for seed in range(self.seeds)]
        return found

    def _parabola_claims(self, edges: dict[int, Interval], fits: Sequence[tuple[float, float]]) -> tuple[Claim, ...]:
        errors = {f"delay {p - 1}": _over(found, largest_stable_step(p - 1)) for p, found in edges.items()}
        momentum, none = (mean_interval([f[k] for f in fits]) for k in range(2))
        return (
            Claim(
                "With gradients d updates old descent is stable up to a rate of 2 sin(pi / (4 d + 2)) / L, about pi / (2 d L).",
                "Levin and May 1976; Arjevani, Shamir and Srebro 2020",
                "The largest rate at which a run contracts over that, less 1, is within 0.02 at each delay; the interval is what is "
                "left of the search, nothing is random.",
                together(inside(i, 0.02) for i in errors.values()),
                f"{listed(errors)}.",
                errors,
            ),
            Claim(
                "Asynchrony begets momentum: with memoryless workers the mean path is heavy ball's with momentum 1 - 1 / p.",
                "Mitliagkas, Zhang, Hadjis and Re 2016, theorem 3",
                "In a least-squares fit of the mean path the coefficient of heavy ball's path is within 0.1 of 1, that of plain descent's "
                f"within 0.1 of 0; {self.momentum_workers} workers.",
                together([inside(_less(momentum, 1.0), 0.1), inside(none, 0.1)]),
                f"The coefficients are {text(momentum)} and {text(none)}.",
                {"heavy ball": momentum, "plain descent": none},
            ),
        )

    def _speedups(self, plain: dict[int, list[Arrival]]) -> list[list[float]]:
        one = plain[self.workers[0]]
        return [[a.time / b.time for a, b in zip(one, plain[p], strict=True)] for p in self.workers]

    def _scaling_claims(self, plain: dict[int, list[Arrival]]) -> tuple[Claim, ...]:
        seeds = range(self.seeds)
        serial = mean_interval([a.steps for a in plain[self.workers[0]]])
        share = {
            f"{p} workers": ratio_interval(row, [float(p)] * self.seeds)
            for p, row in zip(self.workers, self._speedups(plain), strict=True)
            if p > 1
        }
        root = math.sqrt(serial.value)
        within = {n: i for (n, i), p in zip(share.items(), self.workers[1:], strict=True) if p <= root}
        largest = list(share.values())[-1]
        far = [p for p in self.workers if p >= self.some]
        power = mean_interval([slope([math.log(p) for p in far], [math.log(plain[p][s].rate) for p in far]) for s in seeds])
        misfit = mean_interval([self._misfit([plain[p][s].steps for p in self.workers]) for s in seeds])
        grown = {f"{p} workers": ratio_interval([a.steps for a in plain[p]], [a.steps for a in plain[1]]) for p in self.workers if p > 1}
        return (
            Claim(
                "The speed-up is linear while the delay is below the root of the number of steps.",
                "Agarwal and Duchi 2011; Lian, Huang, Li and Liu 2015, corollary 2",
                f"The speed-up over the number of workers is above 0.5 at each number up to the root of one worker's steps, {root:.0f}.",
                together(above(i, 0.5) for i in within.values()) if within else together([above(largest, 0.5)]),
                f"{listed(share)}; one worker takes {text(serial)} steps.",
                share,
            ),
            Claim(
                "Far beyond it is not.",
                "Lian et al. 2015, corollary 2, by contrast; Arjevani et al. 2020",
                f"The same is below 0.25 at {self.workers[-1]} workers.",
                below(largest, 0.25),
                f"{text(largest)}.",
                {f"speed-up / workers, {self.workers[-1]}": largest},
            ),
            Claim(
                "There the rate has to shrink in proportion to the delay.",
                "Agarwal and Duchi 2011; Arjevani et al. 2020",
                f"The slope of the logarithm of the best rate against that of the workers, from {self.some} on, is within 0.25 of -1.",
                inside(_less(power, -1.0), 0.25),
                f"The exponent is {text(power)}.",
                {"exponent of the best rate": power},
            ),
            Claim(
                "The steps are those of one worker plus a number in proportion to the delay.",
                "Stich and Karimireddy 2020; Arjevani et al. 2020",
                "The largest relative deviation from the best line in the number of workers is below 0.25.",
                below(misfit, 0.25),
                f"It is {text(misfit)}; steps over those of one worker: {listed(grown)}.",
                {"misfit": misfit, **{f"steps, {n} / one": i for n, i in grown.items()}},
            ),
        )

    def _method_claims(self, plain: dict[int, list[Arrival]], races: dict[str, list[Arrival]]) -> tuple[Claim, ...]:
        def steps(over: Sequence[Arrival], under: Sequence[Arrival]) -> Interval:
            return ratio_interval([a.steps for a in over], [a.steps for a in under])

        passing = steps(races["stragglers"], plain[self.some])
        waiting = ratio_interval([a.time for a in races["synchronous"]], [a.time for a in races["stragglers"]])
        compensated, told = steps(plain[self.many], races["compensated"]), steps(races["AdaDelay, not told"], races["AdaDelay"])
        return (
            Claim(
                "It is the average delay that counts, not the largest: workers that are late now and then cost no steps.",
                "Koloskova, Stich and Jaggi 2022; Mishchenko, Bach, Even and Woodworth 2022",
                f"With one step in fifty fifty times as long, {self.some} workers take less than 1.25 times as many steps.",
                below(passing, 1.25),
                f"The ratio is {text(passing)}.",
                {"steps, stragglers / none": passing},
            ),
            Claim(
                "With such stragglers asynchronous workers arrive sooner than synchronous ones.",
                "Dutta et al. 2018; Lian et al. 2015",
                f"The time of {self.some} synchronous workers over that of asynchronous ones is above 1.25.",
                above(waiting, 1.25),
                f"The ratio is {text(waiting)}; in steps {text(steps(races['synchronous'], races['stragglers']))}.",
                {"time, synchronous / asynchronous": waiting},
            ),
            Claim(
                "Delay compensation saves steps.",
                "Zheng et al. 2017, section 6",
                f"With {self.many} workers, asynchronous / delay-compensated is above 1.25.",
                above(compensated, 1.25),
                f"The ratio is {text(compensated)}, at rates {_rates(plain[self.many])} and {_rates(races['compensated'])}.",
                {"steps, asynchronous / compensated": compensated},
            ),
            Claim(
                "Steps that shrink with each gradient's own delay save steps, where workers differ in speed.",
                "Sra, Yu, Li and Smola 2016 (AdaDelay)",
                f"With {self.many} workers of lasting different speed, AdaDelay that is not told the delays / AdaDelay is above 1.25.",
                above(told, 1.25),
                f"The ratio is {text(told)}, at rates {_rates(races['AdaDelay, not told'])} and {_rates(races['AdaDelay'])}.",
                {"steps, not told / told": told},
            ),
        )

    def _misfit(self, steps: Sequence[float]) -> float:
        """Of the line with the least squared relative deviations."""
        if not all(map(math.isfinite, steps)):
            return math.inf
        y = np.array(steps)
        rows = np.stack([1.0 / y, np.array(self.workers) / y], 1)
        found = np.linalg.lstsq(rows, np.ones(len(y)), rcond=None)[0]
        return float(np.abs(rows @ found - 1.0).max())

    def _edge_figure(self, edges: dict[int, Interval]) -> Figure:
        fine = np.unique(np.geomspace(1, self.delayed[-1], 40).round()).astype(int).tolist()
        return Figure(
            "Largest stable rate on a parabola of curvature 1",
            "workers",
            "rate",
            (
                Series("measured", tuple(map(float, edges)), tuple(e.value for e in edges.values())),
                Series("2 sin(pi / (4 delay + 2))", tuple(map(float, fine)), tuple(largest_stable_step(p - 1) for p in fine)),
            ),
            log_x=True,
            log_y=True,
            caption="Equal times: each gradient is older by one update per other worker.",
        )


class _Untold(AdaDelay):
    """Takes every gradient for one without delay."""

    # Without the argument by which it would be told.
    def step(self, closure: Closure | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().step(closure)


def _sgd(lr: float) -> Callable[..., SGD]:
    return lambda p: SGD(p, lr)


def _asynchronous(lr: float) -> Method:
    return Downpour(_sgd(lr))


def _rates(runs: Sequence[Arrival]) -> str:
    """The median rate."""
    return f"{sorted(a.rate for a in runs)[len(runs) // 2]:.3g}"


def _over(interval: Interval, by: float) -> Interval:
    """The quotient, less 1."""
    return Interval(interval.value / by - 1.0, interval.low / by - 1.0, interval.high / by - 1.0)


def _less(interval: Interval, by: float) -> Interval:
    return Interval(interval.value - by, interval.low - by, interval.high - by)
