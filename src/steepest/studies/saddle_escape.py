"""Saddles: whether and when descent leaves them, on its own and with a random push."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from steepest.race.tasks.saddle import height
from steepest.results import Claim, Figure, Interval, Series
from steepest.studies.chain_of_saddles import Chain, Perturbation, in_ball, steps_to_minimum
from steepest.studies.equal_units import EqualUnits, Path
from steepest.studies.figures import band
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import above, below, inside, mean_interval, ratio_interval, text, together

Gradient = Callable[[Tensor], Tensor]
_APART = 0.01


@dataclass(frozen=True)
class SaddleEscape(Study):
    """Landscapes with known saddles, and a network with equal hidden units.

    Args:
        starts: random ones per seed.
        steps: of gradient descent on the two landscapes.
        rate: there and on the chain.
        decades: starts are at distances ``10^-1 ... 10^-decades`` from the line that leads into the saddle.
        saddles: most saddles in a row.
        chains: random starts per seed on the chain.
        most: steps on the chain.
        train, width, batch, net_steps: images, hidden units, images in a batch and steps of the network.
        perturbation: standard deviation of what is added to the network's parameters.
        gd_rates, adam_rates: tried on the network.
    """

    name: ClassVar[str] = "saddle-escape"
    question: ClassVar[str] = "Does gradient descent leave saddles, how soon, and what helps?"
    seeds: int = 5
    starts: int = 400
    steps: int = 1500
    rate: float = 0.1
    decades: int = 12
    saddles: int = 7
    chains: int = 40
    most: int = 20000
    train: int = 256
    width: int = 8
    batch: int = 32
    net_steps: int = 800
    perturbation: float = 1e-4
    gd_rates: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    adam_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)

    def measure(self, progress: Progress) -> Findings:
        """From random starts, from near a saddle, from it, along a chain of them, and in a network."""
        seeds = range(self.seeds)
        progress("random starts", 0.0)
        reached = {
            "two minima": mean_interval([self._share_at_minimum(_height_gradient, 2, _to_either_minimum, s) for s in seeds]),
            "rank-one approximation": mean_interval([self._share_at_minimum(_rank_one_gradient, 10, _to_first_vector, s) for s in seeds]),
        }
        progress("near a saddle", 0.05)
        distances = [10.0**-k for k in range(1, self.decades + 1)]
        times = [[self._escape(d, s) for s in seeds] for d in distances]
        slopes = [float(np.polyfit([-math.log(d) for d in distances], [row[s] for row in times], 1)[0]) for s in seeds]
        slope = mean_interval([v * math.log1p(self.rate) for v in slopes])
        left = {
            "gradient descent": mean_interval([self._leaves(s, None) for s in seeds]),
            "perturbed": mean_interval([self._leaves(s, Perturbation()) for s in seeds]),
        }
        plain, pushed = self._chain(progress)
        last, before = self.saddles, self.saddles - 1
        factor, pushed_factor = ratio_interval(plain[last], plain[before]), ratio_interval(pushed[last], pushed[before])
        exact = Chain().factor(self.rate)
        alone, after = self._network(progress)
        spreads = {name: mean_interval(path.spread) for name, path in alone.items()}
        fastest = {name: min(paths.items(), key=lambda i: sum(i[1].steps_below(1.0))) for name, paths in after.items()}
        until = {name: [v + 1.0 for v in path.steps_below(1.0)] for name, (_, path) in fastest.items()}
        sooner = ratio_interval(until["gradient descent"], until["Adam"])
        return Findings(
            f"x^2/2 - y^2/2 + y^4/4 and |x x' - M|^2 / 4 with eigenvalues 1, 0.9, ... 0.1, {self.starts} random starts per seed, "
            f"{self.steps} "
            f"steps at {self.rate:g}; Du et al.'s chain with equal curvatures; a network of {self.width} equal tanh units on "
            f"{self.train} of "
            f"scikit-learn's digits, {self.net_steps} steps; perturbed: uniform in a ball of radius {Perturbation().radius:g} where "
            f"the gradient is small",
            (
                Claim(
                    "Gradient descent from a random start does not end at a strict saddle.",
                    "Lee et al. 2016, theorem 4",
                    "More than 0.99 of the starts end within 0.001 of a minimum, on both landscapes.",
                    together(above(i, 0.99) for i in reached.values()),
                    f"Shares: {_list(reached)}.",
                    reached,
                ),
                Claim(
                    "The time to leave a saddle grows like log(1 / distance): by 1 / log(1 + rate |curvature|) steps a nat.",
                    "Linearised; Du et al. 2017, section 3",
                    "The measured slope over that, less 1, is within 0.02.",
                    inside(_less(slope, 1.0), 0.02),
                    f"Measured over exact slope: {text(slope)}, at distances from 0.1 to 1e-{self.decades}.",
                    {"slope, measured / exact": slope},
                ),
                Claim(
                    "Exactly at a saddle gradient descent stays; with perturbations it leaves.",
                    "Jin et al. 2017, theorem 3; Ge et al. 2015",
                    f"Fewer than 0.01 of the runs that begin on the line into the saddle leave it within {self.steps} steps, and more "
                    "than 0.99 with perturbations.",
                    together([below(left["gradient descent"], 0.01), above(left["perturbed"], 0.99)]),
                    f"Shares that leave: {_list(left)}.",
                    left,
                ),
                Claim(
                    "Gradient descent can take a time exponential in the number of saddles on its way.",
                    "Du et al. 2017, theorem 4.1",
                    f"Passing {last} saddles takes more than 1.5 times as long as passing {before}, and the factor is within 10 % of the "
                    "exact one.",
                    together([above(factor, 1.5), inside(_less(_scaled(factor, 1.0 / exact), 1.0), 0.1)]),
                    f"The factor is {text(factor)}; exact in the long run: {exact:.3g}.",
                    {f"steps, {last} saddles / {before}": factor},
                ),
                Claim(
                    "With perturbations the time is polynomial.",
                    "Jin et al. 2017, theorem 3; Du et al. 2017, theorem 4.2",
                    f"The same factor is below 1.5; proportional to the saddles it would be {last / max(before, 1):.3g}.",
                    below(pushed_factor, 1.5),
                    f"The factor is {text(pushed_factor)}; {last} saddles take {text(mean_interval(pushed[last]))} steps, "
                    f"without perturbations {text(mean_interval(plain[last]))}.",
                    {f"steps, {last} saddles / {before}": pushed_factor},
                ),
                Claim(
                    "A network whose hidden units begin equal stays at that saddle under gradient descent and leaves it after a "
                    "perturbation.",
                    "Goodfellow et al. 2016, section 8.4; Jin et al. 2017",
                    f"After {self.net_steps} steps the units differ by less than {_APART} of their size, and by more after a perturbation.",
                    together([below(spreads["gradient descent"], _APART), above(spreads["perturbed"], _APART)]),
                    f"They differ by {text(spreads['gradient descent'])}, after a perturbation of {self.perturbation:g} by "
                    f"{text(spreads['perturbed'])}.",
                    {n: spreads[n] for n in ("gradient descent", "perturbed")},
                ),
                Claim(
                    "The noise of stochastic gradients leads away from saddles.",
                    "Daneshmand et al. 2018, theorem 2, who assume that it has a part along the way out",
                    f"From the same start the units differ by more than {_APART} of their size after training with batches.",
                    above(spreads["SGD"], _APART),
                    f"They differ by {text(spreads['SGD'])}: every batch gives equal units equal gradients, and the assumption does not "
                    "hold.",
                    {"SGD": spreads["SGD"]},
                ),
                Claim(
                    "Adaptive steps lead away from saddles.",
                    "Staib et al. 2019, section 4, who assume the same of the noise",
                    f"From the same start the units differ by more than {_APART} of their size after training with Adam, with batches or "
                    "without.",
                    together(above(spreads[n], _APART) for n in ("Adam", "Adam, batches")),
                    f"They differ by {text(spreads['Adam'])}, with batches by {text(spreads['Adam, batches'])}.",
                    {n: spreads[n] for n in ("Adam", "Adam, batches")},
                ),
                Claim(
                    "After the same perturbation Adam leaves sooner than gradient descent.",
                    "Staib et al. 2019, section 4",
                    "Steps until the loss is below 1 nat, each method at its best rate of four, gradient descent / Adam, are above 1.25.",
                    above(sooner, 1.25),
                    f"The ratio is {text(sooner)}, at rates {fastest['gradient descent'][0]:g} and {fastest['Adam'][0]:g}.",
                    {"steps, gradient descent / Adam": sooner},
                ),
            ),
            (
                Figure(
                    "Steps to leave a saddle",
                    "distance from the line into it",
                    "steps",
                    (
                        band("measured", distances, times),
                        Series("slope of the linearised descent", *_line(distances, times, self.rate)),
                    ),
                    log_x=True,
                ),
                Figure(
                    "Steps past so many saddles, medians over starts",
                    "saddles",
                    "steps",
                    (
                        band("gradient descent", list(plain), list(plain.values()), True),
                        band("perturbed", list(pushed), list(pushed.values()), True),
                    ),
                    log_y=True,
                ),
                Figure(
                    "Equal hidden units, training loss",
                    "step",
                    "loss, nats",
                    tuple(_curve(n, path) for n, path in {**alone, "Adam, perturbed": fastest["Adam"][1]}.items()),
                    log_y=True,
                    caption="Only perturbed units become different ones; the others remain a network of one.",
                ),
            ),
        )

    def _share_at_minimum(self, gradient: Gradient, dimension: int, distance: Callable[[Tensor], Tensor], seed: int) -> float:
        x = 2.0 * torch.rand(self.starts, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1.0
        for _ in range(self.steps):
            x = x - self.rate * gradient(x)
        return (distance(x) < 1e-3).double().mean().item()

    def _escape(self, distance: float, seed: int) -> float:
        """Steps until y is beyond the half of the way to the minimum."""
        x = 2.0 * torch.rand(1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1.0
        # The sign and the last digit of the distance are random too.
        x[0, 1] = distance * (1.0 if x[0, 1] > 0 else -1.0) * (0.8 + 0.4 * abs(float(x[0, 1])))
        steps = 0
        while abs(float(x[0, 1])) < 0.5:
            x = x - self.rate * _height_gradient(x)
            steps += 1
        return float(steps)

    def _leaves(self, seed: int, perturbation: Perturbation | None) -> float:
        """The share of starts on the line into the saddle that end at a minimum."""
        generator = torch.Generator().manual_seed(seed)
        x = 2.0 * torch.rand(self.starts, 2, dtype=torch.float64, generator=generator) - 1.0
        x[:, 1] = 0.0
        for t in range(self.steps):
            g = _height_gradient(x)
            # Perturbations end before the steps do: they would keep the minimum at a distance as well.
            if perturbation and t % perturbation.pause == 0 and t < self.steps // 2:
                small = g.norm(dim=1, keepdim=True) <= perturbation.gradient
                x = torch.where(small, x + in_ball(x.shape, perturbation.radius, generator), x)
                g = _height_gradient(x)
            x = x - self.rate * g
        return (_to_either_minimum(x) < 1e-3).double().mean().item()

    def _chain(self, progress: Progress) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
        """Median steps per seed, by the number of saddles, without and with perturbations."""
        plain: dict[int, list[float]] = {}
        pushed: dict[int, list[float]] = {}
        for d in range(1, self.saddles + 1):
            progress(f"{d} saddles in a row", 0.1 + 0.2 * (d - 1) / self.saddles)
            for found, perturbation in ((plain, None), (pushed, Perturbation())):
                found[d] = []
                for seed in range(self.seeds):
                    start = 2.0 * torch.rand(self.chains, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1.0
                    found[d].append(steps_to_minimum(Chain(), start, self.rate, self.most, perturbation, seed).median().item())
        return plain, pushed

    def _network(self, progress: Progress) -> tuple[dict[str, Path], dict[str, dict[float, Path]]]:
        """Paths from exactly equal units, and one after a perturbation; and all rates of two methods after it."""
        net = EqualUnits(range(self.seeds), self.net_steps, self.train, self.width)
        sgd, adam = self.gd_rates[0], self.adam_rates[1]
        progress("a network, equal units", 0.3)
        alone = {
            "gradient descent": net.train_with(lambda p: SGD(p, sgd)),
            "SGD": net.train_with(lambda p: SGD(p, sgd), self.batch),
            "Adam": net.train_with(lambda p: Adam(p, adam)),
            "Adam, batches": net.train_with(lambda p: Adam(p, adam), self.batch),
        }
        after: dict[str, dict[float, Path]] = {"gradient descent": {}, "Adam": {}}
        jobs = [(n, r) for n, rates in zip(after, (self.gd_rates, self.adam_rates), strict=True) for r in rates]
        for k, (name, rate) in enumerate(jobs):
            progress(f"a network, {name} after a perturbation", 0.55 + 0.45 * k / len(jobs))
            make = _sgd(rate) if name == "gradient descent" else _adam(rate)
            after[name][rate] = net.train_with(make, perturbation=self.perturbation)
        alone["perturbed"] = after["gradient descent"][sgd]
        return alone, after


def _sgd(rate: float) -> Callable[[list[nn.Parameter]], SGD]:
    return lambda p: SGD(p, rate)


def _adam(rate: float) -> Callable[[list[nn.Parameter]], Adam]:
    return lambda p: Adam(p, rate)


def _height_gradient(x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(height(leaf[:, 0], leaf[:, 1]).sum(), leaf)[0]


def _to_either_minimum(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0], x[:, 1].abs() - 1.0], 1).norm(dim=1)


_EIGENVALUES = torch.linspace(1.0, 0.1, 10, dtype=torch.float64)


def _rank_one_gradient(x: Tensor) -> Tensor:
    """Of ``|x x' - M|^2 / 4``: ``(x x' - M) x``; its saddles are 0 and the lesser eigenvectors of M."""
    return x.square().sum(1, keepdim=True) * x - _EIGENVALUES * x


def _to_first_vector(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1].abs() - 1.0, x[:, 1:]], 1).norm(dim=1)


def _line(distances: list[float], times: list[list[float]], rate: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Through the first mean, with a point every tenth of a decade."""
    first = sum(times[0]) / len(times[0])
    at = np.geomspace(distances[0], distances[-1], max(20, 10 * len(distances))).tolist()
    return tuple(at), tuple(first + math.log(distances[0] / d) / math.log1p(rate) for d in at)


def _curve(name: str, path: Path) -> Series:
    steps = path.losses.shape[1]
    at = list(range(0, steps, max(1, steps // 60)))
    return band(name, at, path.losses[:, at].T.clamp(min=1e-12).tolist(), True)


def _scaled(interval: Interval, by: float) -> Interval:
    return Interval(interval.value * by, interval.low * by, interval.high * by)


def _less(interval: Interval, by: float) -> Interval:
    return Interval(interval.value - by, interval.low - by, interval.high - by)


def _list(intervals: dict[str, Interval]) -> str:
    return "; ".join(f"{text(i)} ({name})" for name, i in intervals.items())
