"""The edge of stability: curvature rises until descent is barely stable, and stays there while the loss goes on falling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.optim import SGD, Adam, Optimizer

from steepest.results import Claim, Figure, Interval, Series, Verdict
from steepest.studies.figures import band
from steepest.studies.sharpness_paths import Factory, Landscape, Path
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, together


@dataclass(frozen=True)
class EdgeOfStability(Study):
    """Full-batch descent on a small tanh network with squared loss, by several methods.

    Args:
        images: of scikit-learn's digits, all of them in each step.
        width: of the three hidden layers.
        steps: of each run.
        every: steps between two measurements of the curvature.
        rates: of gradient descent, the first for the runs with batches and with a rate that is cut.
        gentle: a rate at which the edge is not reached.
        momentum: of heavy ball and of Nesterov's method.
        heavy_rate, nesterov_rate: theirs.
        adam_rate: Adam's.
        batch: images in a batch.
    """

    name: ClassVar[str] = "edge-of-stability"
    question: ClassVar[str] = "Does the curvature rise to what the step size bears, and what does descent do there?"
    seeds: int = 5
    images: int = 200
    width: int = 24
    steps: int = 2000
    every: int = 40
    rates: tuple[float, ...] = (0.3, 0.2)
    gentle: float = 0.05
    momentum: float = 0.9
    heavy_rate: float = 0.2
    nesterov_rate: float = 0.06
    adam_rate: float = 0.005
    batch: int = 16

    def measure(self, progress: Progress) -> Findings:
        """Descend by each method from each seed."""
        paths: dict[str, list[Path]] = {}
        jobs = self._jobs()
        for k, (name, run) in enumerate(jobs.items()):
            progress(name, k / len(jobs))
            paths[name] = [run(seed) for seed in range(self.seeds)]
        plain = [self._plain(rate) for rate in self.rates]
        return Findings(
            f"a tanh network with three hidden layers of {self.width} on {self.images} of scikit-learn's digits with pixels of standard "
            f"deviation 0.4, half the squared distance to one-hot labels, which are shuffled but for one claim; all images in each step "
            f"but for one run, {self.steps} steps, float64; curvature every {self.every} steps by Lanczos",
            (
                *self._plain_claims(paths, plain),
                *self._momentum_claims(paths),
                *self._adam_claims(paths),
                *self._other_claims(paths),
            ),
            (
                self._levels(paths),
                Figure(
                    "Sharpness",
                    "step",
                    "largest eigenvalue of the Hessian",
                    tuple(_line(n, paths[n], lambda p: p.sharpness) for n in ("gentle", *plain, "Adam")),
                    log_y=True,
                    caption="Gradient descent ends the sharper the lower its rate; under Adam the sharpness itself has no such limit.",
                ),
                Figure(
                    "Training loss, first seed",
                    "step",
                    "loss",
                    tuple(_losses(n, paths[n][0]) for n in ("gentle", *plain)),
                    log_y=True,
                    caption="Smooth below the edge, ragged at it.",
                ),
            ),
        )

    def _jobs(self) -> dict[str, Callable[[int], Path]]:
        land, true = (Landscape(self.images, self.width, self.every, shuffled) for shuffled in (True, False))

        def run(factory: Factory, batch: int | None = None, cut: bool = False, land: Landscape = land) -> Callable[[int], Path]:
            return lambda seed: land.descend(seed, factory, self.steps, batch, self._cut if cut else _as_it_is)

        r, b = self.rates[0], self.momentum
        return {
            "gentle": run(lambda p: SGD(p, self.gentle)),
            **{self._plain(rate): run(_sgd(rate)) for rate in self.rates},
            "heavy ball": run(_sgd(self.heavy_rate, b)),
            "Nesterov": run(lambda p: SGD(p, self.nesterov_rate, b, nesterov=True)),
            "Adam": run(self._adam),
            "rate cut": run(_sgd(r), cut=True),
            "batches": run(_sgd(r), self.batch),
            "gradient descent, true labels": run(_sgd(r), land=true),
            "heavy ball, true labels": run(_sgd(self.heavy_rate, b), land=true),
            "Adam, true labels": run(self._adam, land=true),
        }

    def _cut(self, optimizer: Optimizer, step: int) -> None:
        if step == self.steps // 2:
            optimizer.param_groups[0]["lr"] /= 2.0

    def _adam(self, parameters: list[nn.Parameter]) -> Optimizer:
        return Adam(parameters, self.adam_rate)

    @staticmethod
    def _plain(rate: float) -> str:
        return f"gradient descent, {rate:g}"

    def _plain_claims(self, paths: dict[str, list[Path]], plain: Sequence[str]) -> tuple[Claim, ...]:
        rise = {n: _ratio([p.sharpening for p in paths[n]]) for n in plain}
        first = {n: mean_interval([p.ratios[0] for p in paths[n]]) for n in plain}
        levels = {n: mean_interval([p.level() for p in paths[n]]) for n in plain}
        ups = {n: mean_interval([p.rises[1] for p in paths[n]]) for n in plain}
        calm = {n: mean_interval([p.rises[0] for p in paths[n]]) for n in plain}
        left = {n: _ratio([p.progress for p in paths[n]]) for n in plain}
        flow = {
            "sharpness, last / first": _ratio([p.sharpness[-1] / p.sharpness[0] for p in paths["gentle"]]),
            "share of steps that raise the loss": mean_interval([sum(p.rises) for p in paths["gentle"]]),
        }
        return (
            Claim(
                "While gradient descent is stable the sharpness rises (progressive sharpening).",
                "Cohen et al. 2021, section 3.1",
                f"At rate {self.gentle:g}, where the edge is not reached, the last sharpness over the first is above 1.25; so is that at "
                "the edge over the first at each larger rate, which begins below 0.8 of the edge.",
                together([above(flow["sharpness, last / first"], 1.25), *(above(i, 1.25) for i in rise.values()), *_under(first, 0.8)]),
                f"It rises by a factor of {listed({'rate ' + format(self.gentle, 'g'): flow['sharpness, last / first'], **rise})}, from "
                f"{listed(first)} of the edge.",
                {**flow, **{f"sharpening, {n}": i for n, i in rise.items()}, **{f"first ratio, {n}": i for n, i in first.items()}},
            ),
            Claim(
                "It then stays at 2 / rate, or just above.",
                "Cohen et al. 2021, section 3.2",
                "The median of sharpness times rate / 2 over the second half of the run is within 0.1 of 1 at each rate.",
                _at_the_edge(levels),
                f"{listed(levels)}.",
                levels,
            ),
            Claim(
                "There the loss goes up and down from step to step, and falls over longer times.",
                "Cohen et al. 2021, section 3.3",
                "More than 0.1 of the steps after the arrival raise the loss, fewer than 0.01 before it, and the last loss is below 0.8 of "
                "that at the arrival, at each rate.",
                together([*(above(i, 0.1) for i in ups.values()), *_under(calm, 0.01), *_under(left, 0.8)]),
                f"Shares of steps that raise the loss after the arrival: {listed(ups)}; before: {listed(calm)}. Last loss over that at the "
                f"arrival: {listed(left)}.",
                {
                    **{f"rising after, {n}": i for n, i in ups.items()},
                    **{f"rising before, {n}": i for n, i in calm.items()},
                    **{f"loss, last / at arrival, {n}": i for n, i in left.items()},
                },
            ),
        )

    def _momentum_claims(self, paths: dict[str, list[Path]]) -> tuple[Claim, ...]:
        names = ("heavy ball", "Nesterov")
        levels = {n: mean_interval([p.level() for p in paths[n]]) for n in names}
        b, claims = self.momentum, []
        for name, formula, bears in (
            ("heavy ball", "(2 + 2 b) / rate", 1.0 + b),
            ("Nesterov", "(2 + 2 b) / ((1 + 2 b) rate)", (1.0 + b) / (1.0 + 2.0 * b)),
        ):
            over = mean_interval([bears * p.level() for p in paths[name]])
            claims.append(
                Claim(
                    f"{name[0].upper() + name[1:]}{'' if name == 'heavy ball' else chr(39) + 's method'} ends at its own edge, {formula}.",
                    "Cohen et al. 2021, section 3 and appendix B",
                    f"The median over the second half, in units of {formula}, is within 0.1 of 1; momentum {b:g}.",
                    _at_the_edge({name: levels[name]}),
                    f"{listed({name: levels[name], 'in units of 2 / rate': over})}.",
                    {name: levels[name], f"{name}, in units of 2 / rate": over},
                )
            )
        return tuple(claims)

    def _adam_claims(self, paths: dict[str, list[Path]]) -> tuple[Claim, ...]:
        runs = paths["Adam"]
        level = {"Adam": mean_interval([p.level() for p in runs])}
        growth = {
            "Adam": _ratio([p.growth for p in runs]),
            "gradient descent": _ratio([p.growth for p in paths[self._plain(self.rates[0])]]),
        }
        return (
            Claim(
                "Under Adam the sharpness of the preconditioned Hessian ends at (2 + 2 b1) / ((1 - b1) rate), 38 / rate.",
                "Cohen et al. 2022, section 3",
                "Its median over the second half of the run is within 0.1 of 1 in these units.",
                _at_the_edge(level),
                f"{listed(level)}.",
                level,
            ),
            Claim(
                "The sharpness itself goes on rising at Adam's edge, and not at gradient descent's.",
                "Cohen et al. 2022, section 4",
                "At the end over that at the arrival it is above 1.25 under Adam and within 0.25 of 1 under gradient descent.",
                together([above(growth["Adam"], 1.25), inside(_less(growth["gradient descent"], 1.0), 0.25)]),
                f"{listed(growth)}.",
                growth,
            ),
        )

    def _other_claims(self, paths: dict[str, list[Path]]) -> tuple[Claim, ...]:
        rate = self.rates[0]
        again = {"after the cut": mean_interval([p.level(0.2) for p in paths["rate cut"]])}
        small = {f"batches of {self.batch}": mean_interval([p.level() for p in paths["batches"]])}
        easy = {n: mean_interval([p.level() for p in runs]) for n, runs in paths.items() if "true labels" in n}
        return (
            Claim(
                "When the rate is halved the sharpness rises again, to the new edge.",
                "Cohen et al. 2021, section 3 and appendix on rate drops",
                f"From rate {rate:g} to half of it in the middle of the run: the median ratio over the last fifth is within 0.1 of 1.",
                _at_the_edge(again),
                f"{listed(again)}.",
                again,
            ),
            Claim(
                "With small batches the sharpness stays below 2 / rate.",
                "Jastrzebski et al. 2020, section 4; Cohen et al. 2021, section 6",
                f"The median of the sharpness of the whole loss over the second half is below 0.9 of 2 / rate, at rate {rate:g}.",
                below(small[f"batches of {self.batch}"], 0.9),
                f"{listed(small)}.",
                small,
            ),
            Claim(
                "With the images' own labels, which are learnt sooner, training ends at the edge as well.",
                "Cohen et al. 2021, section 3: on the usual tasks",
                "The median ratio over the second half is within 0.1 of 1, under gradient descent, heavy ball and Adam at the same rates.",
                _at_the_edge(easy),
                f"{listed(easy)}.",
                easy,
            ),
        )

    def _levels(self, paths: dict[str, list[Path]]) -> Figure:
        names = [n for n in paths if n not in ("gentle", "rate cut") and "true" not in n]
        return Figure(
            "Curvature in units of what the method bears",
            "step",
            "largest eigenvalue / threshold",
            tuple(_line(n, paths[n], lambda p: p.ratios) for n in names),
            caption="1 is the edge of each method.",
        )


def _sgd(rate: float, momentum: float = 0.0) -> Factory:
    return lambda p: SGD(p, rate, momentum)


def _as_it_is(optimizer: Optimizer, step: int) -> None:
    return None


def _ratio(values: Sequence[float]) -> Interval:
    return ratio_interval(values, [1.0] * len(values))


def _less(interval: Interval, by: float) -> Interval:
    return Interval(interval.value - by, interval.low - by, interval.high - by)


def _at_the_edge(levels: dict[str, Interval]) -> Verdict:
    return together(inside(_less(i, 1.0), 0.1) for i in levels.values())


def _under(levels: dict[str, Interval], margin: float) -> list[Verdict]:
    return [below(i, margin) for i in levels.values()]


def _line(name: str, runs: Sequence[Path], of: Callable[[Path], Sequence[float]]) -> Series:
    rows = list(zip(*(of(p) for p in runs), strict=True))
    return band(name, runs[0].at, rows, all(v > 0 for row in rows for v in row))


def _losses(name: str, path: Path) -> Series:
    every = max(1, len(path.losses) // 400)
    at = range(0, len(path.losses), every)
    return Series(name, tuple(at), tuple(path.losses[k] for k in at))
