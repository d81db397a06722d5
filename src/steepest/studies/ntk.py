"""The tangent kernel of wide networks: what it is at the start, how it changes in training, and whether it predicts the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.results import Claim, Figure, Interval
from steepest.studies.digits import Digits, load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import orders
from steepest.studies.study import Findings, Progress, Study, seeded
from steepest.studies.tangent_kernel import descent_of_kernel, kernel, limit_kernel, ntk_network
from steepest.studies.verdicts import above, below, inside, mean_interval, ratio_interval, slope, text, together


@dataclass(frozen=True)
class _Trained:
    """One network of the kernel's parametrisation: relative change of its kernel, relative error of its linearisation."""

    change: float
    error: float


@dataclass(frozen=True)
class _Usual:
    """One network as torch makes it: the part of its trained kernel across that at the start, growth of the norm, test accuracy."""

    change: float
    growth: float
    accuracy: float


@dataclass(frozen=True)
class NTK(Study):
    """Dense ReLU networks with two hidden layers: in the kernel's parametrisation at several widths, and as torch makes them.

    Args:
        widths: of the networks in the kernel's parametrisation.
        draws: networks per width and seed whose kernels are compared at the start.
        points: digits that they are trained on (even against odd), and as many that they are tried at.
        steps: of gradient descent on all points, at the rate at which the kernel's largest eigenvalue gives a factor of zero.
        labelled: digits that the widest network is trained on with all ten classes.
        usual: width of the networks in torch's parametrisation.
        epochs: of their training on all digits, by SGD with momentum 0.9 at rate 0.05 and batch 64.
    """

    name: ClassVar[str] = "ntk"
    question: ClassVar[str] = "Do wide networks train like their tangent kernel, and do networks of usual width?"
    seeds: int = 8
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    draws: int = 24
    points: int = 64
    steps: int = 200
    labelled: int = 256
    usual: int = 64
    epochs: int = 10

    def measure(self, progress: Progress) -> Findings:
        """Kernels at the start, then after training, then ten classes, then usual networks."""
        data = load_digits()
        x, other = data.x.flatten(1)[: self.points], data.test_x.flatten(1)[: self.points]
        y = 1.0 - 2.0 * (data.y[: self.points, None] % 2)
        spread: dict[int, list[float]] = {}
        distance: dict[int, list[float]] = {}
        trained: dict[int, list[_Trained]] = {}
        for k, width in enumerate(self.widths):
            progress(f"width {width}", 0.6 * k / len(self.widths))
            both = [self._start(x, width, seed) for seed in range(self.seeds)]
            spread[width], distance[width] = [s for s, _ in both], [d for _, d in both]
            trained[width] = [self._train(x, y, other, width, seed) for seed in range(self.seeds)]
        progress("ten classes", 0.6)
        accuracies = [self._ten_classes(data, seed) for seed in range(self.seeds)]
        progress("networks of usual width", 0.9)
        usual = [self._usual(data, seed) for seed in range(self.seeds)]
        regression = _accuracy(_regression(data), data.test_y)
        return Findings(
            f"two hidden ReLU layers on digits; in the kernel's parametrisation, widths {', '.join(map(str, self.widths))}: "
            f"{self.points} digits, even against odd, {self.steps} steps of descent, and {self.labelled} digits for ten classes; in "
            f"torch's own parametrisation, of width {self.usual}: all digits, {self.epochs} epochs of SGD",
            (
                *self._start_claims(spread, distance),
                *self._training_claims(trained),
                self._classes_claim(accuracies),
                *self._usual_claims(usual, regression),
            ),
            self._figures(spread, trained),
        )

    def _start_claims(self, spread: dict[int, list[float]], distance: dict[int, list[float]]) -> tuple[Claim, ...]:
        slopes, widest = self._slopes(spread), self.widths[-1]
        near = mean_interval(distance[widest])
        return (
            Claim(
                "At the start the kernel concentrates as the network widens: its variance falls like 1 / width.",
                "Jacot, Gabriel and Hongler 2018, theorem 1",
                "The slope of log(variance of the entries over networks) on log(width) is within 0.2 of -1.",
                inside(_shift(slopes, 1.0), 0.2),
                f"The slope is {text(slopes)}.",
                {"slope": slopes},
            ),
            Claim(
                "It concentrates at the deterministic kernel of infinite width.",
                "Jacot et al. 2018, theorem 1",
                f"The mean of {self.draws} kernels at width {widest} is within 0.05 of the limit, in Frobenius norm and relative to it.",
                below(near, 0.05),
                f"The relative distance is {text(near)}.",
                {"distance": near},
            ),
        )

    def _training_claims(self, trained: dict[int, list[_Trained]]) -> tuple[Claim, ...]:
        widest = self.widths[-1]
        change = self._slopes({w: [t.change for t in runs] for w, runs in trained.items()})
        error = self._slopes({w: [t.error for t in runs] for w, runs in trained.items()})
        last = {
            "change": mean_interval([t.change for t in trained[widest]]),
            "error": mean_interval([t.error for t in trained[widest]]),
        }
        return (
            Claim(
                "In training the kernel stays as it is, up to a relative change of the order of 1 / sqrt(width).",
                "Lee et al. 2019, theorem 2.1",
                "The slope of log(relative change in Frobenius norm) on log(width) is below -0.4.",
                below(change, -0.4),
                f"The slope is {text(change)}; at width {widest} the change is {text(last['change'])}.",
                {"slope": change, f"change, width {widest}": last["change"]},
            ),
            Claim(
                "The wide network follows the network made linear at its start.",
                "Lee et al. 2019, theorem 2.1",
                "At points not trained on, the difference over what the linear network learnt, in norm, has a slope in width below -0.4 "
                f"and is below 0.1 at width {widest}.",
                together((below(error, -0.4), below(last["error"], 0.1))),
                f"The slope is {text(error)}; at width {widest} the difference is {text(last['error'])}.",
                {"slope": error, f"difference, width {widest}": last["error"]},
            ),
        )

    def _classes_claim(self, accuracies: list[tuple[float, float]]) -> Claim:
        gap = mean_interval([network - predicted for network, predicted in accuracies])
        each = mean_interval([a for a, _ in accuracies]), mean_interval([b for _, b in accuracies])
        return Claim(
            "Regression with the kernel of infinite width answers as well as the trained wide network.",
            "Jacot et al. 2018, section 5; Lee et al. 2019, section 3",
            "Ten classes, equal rate and steps: the difference of test accuracies is within 0.02.",
            inside(gap, 0.02),
            f"Width {self.widths[-1]} answers {text(each[0])} rightly, the kernel {text(each[1])}; the difference is {text(gap)}.",
            {"network - kernel": gap},
        )

    def _usual_claims(self, usual: list[_Usual], regression: float) -> tuple[Claim, ...]:
        change, growth = mean_interval([u.change for u in usual]), ratio_interval([u.growth for u in usual], [1.0] * len(usual))
        better = mean_interval([u.accuracy - regression for u in usual])
        return (
            Claim(
                "Networks of usual width and parametrisation leave that regime: their kernel changes.",
                "Chizat, Oyallon and Bach 2019, section 3; Fort et al. 2020",
                "What is left of the trained kernel when the best multiple of that at the start is taken off, over its norm, is above 0.2.",
                above(change, 0.2),
                f"At width {self.usual}, in torch's own parametrisation, {text(change)} is left; its norm grows by {text(growth)}.",
                {"change": change},
            ),
            Claim(
                "And they answer better than the kernel, since they learn features.",
                "Chizat et al. 2019, section 3; Arora et al. 2019, On exact computation, section 1",
                "The difference of test accuracies, network less interpolation with the kernel of infinite width, is above 0.005.",
                above(better, 0.005),
                f"The difference is {text(better)}; the kernel answers {regression:.3f} rightly.",
                {"network - kernel": better},
            ),
        )

    def _figures(self, spread: dict[int, list[float]], trained: dict[int, list[_Trained]]) -> tuple[Figure, ...]:
        rows = {"kernel": [[t.change for t in trained[w]] for w in self.widths]}
        rows["linear network"] = [[t.error for t in trained[w]] for w in self.widths]
        return (
            Figure(
                "Variance of the kernel at the start",
                "width",
                "variance / mean square",
                (band("measured", self.widths, [spread[w] for w in self.widths], True),),
                log_x=True,
                log_y=True,
            ),
            Figure(
                "Relative change of the kernel, and error of the network made linear",
                "width",
                "relative to the start",
                tuple(band(name, self.widths, row, True) for name, row in rows.items()),
                log_x=True,
                log_y=True,
            ),
        )

    def _slopes(self, values: dict[int, list[float]]) -> Interval:
        logs = [math.log(w) for w in self.widths]
        return mean_interval([slope(logs, [math.log(values[w][s]) for w in self.widths]) for s in range(self.seeds)])

    def _start(self, x: Tensor, width: int, seed: int) -> tuple[float, float]:
        """The variance of the kernel over networks, and the distance of its mean from the limit, both relative to the limit."""
        torch.manual_seed(1000 * seed + width)
        found = torch.stack([kernel(ntk_network(x.shape[1], width, 1), x).double() for _ in range(self.draws)])
        limit = limit_kernel(x)
        return float(found.var(0).sum() / limit.square().sum()), float((found.mean(0) - limit).norm() / limit.norm())

    def _train(self, x: Tensor, y: Tensor, other: Tensor, width: int, seed: int) -> _Trained:
        model = seeded(lambda: ntk_network(x.shape[1], width, 1), seed)
        before, cross = kernel(model, x), kernel(model, other, x)
        start, elsewhere = model(x).detach(), model(other).detach()
        rate = len(x) / float(torch.linalg.eigvalsh(before.double())[-1])
        _descend(model, x, y, rate, self.steps)
        predicted = descent_of_kernel(before, cross, start, elsewhere, y, rate, self.steps)
        wrong = (model(other).detach() - predicted).norm() / (predicted - elsewhere).norm()
        return _Trained(float((kernel(model, x) - before).norm() / before.norm()), float(wrong))

    def _ten_classes(self, data: Digits, seed: int) -> tuple[float, float]:
        """Test accuracies of the widest network and of its kernel of infinite width, descended alike from the network's start."""
        x, other = data.x.flatten(1)[: self.labelled], data.test_x.flatten(1)
        y = functional.one_hot(data.y[: self.labelled], 10).float()
        model = seeded(lambda: ntk_network(x.shape[1], self.widths[-1], 10), seed)
        limit = limit_kernel(x)
        rate = len(x) / float(torch.linalg.eigvalsh(limit)[-1])
        start, elsewhere = model(x).detach(), model(other).detach()
        _descend(model, x, y, rate, self.steps)
        predicted = descent_of_kernel(limit, limit_kernel(other, x), start, elsewhere, y, rate, self.steps)
        return _accuracy(model(other).detach(), data.test_y), _accuracy(predicted, data.test_y)

    def _usual(self, data: Digits, seed: int) -> _Usual:
        x, look = data.x.flatten(1), data.x.flatten(1)[: self.points]
        model = seeded(lambda: _plain(x.shape[1], self.usual), seed)
        before = kernel(model, look)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        for batch in orders([seed], len(x), 64, self.epochs * (len(x) // 64))[0]:
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), data.y[batch]).backward()
            optimizer.step()
        after = kernel(model, look)
        cosine = float((after * before).sum() / after.norm() / before.norm())
        growth = float(after.norm() / before.norm())
        return _Usual(math.sqrt(1.0 - min(cosine**2, 1.0)), growth, _accuracy(model(data.test_x.flatten(1)).detach(), data.test_y))


def _plain(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def _descend(model: nn.Module, x: Tensor, y: Tensor, rate: float, steps: int) -> None:
    """Gradient descent on ``|f - y|^2 / (2 n)``."""
    weights = list(model.parameters())
    for _ in range(steps):
        gradients = torch.autograd.grad((model(x) - y).square().sum() / (2 * len(x)), weights)
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w -= rate * g


def _regression(data: Digits) -> Tensor:
    """Interpolation of all training digits with the kernel of infinite width, at the test digits."""
    x = data.x.flatten(1)
    return limit_kernel(data.test_x.flatten(1), x) @ torch.linalg.solve(limit_kernel(x), functional.one_hot(data.y, 10).double())


def _accuracy(outputs: Tensor, y: Tensor) -> float:
    return float((outputs.argmax(1) == y).double().mean())


def _shift(interval: Interval, by: float) -> Interval:
    return Interval(interval.value + by, interval.low + by, interval.high + by)
