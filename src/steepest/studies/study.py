"""What every study is: options, and a run that ends in claims with verdicts and in figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from steepest.errors import UsageError
from steepest.results import Claim, Figure, StudyResult

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of the whole that lies behind."""


@dataclass(frozen=True)
class Findings:
    """The claims with their verdicts, the figures, and how it was done."""

    setting: str
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Study:
    """A set of claims and how to try them; a subclass adds its options and ``measure``.

    Args:
        seeds: how many times everything is repeated with other random numbers; the intervals are over them. At least two.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    seeds: int = 5

    def measure(self, progress: Progress) -> Findings:
        """Train, measure, judge."""
        raise NotImplementedError

    def run(self, progress: Progress = lambda stage, fraction: None) -> StudyResult:
        """Run the study; the same options give the same result on one machine, and torch's random state stays as it was.

        Args:
            progress: called with a phrase and the fraction done.

        Raises:
            UsageError: for fewer than two seeds, or without scikit-learn, which has the data.
        """
        if self.seeds < 2:
            raise UsageError(f"a study takes at least two seeds, not {self.seeds}: its intervals are over them")
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            found = self.measure(progress)
        return StudyResult(self.name, self.question, found.setting, self.seeds, time.perf_counter() - started, found.claims, found.figures)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with the weights that a seed gives."""
    torch.manual_seed(seed)
    return make()


def he_(model: nn.Module) -> nn.Module:
    """He's initialisation of all weights but the last layer's, which is half as large in variance, and zero biases (He et al. 2015).

    torch's own default shrinks signals by 6 a layer in variance, which would handicap networks without normalisation.
    """
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer is layers[-1] else "relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model


def geometric(low: float, high: float, ratio: float) -> tuple[float, ...]:
    """``low``, ``low ratio``, ... up to ``high``."""
    values = [low]
    while values[-1] * ratio <= high * 1.001:
        values.append(values[-1] * ratio)
    return tuple(values)
