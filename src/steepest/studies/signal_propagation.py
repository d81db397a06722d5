"""Exploding and vanishing gradients against initialisation, depth and width, beside mean field theory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.numerics.mean_field import Activation, fixed_variance, slope
from steepest.results import Claim, Figure, Interval, Series
from steepest.studies.figures import band
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import below, inside, mean_interval, text, together

_ACTIVATIONS: dict[str, Activation] = {"relu": torch.relu, "tanh": torch.tanh}


@dataclass(frozen=True)
class SignalPropagation(Study):
    """Squared gradients in random dense networks without training.

    Weights have the variance sigma_w^2 / width, biases sigma_b = 0.05 (ReLU: none). Inputs have the variance that the layers settle at, so
    that all layers are alike.

    Args:
        depth: layers.
        nets: networks per seed.
        widths: increasing; exponents are compared with theory at the largest.
        relu, tanh: the weights' sigma_w for each activation.
    """

    name: ClassVar[str] = "signal-propagation"
    question: ClassVar[str] = (
        "Do gradients explode and vanish with depth as mean field theory predicts from the initialisation, and what does width do?"
    )
    seeds: int = 5
    depth: int = 60
    nets: int = 32
    widths: tuple[int, ...] = (32, 64, 128, 256)
    relu: tuple[float, ...] = (3**-0.5, 1.0, 2**0.5, 3**0.5)
    tanh: tuple[float, ...] = (0.8, 1.0, 1.25, 2.0)

    def measure(self, progress: Progress) -> Findings:
        """Draw networks, send gradients back, compare."""
        widest = self.widths[-1]
        configurations = [("relu", s) for s in self.relu] + [("tanh", s) for s in self.tanh]
        growth: dict[tuple[str, float], list[float]] = {}
        curves: dict[tuple[str, float], list[list[float]]] = {}
        for k, (name, weight_std) in enumerate(configurations):
            progress(f"{name}, sigma_w {weight_std:.3g}", 0.7 * k / len(configurations))
            runs = [self._gradients(name, weight_std, widest, seed) for seed in range(self.seeds)]
            # The mean of squares, as the theory has it: the mean over the networks of one seed.
            curves[name, weight_std] = [run.mean(1).log10().tolist() for run in runs]
            growth[name, weight_std] = [_line(run.mean(1).log()) for run in runs]
        predicted = {key: math.log(slope(_ACTIVATIONS[key[0]], _settled(*key), key[1])) for key in configurations}
        errors = {key: mean_interval([g - predicted[key] for g in growth[key]]) for key in configurations}
        he, default = ("relu", self.relu[2]), ("relu", self.relu[0])
        spreads = []
        for k, width in enumerate(self.widths):
            progress(f"width {width}", 0.7 + 0.3 * k / len(self.widths))
            ends = [self._gradients("relu", 2**0.5, width, seed)[-1].log() for seed in range(self.seeds)]
            spreads.append([float(end.var()) for end in ends])
        exponent = mean_interval(
            [_fit([math.log(w) for w in self.widths], [math.log(row[s]) for row in spreads]) for s in range(self.seeds)]
        )
        size = mean_interval([spreads[-1][s] * widest / self.depth for s in range(self.seeds)])
        he_growth, default_growth = mean_interval(growth[he]), mean_interval(growth[default])
        return Findings(
            f"random dense networks of {self.depth} layers, not trained; {self.nets} networks per seed; exponents at width {widest}",
            (
                Claim(
                    "Squared gradients grow or shrink by chi_1 a layer: they vanish in the ordered phase and explode in the chaotic one.",
                    "Poole et al. 2016; Schoenholz et al. 2017, section 4",
                    "The measured growth of the logarithm a layer is within 0.05 of log chi_1, at every sigma_w.",
                    together(inside(e, 0.05) for e in errors.values()),
                    "Measured less predicted: " + "; ".join(f"{n} {s:.2f}: {text(e)}" for (n, s), e in errors.items()) + ".",
                    {f"{n}, sigma_w {s:.3g}": e for (n, s), e in errors.items()},
                ),
                Claim(
                    "He's initialisation (sigma_w^2 = 2) keeps gradients in ReLU networks; "
                    "torch's default of dense layers (1/3) lets them vanish.",
                    "He et al. 2015, section 2.2",
                    "He's growth of the logarithm a layer is within 0.05 of zero, the default's is below -0.5.",
                    together([inside(he_growth, 0.05), below(default_growth, -0.5)]),
                    f"He: {text(he_growth)}; default: {text(default_growth)}, a factor {math.exp(default_growth.value):.2g} a layer.",
                    {"He, log growth a layer": he_growth, "default, log growth a layer": default_growth},
                ),
                Claim(
                    "At the critical initialisation single networks still differ, the more the deeper and narrower they are: for ReLU the "
                    "variance of the logarithm of the squared gradient is about 5 depth / width.",
                    "Hanin and Nica 2020, theorem 1; Hanin 2018",
                    "The exponent of the width is within 0.25 of -1, and variance x width / depth is within 2.5 of 5 at the widest.",
                    together([inside(_moved(exponent, 1.0), 0.25), inside(_moved(size, -5.0), 2.5)]),
                    f"The exponent is {text(exponent)}; variance x width / depth is {text(size)}.",
                    {"exponent of the width": exponent, "variance x width / depth": size},
                ),
            ),
            (
                Figure(
                    "Growth of the squared gradient a layer, measured against predicted",
                    "log chi_1",
                    "measured",
                    (
                        *(
                            band(
                                name,
                                [predicted[c] for c in configurations if c[0] == name],
                                [growth[c] for c in configurations if c[0] == name],
                            )
                            for name in _ACTIVATIONS
                        ),
                        _diagonal(list(predicted.values())),
                    ),
                    caption="Theory is the line measured = predicted. Below zero gradients vanish, above they explode.",
                ),
                Figure(
                    "Squared gradient on its way back",
                    "layers behind",
                    "log10 of the squared gradient",
                    tuple(
                        band(f"{n}, sigma_w {s:.2f}", list(range(self.depth)), list(zip(*curves[n, s], strict=True)))
                        for n, s in (
                            he,
                            default,
                            ("relu", self.relu[3]),
                            ("tanh", self.tanh[0]),
                            ("tanh", self.tanh[1]),
                            ("tanh", self.tanh[3]),
                        )
                    ),
                ),
                Figure(
                    "How much single networks differ, ReLU after He",
                    "width",
                    "variance of the log squared gradient",
                    (
                        band("measured", self.widths, spreads, True),
                        Series("5 depth / width", tuple(map(float, self.widths)), tuple(5 * self.depth / w for w in self.widths)),
                    ),
                    log_x=True,
                    log_y=True,
                ),
            ),
        )

    def _gradients(self, name: str, weight_std: float, width: int, seed: int) -> Tensor:
        """``[depth, nets]``: the squared norm of a random gradient, of norm one at the output, behind 1, 2, ... layers."""
        generator = torch.Generator().manual_seed(seed)
        activation = _ACTIVATIONS[name]
        bias_std = 0.0 if name == "relu" else 0.05
        z = math.sqrt(_settled(name, weight_std)) * torch.randn(self.nets, width, 1, generator=generator)
        weights, slopes = [], []
        for _ in range(self.depth):
            slopes.append(_slopes(activation, z))
            weights.append(torch.randn(self.nets, width, width, generator=generator).mul_(weight_std / math.sqrt(width)))
            z = weights[-1] @ activation(z) + bias_std * torch.randn(self.nets, width, 1, generator=generator)
        gradient = torch.randn(self.nets, width, 1, generator=generator)
        gradient /= gradient.norm(dim=1, keepdim=True)
        total, squares = torch.ones(self.nets, dtype=torch.float64), []
        for weight, by in zip(reversed(weights), reversed(slopes), strict=True):
            gradient = by * (weight.mT @ gradient)
            # The norm is kept apart, so that no depth overflows.
            size = gradient.norm(dim=1, keepdim=True)
            gradient = gradient / size
            total = total * size.flatten().double().square()
            squares.append(total)
        return torch.stack(squares)


def _settled(name: str, weight_std: float) -> float:
    """The variance of pre-activations that the layers keep; any for ReLU."""
    if name == "relu":
        return 1.0
    return fixed_variance(_ACTIVATIONS[name], weight_std, 0.05)


def _slopes(activation: Activation, z: Tensor) -> Tensor:
    with torch.enable_grad():
        point = z.clone().requires_grad_()
        return torch.autograd.grad(activation(point).sum(), point)[0]


def _line(values: Tensor) -> float:
    """The least-squares slope against the layer."""
    return _fit(list(map(float, range(len(values)))), values.tolist())


def _fit(x: list[float], y: list[float]) -> float:
    middle, mean = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - mean) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def _moved(interval: Interval, by: float) -> Interval:
    return Interval(interval.value + by, interval.low + by, interval.high + by)


def _diagonal(values: list[float]) -> Series:
    ends = min(values), max(values)
    return Series("theory", ends, ends)
