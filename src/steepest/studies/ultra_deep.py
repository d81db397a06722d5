"""Networks of a thousand layers: with which initialisations they train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from steepest.init import critical_, fixup_
from steepest.results import Claim, Figure, Interval
from steepest.studies.deep import FixupStack, Plain, dense
from steepest.studies.digits import load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, seeded
from steepest.studies.verdicts import above, below, mean_interval, text, together

_CHANCE = math.log(10)

# Kinds of network: activation's name and initialisation. The first of each half is the right one.
_TANH = ("tanh, critical orthogonal", "tanh, critical Gaussian", "tanh, torch's default", "tanh, chaotic (sigma_w = 1.5)")
_SKIPS = ("skips, Fixup", "skips, He")


@dataclass(frozen=True)
class UltraDeep(Study):
    """Tanh networks without skips and ReLU networks with, neither normalised, on digits; each at its best rate of a grid, seed by seed.

    A network trains where the mean training loss over the last tenth of the steps is finite and below half of chance, (ln 10) / 2.

    Args:
        depth: layers, an even number.
        width: of them.
        steps: of stochastic gradient descent without momentum.
        batch: samples in one.
        rates: the grid for networks without skips.
        skip_rates: the grid for those with skips.
        variance: of the pre-activations at the critical initialisation; small, so that layers are nearly linear.
    """

    name: ClassVar[str] = "ultra-deep"
    question: ClassVar[str] = "Does a network of a thousand layers train with the right initialisation, and only with it?"
    seeds: int = 3
    depth: int = 1000
    width: int = 32
    steps: int = 50
    batch: int = 64
    rates: tuple[float, ...] = (0.0003, 0.001)
    skip_rates: tuple[float, ...] = (0.06, 0.1)
    variance: float = 0.001

    def measure(self, progress: Progress) -> Findings:
        """Train every kind."""
        curves, final = {}, {}
        kinds = (*_TANH, *_SKIPS)
        for k, kind in enumerate(kinds):
            progress(kind, k / len(kinds))
            curves[kind], final[kind] = self._train(kind)
        found = {kind: mean_interval(values) for kind, values in final.items()}
        half = _CHANCE / 2
        gain = mean_interval([b - a for a, b in zip(final[_TANH[0]], final[_TANH[1]], strict=True)])

        def listed(names: tuple[str, ...]) -> dict[str, Interval]:
            return {f"loss, {n}": found[n] for n in names}

        def said(names: tuple[str, ...]) -> str:
            return "Training loss at the end: " + "; ".join(f"{n} {text(found[n])}" for n in names) + "."

        return Findings(
            f"{self.depth} layers of {self.width} on scikit-learn's digits without normalisation, {self.steps} steps of SGD without "
            f"momentum, batch {self.batch}; each at the best of {len(self.rates)} rates",
            (
                Claim(
                    f"A plain tanh network of {self.depth} layers trains from critical orthogonal weights.",
                    "Pennington et al. 2017; Xiao et al. 2018, section 3",
                    "The training loss at the end is below half of chance, 1.15.",
                    below(found[_TANH[0]], half),
                    said(_TANH[:1]),
                    listed(_TANH[:1]),
                ),
                Claim(
                    "It does not from torch's default (ordered phase) or from large weights (chaotic phase).",
                    "Schoenholz et al. 2017, section 4.3",
                    "The training loss at the end is above half of chance for both.",
                    together(above(found[n], half) for n in _TANH[2:]),
                    said(_TANH[2:]),
                    listed(_TANH[2:]),
                ),
                Claim(
                    "Critical Gaussian weights of the same scale learn more slowly than orthogonal ones, which have dynamical isometry.",
                    "Pennington et al. 2017, section 3",
                    "The loss of Gaussian weights less that of orthogonal ones is above 0.05 nats.",
                    above(gain, 0.05),
                    f"It is higher by {text(gain)} nats. {said(_TANH[1:2])}",
                    {"Gaussian - orthogonal": gain, **listed(_TANH[1:2])},
                ),
                Claim(
                    f"A residual ReLU network of {self.depth} layers without normalisation trains from Fixup and not from He's weights.",
                    "Zhang, Dauphin and Ma 2019, sections 2 and 4.1",
                    "The training loss at the end is below half of chance with Fixup, above it with He's.",
                    together([below(found[_SKIPS[0]], half), above(found[_SKIPS[1]], half)]),
                    said(_SKIPS),
                    listed(_SKIPS),
                ),
            ),
            (
                Figure(
                    f"Training loss of {self.depth} layers, each kind at its best rate",
                    "step",
                    "training loss",
                    tuple(
                        band(kind, list(range(0, self.steps, max(1, self.steps // 50))), list(zip(*rows, strict=True)), False)
                        for kind, rows in curves.items()
                    ),
                    caption="A loss that diverged or is above chance is drawn at chance, ln 10.",
                ),
            ),
        )

    def _train(self, kind: str) -> tuple[list[list[float]], list[float]]:
        """For each seed, at its best rate: the loss now and then, and at the end."""
        data = load_digits()
        seeds = range(self.seeds)
        rates = self.skip_rates if kind in _SKIPS else self.rates
        members = Replicas([seeded(lambda: self._network(kind), seed) for _ in rates for seed in seeds])
        order = orders(seeds, len(data.x), self.batch, self.steps).repeat(len(rates), 1, 1)
        losses = members.train(data.x, data.y, order, torch.tensor(rates).repeat_interleave(self.seeds)).double()
        losses = torch.where(losses.isfinite() & (losses < _CHANCE), losses, _CHANCE).view(len(rates), self.seeds, self.steps)
        last = losses[:, :, -max(1, self.steps // 10) :].mean(2)
        best = last.argmin(0)
        every = max(1, self.steps // 50)
        return [losses[best[s], s, ::every].tolist() for s in seeds], last.amin(0).tolist()

    def _network(self, kind: str) -> nn.Module:
        entry, head, layers = nn.Linear(64, self.width), nn.Linear(self.width, 10), dense(self.depth, self.width, bias=False)
        if kind in _SKIPS:
            if kind == "skips, Fixup":
                fixup_([nn.Sequential(*layers[k : k + 2]) for k in range(0, self.depth, 2)], head)
            else:
                critical_(nn.ModuleList(layers), torch.relu)
            return nn.Sequential(nn.Flatten(), entry, FixupStack(layers), head)
        body = nn.ModuleList(layers)
        if kind.startswith("tanh, critical"):
            critical_(body, torch.tanh, self.variance, orthogonal="orthogonal" in kind)
        elif "chaotic" in kind:
            for layer in layers:
                nn.init.normal_(layer.weight, 0.0, 1.5 / math.sqrt(self.width))
        small = math.sqrt(self.variance)
        return nn.Sequential(nn.Flatten(), entry, _Times(small), Plain(layers, torch.tanh), _Times(1 / small), head)


class _Times(nn.Module):
    """Multiplied by a fixed number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x
