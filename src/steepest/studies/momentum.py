"""Momentum on quadratics: the acceleration against its exact rates, and what is left of it when gradients are noisy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD

from steepest.optim import BarzilaiBorwein
from steepest.results import Claim, Figure, Interval, Series
from steepest.studies import quadratics
from steepest.studies.figures import band
from steepest.studies.noisy_quadratics import Noisy, floors
from steepest.studies.quadratics import Tuning
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import above, below, inside, mean_interval, ratio_interval, text, together

TUNINGS: dict[str, Callable[[float, float], Tuning]] = {
    "gradient descent": quadratics.gradient_descent,
    "heavy ball": quadratics.heavy_ball,
    "Nesterov": quadratics.nesterov,
    "Nesterov, tuned": quadratics.nesterov_fastest,
}
_LOSS = 1e6


@dataclass(frozen=True)
class Momentum(Study):
    """Quadratics of several condition numbers in random bases, largest curvature 1; torch's SGD at the tunings of the theory.

    Args:
        kappas: condition numbers, increasing.
        dimension: of the quadratics; curvatures are spaced geometrically.
        nats: the rate is measured while the distance falls by ``exp(nats)`` once more after having fallen by that, or
        most: for so many steps, where that takes longer.
        noisy: the condition number at which gradients are noisy.
        averaged: steps over which a floor is averaged.
        copies: independent runs per seed with noise.
    """

    name: ClassVar[str] = "momentum"
    question: ClassVar[str] = "How much does momentum accelerate, and does it still when gradients are noisy?"
    seeds: int = 5
    kappas: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0)
    dimension: int = 10
    nats: float = 150.0
    most: int = 15000
    noisy: float = 100.0
    averaged: int = 20000
    copies: int = 64

    def measure(self, progress: Progress) -> Findings:
        """Descend without noise at every condition number, then with noise at one."""
        rates: dict[str, dict[float, list[float]]] = {name: {} for name in TUNINGS}
        steps: dict[str, dict[float, list[float]]] = {name: {} for name in [*TUNINGS, "Barzilai-Borwein"]}
        for k, kappa in enumerate(self.kappas):
            progress(f"condition number {kappa:g}", 0.5 * k / len(self.kappas))
            for name, tune in TUNINGS.items():
                rates[name][kappa], steps[name][kappa] = self._descend(kappa, tune(1.0, 1.0 / kappa))
            steps["Barzilai-Borwein"][kappa] = [self._adaptive(kappa, seed) for seed in range(self.seeds)]
        progress("noisy gradients", 0.5)
        noisy = floors(Noisy(self.noisy, self.dimension, self.copies, self.averaged), range(self.seeds), progress)
        errors = {f"{n}, {k:g}": mean_interval(r) for n, by_kappa in rates.items() for k, r in by_kappa.items()}
        slopes = {
            n: mean_interval([_slope(self.kappas, [by[k][s] for k in self.kappas]) for s in range(self.seeds)]) for n, by in steps.items()
        }
        powers = {f"exponent, {n}": i for n, i in slopes.items() if n in TUNINGS}
        worst = max(errors.values(), key=lambda i: abs(i.value))
        wrong = {name: mean_interval([m / noisy.exact[name] - 1.0 for m in found]) for name, found in noisy.measured.items()}
        higher = {n: ratio_interval(noisy.measured[n], noisy.measured["gradient descent"]) for n in ("heavy ball", "Nesterov")}
        equal = {
            "floor, heavy ball / gradient descent": ratio_interval(
                noisy.measured["heavy ball, 0.9"], noisy.measured["gradient descent, slow"]
            ),
            "steps, heavy ball / gradient descent": ratio_interval(noisy.steps["heavy ball, 0.9"], noisy.steps["gradient descent, slow"]),
        }
        gains = {f"floor {f:.2g}": ratio_interval(plain, ball) for f, (plain, ball) in noisy.races.items()}
        strictest = list(gains.values())[-1]
        return Findings(
            f"quadratics with {self.dimension} curvatures spaced geometrically in [1 / k, 1], k from {self.kappas[0]:g} to "
            f"{self.kappas[-1]:g}, in random bases, from random starts, in float64; torch.optim.SGD at the parameters of the theory, "
            f"Barzilai and Borwein's step from this package. Noise: independent, variance 1 in each coordinate of each gradient, "
            f"k = {self.noisy:g}",
            (
                Claim(
                    "Gradient descent, heavy ball and Nesterov's method converge at their exact rates on quadratics.",
                    "Polyak 1964; Nesterov 2004, section 2.2; Lessard, Recht and Packard 2016, proposition 1",
                    "The logarithm of the measured factor a step over that of the exact one, less 1, is within 0.01 for each method and "
                    "each condition number.",
                    together(inside(i, 0.01) for i in errors.values()),
                    f"The largest deviation is {text(worst)}, of {len(errors)}.",
                    errors,
                ),
                Claim(
                    "Gradient descent takes a number of steps proportional to the condition number k, momentum one to its root.",
                    "Polyak 1964; Nesterov 2004, section 2.2",
                    "The slope of the logarithm of steps against that of k is within 0.1 of 1 and of 1/2.",
                    together(inside(_less(slopes[n], 1.0 if n == "gradient descent" else 0.5), 0.1) for n in TUNINGS),
                    f"Steps to a distance of 1e-6 grow with {_list(powers)}.",
                    powers,
                ),
                Claim(
                    "Barzilai and Borwein's step, which is told neither curvature, is accelerated too.",
                    "Fletcher 2005, section 2 (observed; proven are R-linear rates no better than gradient descent's)",
                    "The same exponent is below 0.75, half-way between the two.",
                    below(slopes["Barzilai-Borwein"], 0.75),
                    f"The exponent is {text(slopes['Barzilai-Borwein'])}.",
                    {"exponent": slopes["Barzilai-Borwein"]},
                ),
                Claim(
                    "Under noise of constant variance the loss ends at the floor that the stationary covariance S = A S A' + b b' gives.",
                    "Gitman et al. 2019, section 3; for heavy ball each coordinate has variance a (1 + b) / (h (1 - b) (2 (1 + b) - a h))",
                    "The measured loss over the exact one, less 1, is within 0.05 for each method.",
                    together(inside(i, 0.05) for i in wrong.values()),
                    f"It deviates by {_list(wrong)}.",
                    wrong,
                ),
                Claim(
                    "Acceleration does not lower that floor: at the parameters that are fast without noise momentum raises it.",
                    "Kidambi et al. 2018; Gitman et al. 2019, section 3",
                    "The floor of heavy ball, and of Nesterov's method, over gradient descent's at rate 1 is above 1.25.",
                    together(above(i, 1.25) for i in higher.values()),
                    f"It is higher by factors of {_list(higher)}.",
                    higher,
                ),
                Claim(
                    "At small rates heavy ball is gradient descent at rate / (1 - momentum): no faster, and with the same floor.",
                    "Yuan, Ying and Sayed 2016, section 4",
                    "At momentum 0.9 and rate 0.005 the floor, and the steps to twice it, over those of gradient descent at 0.05 are "
                    "within 10 % of 1.",
                    together(inside(_less(i, 1.0), 0.1) for i in equal.values()),
                    f"{_list(equal)}.",
                    equal,
                ),
                Claim(
                    "For a given floor no tuning of heavy ball reaches it sooner than gradient descent.",
                    "Kidambi et al. 2018, who claim it for noise that vanishes at the optimum; here its variance is constant",
                    "Steps of the best gradient descent over those of the best heavy ball, until the loss is twice the floor, are below "
                    "1.25 at the lowest floor.",
                    below(strictest, 1.25),
                    f"Gradient descent takes {_list(gains)} times as many steps; without noise about {math.sqrt(self.noisy):.2g} times.",
                    gains,
                ),
            ),
            (
                _steps_figure(steps),
                Figure(
                    f"Loss under noise, condition number {self.noisy:g}",
                    "steps",
                    "mean loss",
                    tuple(band(n, noisy.at, list(zip(*curves, strict=True)), True) for n, curves in noisy.curves.items()),
                    log_x=True,
                    log_y=True,
                    caption="The parameters that are fastest without noise; gradient descent at rate 1.",
                ),
                Figure(
                    "Steps to twice a floor, each method at its best tuning for that floor",
                    "floor",
                    "steps",
                    tuple(
                        band(name, list(noisy.races), [pair[i] for pair in noisy.races.values()], True)
                        for i, name in enumerate(("gradient descent", "heavy ball"))
                    ),
                    log_x=True,
                    log_y=True,
                ),
            ),
        )

    def _descend(self, kappa: float, tuning: Tuning) -> tuple[list[float], list[float]]:
        """Per seed: measured over exact log rate, less 1, and steps until the distance is a millionth."""
        hessians, x = self._problems(kappa)
        exact = -math.log(tuning.radius(_curvatures(kappa, self.dimension)))
        half = min(math.ceil(self.nats / exact), self.most)
        optimizer = SGD([x], tuning.rate, tuning.momentum, nesterov=tuning.nesterov)
        distances = [x.detach().norm(dim=1)]
        for _ in range(2 * half):
            x.grad = torch.bmm(hessians, x.detach().unsqueeze(-1)).squeeze(-1)
            optimizer.step()
            distances.append(x.detach().norm(dim=1))
        path = torch.stack(distances)
        rates = torch.log(path[half] / path[-1]) / half
        # The last time that the distance was larger, plus one.
        far = (path > path[0] / _LOSS).long() * torch.arange(1, len(path) + 1).unsqueeze(1)
        return (rates / exact - 1.0).tolist(), [float(v) for v in far.amax(0)]

    def _adaptive(self, kappa: float, seed: int) -> float:
        hessians, starts = self._problems(kappa)
        hessian, x = hessians[seed], torch.nn.Parameter(starts[seed].detach().clone())
        optimizer, steps, start = BarzilaiBorwein([x], lr=1.0), 0, float(x.detach().norm())
        while float(x.detach().norm()) > start / _LOSS and steps < 100 * self.most:
            x.grad = hessian @ x.detach()
            optimizer.step()
            steps += 1
        return float(max(steps, 1))

    def _problems(self, kappa: float) -> tuple[Tensor, torch.nn.Parameter]:
        """Hessians ``[seeds, n, n]`` and starts ``[seeds, n]``."""
        hessians, starts = [], []
        for seed in range(self.seeds):
            generator = torch.Generator().manual_seed(seed)
            basis = torch.linalg.qr(torch.randn(self.dimension, self.dimension, dtype=torch.float64, generator=generator)).Q
            hessians.append((basis * torch.from_numpy(_curvatures(kappa, self.dimension))) @ basis.T)
            starts.append(torch.randn(self.dimension, dtype=torch.float64, generator=generator))
        return torch.stack(hessians), torch.nn.Parameter(torch.stack(starts))


def _curvatures(kappa: float, dimension: int) -> quadratics.Array:
    return np.geomspace(1.0 / kappa, 1.0, dimension)


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(x) > 1 else 0.0


def _less(interval: Interval, by: float) -> Interval:
    return Interval(interval.value - by, interval.low - by, interval.high - by)


def _list(intervals: dict[str, Interval]) -> str:
    return "; ".join(f"{text(i)} ({name})" for name, i in intervals.items())


def _steps_figure(steps: dict[str, dict[float, list[float]]]) -> Figure:
    measured = [band(name, list(by), list(by.values()), True) for name, by in steps.items()]
    ends = list(steps["heavy ball"])
    kappas = np.geomspace(ends[0], ends[-1], 20).tolist()
    # log(1e6) over the exact log rate, without what a double root or the start adds.
    exact = [
        Series(f"{name}, exact rate", tuple(kappas), tuple(math.log(_LOSS) / _log_rate(TUNINGS[name], k) for k in kappas))
        for name in ("gradient descent", "heavy ball")
    ]
    return Figure(
        "Steps until the distance to the minimum is a millionth",
        "condition number",
        "steps",
        (*measured, *exact),
        log_x=True,
        log_y=True,
        caption="Lines without points are log 1e6 over the logarithm of the exact rate.",
    )


def _log_rate(tune: Callable[[float, float], Tuning], kappa: float) -> float:
    return -math.log(tune(1.0, 1.0 / kappa).radius(_curvatures(kappa, 10)))
