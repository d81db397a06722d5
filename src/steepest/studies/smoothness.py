"""Batch normalisation and the smoothness of the loss, measured as Santurkar et al. do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from steepest.measures.landscape import AlongGradient, along_gradient
from steepest.results import Claim, Figure
from steepest.studies.covariate_shift import network
from steepest.studies.digits import load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import orders
from steepest.studies.study import Findings, Progress, Study, seeded
from steepest.studies.verdicts import above, ratio_interval, text, together

_Pick = Callable[[AlongGradient], float]


@dataclass(frozen=True)
class Smoothness(Study):
    """The loss and its gradient along the gradient, as networks with and without batch normalisation train at equal rates.

    Args:
        steps: of stochastic gradient descent without momentum.
        checkpoints: at how many of the steps the loss is looked at.
        batch: samples in one.
        rates: of both networks, one after the other; the loss is looked at from half to four times as far as a step goes.
        depth, width: of the network.
    """

    name: ClassVar[str] = "smoothness"
    question: ClassVar[str] = "Does batch normalisation make the loss smoother along the way that training takes?"
    seeds: int = 5
    steps: int = 200
    checkpoints: int = 20
    batch: int = 128
    rates: tuple[float, ...] = (0.01, 0.1)
    depth: int = 6
    width: int = 64

    def measure(self, progress: Progress) -> Findings:
        """Train both kinds of network at each rate and look along the gradient on the way."""
        found: dict[tuple[float, bool], list[list[AlongGradient]]] = {}
        for k, rate in enumerate(self.rates):
            for normalised in (False, True):
                progress(
                    f"{'with' if normalised else 'without'} batch normalisation, rate {rate:g}", (k + normalised / 2) / len(self.rates)
                )
                found[rate, normalised] = [self._train(seed, rate, normalised) for seed in range(self.seeds)]

        def values(pick: _Pick) -> dict[tuple[float, bool], list[list[float]]]:
            return {key: [[pick(look) for look in run] for run in runs] for key, runs in found.items()}

        def claim(statement: str, where: str, quantity: str, pick: _Pick) -> Claim:
            means = {key: [sum(run) / len(run) for run in runs] for key, runs in values(pick).items()}
            ratios = {f"rate {rate:g}": ratio_interval(means[rate, False], means[rate, True]) for rate in self.rates}
            return Claim(
                statement,
                f"Santurkar et al. 2018, section 3.1 and figure {where}",
                f"The {quantity}, its mean over training: the ratio none / batch is above 1.25 at every rate.",
                together(above(r, 1.25) for r in ratios.values()),
                f"The {quantity} without batch normalisation, over that with it: "
                + ", ".join(f"{text(r)} at {n}" for n, r in ratios.items()),
                {f"none / batch, {n}": r for n, r in ratios.items()},
            )

        def figure(title: str, quantity: str, pick: _Pick) -> Figure:
            at = [self.steps * k / self.checkpoints for k in range(self.checkpoints)]
            lines = [
                band(f"{name}, rate {rate:g}", at, list(zip(*values(pick)[rate, n], strict=True)), True)
                for rate in self.rates
                for name, n in (("none", False), ("batch", True))
            ]
            return Figure(title, "step", quantity, tuple(lines), log_y=True)

        return Findings(
            f"{self.depth} dense layers of {self.width} on scikit-learn's digits, He's initialisation, {self.steps} steps of SGD, batch "
            f"{self.batch}, equal rates with and without; means over {self.checkpoints} checkpoints, looking 0.5 to 4 times the rate ahead",
            (
                claim("With batch normalisation the loss varies less along the gradient.", "4a", "range of the loss", _range),
                claim("With it the gradient is more predictive.", "4b", "largest change of the gradient", _change),
                claim("With it the loss is effectively smoother.", "4c", "effective smoothness", _smoothness),
            ),
            (
                figure("Range of the loss along the gradient", "largest less least loss", _range),
                figure("Largest change of the gradient along it", "change of the gradient", _change),
                figure("Effective smoothness", "change of the gradient per distance", _smoothness),
            ),
        )

    def _train(self, seed: int, rate: float, normalised: bool) -> list[AlongGradient]:
        data = load_digits()
        model = seeded(lambda: network(self.depth, self.width, normalised), seed)
        optimizer = torch.optim.SGD(model.parameters(), rate)
        every = max(1, self.steps // self.checkpoints)
        distances = [rate * k for k in (0.5, 1.0, 2.0, 3.0, 4.0)]
        looks = []
        for step, batch in enumerate(orders([seed], len(data.x), self.batch, self.steps)[0]):
            x, y = data.x[batch], data.y[batch]
            if step % every == 0 and len(looks) < self.checkpoints:
                looks.append(along_gradient(model, functional.cross_entropy, (x, y), distances))
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return looks


def _range(look: AlongGradient) -> float:
    return look.loss_range[1] - look.loss_range[0]


def _change(look: AlongGradient) -> float:
    return look.gradient_range[1]


def _smoothness(look: AlongGradient) -> float:
    return look.smoothness
