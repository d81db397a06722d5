"""Normalisation layers compared: which learning rates they permit, and the loss they reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from steepest.layers import weight_standardise
from steepest.results import Claim, Figure
from steepest.studies.digits import load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, geometric, he_, seeded
from steepest.studies.verdicts import above, ratio_interval, text, together

_CHANCE = math.log(10)


def _identity(module: nn.Conv2d) -> nn.Module:
    return module


def _weight_norm(module: nn.Conv2d) -> nn.Module:
    parametrize.register_parametrization(module, "weight", _WeightNorm(module.weight))
    return module


class _WeightNorm(nn.Module):
    """Direction and length of each output's weight apart (Salimans and Kingma 2016), in operations that torch can batch."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.length = nn.Parameter(weight.detach().flatten(1).norm(dim=1))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (self.length / weight.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)


def _exact_spectral(module: nn.Conv2d) -> nn.Module:
    parametrize.register_parametrization(module, "weight", _Spectral())
    return module


class _Spectral(nn.Module):
    """The reshaped weight divided by its spectral norm (Miyato et al. 2018), which is found exactly, since the weights are small."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / torch.linalg.matrix_norm(weight.flatten(1), 2)


_Wrap = Callable[[nn.Conv2d], nn.Module]
_Layer = Callable[[int], nn.Module]

# What is done to a weight, and what follows each convolution.
_KINDS: dict[str, tuple[_Wrap, _Layer]] = {
    "none": (_identity, lambda c: nn.Identity()),
    "batch": (_identity, lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
    "layer": (_identity, lambda c: nn.GroupNorm(1, c)),
    "instance": (_identity, lambda c: nn.InstanceNorm2d(c, affine=True)),
    "group": (_identity, lambda c: nn.GroupNorm(4, c)),
    "weight": (_weight_norm, lambda c: nn.Identity()),
    "spectral": (_exact_spectral, lambda c: nn.Identity()),
    "group + weight standardisation": (weight_standardise, lambda c: nn.GroupNorm(4, c)),
}


def _network(kind: str, depth: int) -> nn.Module:
    wrap, norm = _KINDS[kind]
    convolutions = [nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)]
    convolutions += [nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth - 2)]
    head = nn.Linear(256, 10)
    he_(nn.ModuleList([*convolutions, head]))
    hidden = (part for c in convolutions for part in (wrap(c), norm(c.out_channels), nn.ReLU()))
    return nn.Sequential(*hidden, nn.Flatten(), head)


@dataclass(frozen=True)
class Normalisation(Study):
    """Convolutional networks of two depths on digits, each normalisation at each learning rate of a grid.

    A rate is usable where the mean training loss over the last tenth of the steps is finite and below half of chance, (ln 10) / 2.

    Args:
        steps: of stochastic gradient descent without momentum.
        batch: samples in one.
        depths: convolutions, at least two.
        low, high, ratio: the grid of rates.
    """

    name: ClassVar[str] = "normalisation"
    question: ClassVar[str] = "Which learning rates do normalisation layers permit, and does a network with them reach a lower loss?"
    seeds: int = 3
    steps: int = 100
    batch: int = 64
    depths: tuple[int, ...] = (3, 9)
    low: float = 0.01
    high: float = 10.0
    ratio: float = 10**0.25

    def measure(self, progress: Progress) -> Findings:
        """Train every kind at every depth and rate."""
        rates = geometric(self.low, self.high, self.ratio)
        final: dict[tuple[str, int], list[list[float]]] = {}
        jobs = [(kind, depth) for depth in self.depths for kind in _KINDS]
        for k, (kind, depth) in enumerate(jobs):
            progress(f"{depth} convolutions, {kind}", k / len(jobs))
            final[kind, depth] = self._train(kind, depth, rates)
        usable = {key: [_usable(rates, [row[s] for row in rows], self.ratio) for s in range(self.seeds)] for key, rows in final.items()}
        best = {key: [min(row[s] for row in rows) for s in range(self.seeds)] for key, rows in final.items()}

        def higher(statement: str, source: str, kinds: tuple[str, ...], base: str = "none") -> Claim:
            found = {
                f"{kind}, {depth} layers": ratio_interval(usable[kind, depth], usable[base, depth], self.ratio)
                for kind in kinds
                for depth in self.depths
            }
            return Claim(
                statement,
                source,
                "The ratio of largest usable rates is above 1.25 at every depth; its interval is widened by one step of the grid.",
                together(above(m, 1.25) for m in found.values()),
                f"The largest usable rate, over that with {base}: " + ", ".join(f"{k} {text(v)}" for k, v in found.items()) + ".",
                {f"{k} / {base}": v for k, v in found.items()},
            )

        def lower(statement: str, source: str, losses: dict[tuple[str, int], list[float]]) -> Claim:
            found = {f"{depth} layers": ratio_interval(losses["none", depth], losses["batch", depth]) for depth in self.depths}
            return Claim(
                statement,
                source,
                "The ratio of final training losses, none / batch, is above 1.1 at every depth.",
                together(above(m, 1.1) for m in found.values()),
                "The loss without, over that with batch normalisation: " + ", ".join(f"{text(v)} at {k}" for k, v in found.items()) + ".",
                {f"none / batch, {k}": v for k, v in found.items()},
            )

        return Findings(
            f"{' and '.join(map(str, self.depths))} convolutions of 16 channels on scikit-learn's digits, He's initialisation, "
            f"{self.steps} steps of SGD without momentum, batch {self.batch}, {len(rates)} rates from {rates[0]:g} to {rates[-1]:.3g}",
            (
                higher("Batch normalisation allows higher learning rates.", "Ioffe and Szegedy 2015, section 3.3", ("batch",)),
                higher(
                    "So do the other normalisations of activations: layer, instance and group.",
                    "Ba et al. 2016; Ulyanov et al. 2016; Wu and He 2018",
                    ("layer", "instance", "group"),
                ),
                higher(
                    "So does weight normalisation, which makes the step size stabilise itself.",
                    "Salimans and Kingma 2016, section 2.1",
                    ("weight",),
                ),
                higher(
                    "Bounding each layer's norm by one (spectral normalisation) does so too.",
                    "Miyato et al. 2018, read for classifiers",
                    ("spectral",),
                ),
                higher(
                    "Weight standardisation permits still higher rates than group normalisation alone.",
                    "Qiao et al. 2019, section 3",
                    ("group + weight standardisation",),
                    "group",
                ),
                lower(
                    "A network with batch normalisation reaches a lower training loss in equal steps, each at its best rate.",
                    "Ioffe and Szegedy 2015, section 4.2.2",
                    best,
                ),
                lower(
                    f"It does so already at an equal small rate, {rates[0]:.2g}.",
                    "Ioffe and Szegedy 2015, section 4.2.2 and figure 2, BN-Baseline",
                    {key: rows[0] for key, rows in final.items()},
                ),
            ),
            tuple(
                Figure(
                    f"Training loss at the end against the learning rate, {depth} convolutions",
                    "learning rate",
                    "training loss",
                    tuple(band(kind, rates, final[kind, depth], True) for kind in _KINDS),
                    log_x=True,
                    log_y=True,
                    caption="A loss that diverged or ended above chance is drawn at chance, ln 10.",
                )
                for depth in self.depths
            ),
        )

    def _train(self, kind: str, depth: int, rates: tuple[float, ...]) -> list[list[float]]:
        """The final losses ``[rates][seeds]``, none above chance."""
        data = load_digits()
        seeds = range(self.seeds)
        members = Replicas([seeded(lambda: _network(kind, depth), seed) for _ in rates for seed in seeds])
        order = orders(seeds, len(data.x), self.batch, self.steps).repeat(len(rates), 1, 1)
        losses = members.train(data.x, data.y, order, torch.tensor(rates).repeat_interleave(self.seeds))
        last = losses[:, -max(1, self.steps // 10) :].double().mean(1).view(len(rates), self.seeds)
        return torch.where(last.isfinite() & (last < _CHANCE), last, _CHANCE).tolist()


def _usable(rates: tuple[float, ...], losses: list[float], ratio: float) -> float:
    """The largest usable rate; a step below the grid where there is none."""
    return max((r for r, loss in zip(rates, losses, strict=True) if loss < _CHANCE / 2), default=rates[0] / ratio)
