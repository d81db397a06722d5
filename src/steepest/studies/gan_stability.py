"""Spectral normalisation of critics and the stability of GANs: eight Gaussians, and digits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.bounds import Product
from steepest.results import Claim, Domain, Figure, Interval, Series
from steepest.studies.bounded import relu_graph
from steepest.studies.digits import load_digits
from steepest.studies.figures import band
from steepest.studies.gans import SLOPE, Gans, Setting
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import above, inside, listed, mean_interval, ratio_interval, text, together

SPREAD = 0.05
"""Standard deviation of each of the eight Gaussians, on a circle of radius 2."""


def eight_gaussians(generator: torch.Generator, count: int) -> Tensor:
    """``[count, 2]``.

    Source: Metz et al. 2017, Unrolled generative adversarial networks, section 3.1.
    """
    return centres()[torch.randint(0, 8, (count,), generator=generator)] + SPREAD * torch.randn(count, 2, generator=generator)


def centres() -> Tensor:
    """``[8, 2]``."""
    angle = torch.arange(8) * math.tau / 8
    return 2.0 * torch.stack([angle.cos(), angle.sin()], 1)


def modes_and_quality(made: Tensor) -> tuple[Tensor, Tensor]:
    """How many modes hold at least 1 % of the samples within three standard deviations, and the share of all that do.

    Args:
        made: ``[M, n, 2]``.

    Source: Srivastava et al. 2017, VEEGAN, section 5.1.
    """
    apart = torch.cdist(made, centres().expand(len(made), -1, -1))
    near = (apart < 3.0 * SPREAD).double().mean(1)
    return (near >= 0.01).sum(1), near.sum(1)


def frechet(a: Tensor, b: Tensor) -> float:
    """The squared Frechet distance of Gaussians fitted to features: ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``.

    Args:
        a, b: ``[n, features]``.

    Source: Heusel et al. 2017.
    """
    a, b = a.double(), b.double()
    first, second = (torch.cov(x.T) for x in (a, b))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0.0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0.0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2.0 * mixed
    return max(float(distance), 0.0)


Key = tuple[float, float | None]
"""Rate and the critic's constant."""


@dataclass(frozen=True)
class GanStability(Study):
    """Small dense GANs with and without spectral normalisation of the critic, at several rates.

    Args:
        rates: of Adam, rising, for the Gaussians; the middle one is that of most claims.
        constants: of normalised critics; the first is the one proposed.
        steps: of both networks, for the Gaussians.
        hidden: hidden layers of both networks, for the Gaussians.
        digit_rates: rising, for the digits.
        digit_constants: likewise.
        digit_steps: likewise.
        digit_hidden: likewise.
        batch: samples in one.
        looks: how often samples are looked at in the last half of training; what is reported is their mean.
        samples: in each look.
    """

    name: ClassVar[str] = "gan-stability"
    question: ClassVar[str] = "Does spectral normalisation of the critic make GANs stable?"
    seeds: int = 8
    rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    constants: tuple[float, ...] = (1.0, 4.0)
    steps: int = 3000
    hidden: tuple[int, ...] = (64, 64)
    digit_rates: tuple[float, ...] = (1e-3, 5e-3)
    digit_constants: tuple[float, ...] = (1.0, 16.0)
    digit_steps: int = 1000
    digit_hidden: tuple[int, ...] = (64, 64)
    batch: int = 64
    looks: int = 5
    samples: int = 1000

    def measure(self, progress: Progress) -> Findings:
        """Train all GANs on Gaussians, then all on digits."""
        gans = Gans(self._settings(self.rates, self.constants), 2, self.hidden, 2, self.batch)
        looked = self._looks(self.steps)
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def each_step(step: int) -> None:
            if step % 50 == 0:
                progress(f"Gaussians, step {step}", 0.7 * step / self.steps)
            if step in looked:
                with torch.no_grad():
                    seen[step] = modes_and_quality(gans.make(self.samples))

        gans.train(eight_gaussians, self.steps, each_step)
        each_step(self.steps)
        late = [found for step, found in seen.items() if step > self.steps // 2]
        modes, quality = (_by(gans.settings, torch.stack([f[k].double() for f in late]).mean(0)) for k in (0, 1))
        norms = _by(gans.settings, torch.tensor([_constant(w) for w in gans.critics()], dtype=torch.float64))
        digits = self._digits(progress)
        return Findings(
            f"non-saturating loss, Adam (0.5, 0.999), batch {self.batch}, one step of the critic to one of the generator, leaky ReLU. "
            f"Eight Gaussians of deviation {SPREAD:g} on a circle of radius 2: hidden layers {', '.join(map(str, self.hidden))}, "
            f"{self.steps} steps; digits in [-1, 1]: {', '.join(map(str, self.digit_hidden))}, {self.digit_steps} steps. Means of "
            f"{self.looks} looks in the last half",
            (
                *self._mode_claims(modes, quality),
                self._rates_claim(modes),
                *self._digits_claims(digits),
                self._constant_claim(norms),
            ),
            self._figures(modes, quality, {s: _by(gans.settings, f[0].double()) for s, f in seen.items()}, digits),
        )

    def _settings(self, rates: Sequence[float], constants: Sequence[float]) -> list[Setting]:
        return [Setting(r, c, s) for r in rates for c in (None, *constants) for s in range(self.seeds)]

    def _looks(self, steps: int) -> set[int]:
        """Steps at which samples are looked at: evenly, twice as many as are reported."""
        return {round(steps * k / (2 * self.looks)) for k in range(1, 2 * self.looks + 1)}

    def _digits(self, progress: Progress) -> dict[Key, list[float]]:
        """Frechet distances of the features of a classifier, over that of the test images."""
        data = load_digits()
        x, test = data.x.flatten(1), data.test_x.flatten(1)
        low, high = x.min(), x.max()
        x, test = 2.0 * (x - low) / (high - low) - 1.0, 2.0 * (test - low) / (high - low) - 1.0
        features = _classifier(x, data.y)
        gans = Gans(self._settings(self.digit_rates, self.digit_constants), 16, self.digit_hidden, 64, self.batch, squash=True)
        looked = {s for s in self._looks(self.digit_steps) if s > self.digit_steps // 2}
        real, found = features(x), []

        def each_step(step: int) -> None:
            if step % 50 == 0:
                progress(f"digits, step {step}", 0.7 + 0.3 * step / self.digit_steps)
            if step in looked:
                with torch.no_grad():
                    found.append(torch.tensor([frechet(features(m), real) for m in gans.make(self.samples)]))

        gans.train(lambda g, count: x[torch.randint(0, len(x), (count,), generator=g)], self.digit_steps, each_step)
        each_step(self.digit_steps)
        return _by(gans.settings, torch.stack(found).mean(0) / frechet(features(test), real))

    def _mode_claims(self, modes: Mapping[Key, list[float]], quality: Mapping[Key, list[float]]) -> tuple[Claim, ...]:
        rate = self.rates[len(self.rates) // 2]
        more = {_named(c): _difference(modes[rate, c], modes[rate, None]) for c in self.constants}
        found = {_named(c): mean_interval(modes[rate, c]) for c in (None, *self.constants)}
        better = {_named(c): _difference(quality[rate, c], quality[rate, None]) for c in self.constants}
        share = {_named(c): mean_interval(quality[rate, c]) for c in (None, *self.constants)}
        return (
            Claim(
                "With spectral normalisation of the critic the generator finds more of eight modes.",
                "Miyato et al. 2018, of stability on images; on Gaussians Metz et al. 2017 claim the like for another remedy",
                f"At rate {rate:g} it finds above 1 more, with each of the critic's constants.",
                together(above(i, 1.0) for i in more.values()),
                f"The difference is {listed(more)}. Modes: {listed(found)}.",
                more,
            ),
            Claim(
                "With spectral normalisation the generator finds all eight modes.",
                "Miyato et al. 2018, likewise",
                f"At rate {rate:g} above 7.5 on average, with each of the critic's constants.",
                together(above(found[_named(c)], 7.5) for c in self.constants),
                f"It finds {listed({_named(c): found[_named(c)] for c in self.constants})}.",
                found,
            ),
            Claim(
                "With spectral normalisation more of the samples lie at a mode.",
                "Miyato et al. 2018, section 4",
                f"At rate {rate:g} the share within three standard deviations of a mode is higher by more than 0.1, with each constant.",
                together(above(i, 0.1) for i in better.values()),
                f"It is higher by {listed(better)}. Shares: {listed(share)}.",
                better,
            ),
        )

    def _rates_claim(self, modes: Mapping[Key, list[float]]) -> Claim:
        more = {f"rate {r:g}, {_named(c)}": _difference(modes[r, c], modes[r, None]) for r in self.rates for c in self.constants}
        return Claim(
            "With spectral normalisation more modes are found at rates from small to aggressive.",
            "Miyato et al. 2018, section 4.1",
            "At every rate, with each constant, it finds above 1 more mode than without.",
            together(above(i, 1.0) for i in more.values()),
            f"More modes: {listed(more)}.",
            more,
        )

    def _digits_claims(self, digits: Mapping[Key, list[float]]) -> tuple[Claim, ...]:
        def best(c: float | None) -> list[float]:
            return digits[min(self.digit_rates, key=lambda r: sum(digits[r, c])), c]

        first = self.digit_constants[0]
        ratios = {f"rate {r:g}": ratio_interval(digits[r, None], digits[r, first]) for r in self.digit_rates}
        ratios["each at its best rate"] = ratio_interval(best(None), best(first))
        other = self.digit_constants[-1]
        looser = {f"rate {r:g}": ratio_interval(digits[r, first], digits[r, other]) for r in self.digit_rates}
        gain = ratio_interval(best(None), best(other))
        return (
            Claim(
                "With spectral normalisation samples of digits are closer to the data, at every rate.",
                "Miyato et al. 2018, section 4.1, by inception score and Frechet distance",
                "The Frechet distance of a classifier's features without over with normalisation is above 1.25 at every rate, and each at "
                "its best.",
                together(above(i, 1.25) for i in ratios.values()),
                f"The ratios are {listed(ratios)}.",
                ratios,
            ),
            Claim(
                "The constant that the critic is held to matters.",
                "ours; Miyato et al. 2018 hold it to 1",
                f"The Frechet distance with a constant of {first:g} over that with {other:g} is above 1.25 at every rate.",
                together(above(i, 1.25) for i in looser.values()),
                f"The ratios are {listed(looser)}. Without over with {other:g}, each at its best rate: {text(gain)}.",
                looser | {"without / with, best": gain},
            ),
        )

    def _constant_claim(self, norms: Mapping[Key, list[float]]) -> Claim:
        off = {f"rate {r:g}, {_named(c)}": mean_interval([v / c - 1.0 for v in norms[r, c]]) for r in self.rates for c in self.constants}
        plain = {f"rate {r:g}": mean_interval([math.log10(v) for v in norms[r, None]]) for r in self.rates}
        return Claim(
            "One step of power iteration a training step holds the critic's layers to their norms.",
            "Miyato et al. 2018, section 2.1 and appendix A",
            "At every rate the product of the proven norms at the end is within 10 % of the constant.",
            together(inside(i, 0.1) for i in off.values()),
            f"It is off by {listed(off)}. Without normalisation the common logarithm of the product is {listed(plain)}.",
            off,
        )

    def _figures(
        self,
        modes: Mapping[Key, list[float]],
        quality: Mapping[Key, list[float]],
        curve: Mapping[int, Mapping[Key, list[float]]],
        digits: Mapping[Key, list[float]],
    ) -> tuple[Figure, ...]:
        def lines(
            found: Mapping[Key, list[float]], rates: Sequence[float], constants: Sequence[float], log: bool = False
        ) -> tuple[Series, ...]:
            return tuple(band(_named(c), rates, [found[r, c] for r in rates], log) for c in (None, *constants))

        rate = self.rates[len(self.rates) // 2]
        return (
            Figure("Modes found", "rate", "of eight", lines(modes, self.rates, self.constants), log_x=True),
            Figure(
                "Samples within three standard deviations of a mode",
                "rate",
                "share",
                lines(quality, self.rates, self.constants),
                log_x=True,
            ),
            Figure(
                f"Modes in training, rate {rate:g}",
                "step",
                "of eight",
                tuple(band(_named(c), [*curve], [found[rate, c] for found in curve.values()]) for c in (None, *self.constants)),
            ),
            Figure(
                "Digits: Frechet distance over that of the test images",
                "rate",
                "factor",
                lines(digits, self.digit_rates, self.digit_constants, True),
                log_x=True,
                log_y=True,
            ),
        )


def _named(constant: float | None) -> str:
    return "not normalised" if constant is None else f"constant {constant:g}"


def _by(settings: Sequence[Setting], values: Tensor) -> dict[Key, list[float]]:
    found: dict[Key, list[float]] = {}
    for setting, value in zip(settings, values.tolist(), strict=True):
        found.setdefault((setting.rate, setting.constant), []).append(value)
    return found


def _constant(weights: Sequence[Tensor]) -> float:
    """The product of proven norms of a critic."""
    return Product().bound(relu_graph(weights, slope=SLOPE), Domain("all"), 2.0).value


def _classifier(x: Tensor, y: Tensor) -> nn.Module:
    """The 64 features before the last layer of a network trained on digits."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    whole = nn.Sequential(body, nn.Linear(64, 10))
    optimizer = torch.optim.Adam(whole.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        functional.cross_entropy(whole(x), y).backward()
        optimizer.step()
    return body.requires_grad_(False)


def _difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    return mean_interval([p - q for p, q in zip(a, b, strict=True)])
