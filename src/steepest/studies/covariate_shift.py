"""Batch normalisation and internal covariate shift, by both definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.measures.covariate_shift import gradient_shift, input_shift
from steepest.results import Claim, Figure
from steepest.studies.digits import load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import orders
from steepest.studies.study import Findings, Progress, Study, he_, seeded
from steepest.studies.verdicts import above, ratio_interval, text, together


def network(depth: int, width: int, normalised: bool) -> nn.Module:
    """Dense layers and ReLU on 8 x 8 images, with batch normalisation before each ReLU or without, initialised after He et al."""
    layers: list[nn.Module] = [nn.Flatten()]
    for k in range(depth):
        layers += [nn.Linear(64 if k == 0 else width, width)]
        layers += [nn.BatchNorm1d(width), nn.ReLU()] if normalised else [nn.ReLU()]
    return he_(nn.Sequential(*layers, nn.Linear(width, 10)))


@dataclass(frozen=True)
class _Shifts:
    """Means over the layers after the first, at each checkpoint."""

    disturbed: list[float]
    stepped: list[float]
    gradient: list[float]
    cosine: list[float]


@dataclass(frozen=True)
class CovariateShift(Study):
    """A dense network on digits with and without batch normalisation at equal learning rates, looked at as it trains.

    Args:
        steps: of stochastic gradient descent without momentum.
        checkpoints: at how many of the steps the shifts are measured.
        batch: samples in one.
        rates: of both networks, one after the other.
        depth, width: of the network.
        disturbance: size of a random change of all weights, in units of their norm, layer by layer.
    """

    name: ClassVar[str] = "covariate-shift"
    question: ClassVar[str] = (
        "Does batch normalisation make the inputs of hidden layers more stable, and does it reduce internal covariate shift?"
    )
    seeds: int = 5
    steps: int = 200
    checkpoints: int = 10
    batch: int = 128
    rates: tuple[float, ...] = (0.01, 0.1)
    depth: int = 6
    width: int = 64
    disturbance: float = 0.1

    def measure(self, progress: Progress) -> Findings:
        """Train both kinds of network at each rate and measure the shifts on the way."""
        found: dict[tuple[float, bool], list[_Shifts]] = {}
        for k, rate in enumerate(self.rates):
            for normalised in (False, True):
                progress(
                    f"{'with' if normalised else 'without'} batch normalisation, rate {rate:g}", (k + normalised / 2) / len(self.rates)
                )
                found[rate, normalised] = [self._train(seed, rate, normalised) for seed in range(self.seeds)]

        def claim(statement: str, source: str, quantity: str, pick: Callable[[_Shifts], list[float]]) -> Claim:
            means = {key: [sum(pick(run)) / len(pick(run)) for run in runs] for key, runs in found.items()}
            ratios = {f"rate {rate:g}": ratio_interval(means[rate, False], means[rate, True]) for rate in self.rates}
            return Claim(
                statement,
                source,
                f"The {quantity}: the ratio none / batch is above 1.25 at every rate.",
                together(above(r, 1.25) for r in ratios.values()),
                f"The {quantity} without batch normalisation, over that with it: "
                + ", ".join(f"{text(r)} at {n}" for n, r in ratios.items()),
                {f"none / batch, {n}": r for n, r in ratios.items()},
            )

        def figure(title: str, quantity: str, pick: Callable[[_Shifts], list[float]], logarithmic: bool, caption: str) -> Figure:
            at = [self.steps * k / self.checkpoints for k in range(self.checkpoints)]
            lines = [
                band(f"{name}, rate {rate:g}", at, list(zip(*map(pick, found[rate, n]), strict=True)), logarithmic)
                for rate in self.rates
                for name, n in (("none", False), ("batch", True))
            ]
            return Figure(title, "step", quantity, tuple(lines), log_y=logarithmic, caption=caption)

        return Findings(
            f"{self.depth} dense layers of {self.width} on scikit-learn's digits, He's initialisation, {self.steps} steps of SGD, batch "
            f"{self.batch}; equal rates with and without; means over the layers after the first and over {self.checkpoints} checkpoints",
            (
                claim(
                    "Batch normalisation makes the inputs of hidden layers more stable under changes of earlier layers.",
                    "Ioffe and Szegedy 2015, section 1; Sun 2019, section 5.3",
                    f"distance that inputs move when all weights change at random by {self.disturbance:.0%} of their norm",
                    lambda s: s.disturbed,
                ),
                claim(
                    "It reduces internal covariate shift as its inventors define it: how a training step changes the inputs' distribution.",
                    "Ioffe and Szegedy 2015, section 2",
                    "distance that inputs move in one training step",
                    lambda s: s.stepped,
                ),
                claim(
                    "It reduces internal covariate shift as Santurkar et al. define it: how the step of earlier layers changes a gradient.",
                    "Santurkar et al. 2018, definition 2.1; they found that it does not (section 2.2)",
                    "change of a layer's gradient, relative to its norm, when the layers before have stepped",
                    lambda s: s.gradient,
                ),
            ),
            (
                figure(
                    "How far inputs of hidden layers move in one training step",
                    "standard deviations",
                    lambda s: s.stepped,
                    True,
                    "2-Wasserstein distance of each unit's inputs over a batch, before and after the step.",
                ),
                figure(
                    f"How far they move when all weights change at random by {self.disturbance:.0%}",
                    "standard deviations",
                    lambda s: s.disturbed,
                    True,
                    "The same distance, at the same moments of training.",
                ),
                figure(
                    "How far a layer's gradient changes when the layers before it step",
                    "relative change",
                    lambda s: s.gradient,
                    True,
                    "Santurkar's internal covariate shift over the gradient's norm; 1 is a change as large as the gradient.",
                ),
                figure(
                    "Cosine between both gradients",
                    "cosine",
                    lambda s: s.cosine,
                    False,
                    "Of a layer's gradient before and after the layers before it step.",
                ),
            ),
        )

    def _train(self, seed: int, rate: float, normalised: bool) -> _Shifts:
        data = load_digits()
        model = seeded(lambda: network(self.depth, self.width, normalised), seed)
        optimizer = torch.optim.SGD(model.parameters(), rate)
        order = orders([seed], len(data.x), self.batch, self.steps)[0]
        dense = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][1:]
        every = max(1, self.steps // self.checkpoints)
        shifts = _Shifts([], [], [], [])
        generator = torch.Generator().manual_seed(seed)
        for step, batch in enumerate(order):
            x, y = data.x[batch], data.y[batch]
            looked_at = step % every == 0 and step // every < self.checkpoints
            before = {n: p.detach().clone() for n, p in model.named_parameters()} if looked_at else {}
            if looked_at:
                moved = input_shift(model, x, self._disturbed(before, generator), dense)
                shifts.disturbed.append(sum(s.distance for s in moved) / len(moved))
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if looked_at:
                after = {n: p.detach().clone() for n, p in model.named_parameters()}
                with torch.no_grad():
                    for n, p in model.named_parameters():
                        p.copy_(before[n])
                moved = input_shift(model, x, after, dense)
                shifts.stepped.append(sum(s.distance for s in moved) / len(moved))
                turned = [s for s in gradient_shift(model, functional.cross_entropy, (x, y), after) if s.layer in dense]
                shifts.gradient.append(sum(s.difference / max(s.norm, 1e-30) for s in turned) / len(turned))
                shifts.cosine.append(sum(s.cosine for s in turned) / len(turned))
                with torch.no_grad():
                    for n, p in model.named_parameters():
                        p.copy_(after[n])
        return shifts

    def _disturbed(self, parameters: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        changed = {}
        for name, p in parameters.items():
            if p.dim() == 2:
                noise = torch.randn(p.shape, generator=generator)
                changed[name] = p + self.disturbance * noise * (p.norm() / noise.norm())
        return changed
