"""Distributions of how long a step takes, or how late a gradient is; one stream of draws per worker."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from steepest.errors import UsageError

Draw = Callable[[], float]


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or math.isinf(value):
        raise UsageError(f"{name} is {value}: give a finite number in [{low:g}, {high:g}]")


class Delay(Protocol):
    """A distribution on the numbers from 0."""

    def draws(self, generator: np.random.Generator) -> Draw:
        """A worker's stream; the same generator gives the same numbers."""
        ...


@dataclass(frozen=True)
class Constant:
    """Always the same; 0 for none."""

    value: float = 1.0

    def __post_init__(self) -> None:
        _require("value", self.value, 0, math.inf)

    def draws(self, generator: np.random.Generator) -> Draw:
        """A worker's stream."""
        return lambda: self.value


@dataclass(frozen=True)
class Uniform:
    """Between two values, 0 <= low <= high."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        _require("low", self.low, 0, math.inf)
        _require("high", self.high, self.low, math.inf)

    def draws(self, generator: np.random.Generator) -> Draw:
        """A worker's stream."""
        return lambda: generator.uniform(self.low, self.high)


@dataclass(frozen=True)
class Geometric:
    """Failures before the first success: P(k) = p (1 - p)^k for k = 0, 1, ..., of mean (1 - p) / p; 0 < p <= 1."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _require("p", self.p, 0, 1)
        if self.p == 0:
            raise UsageError("p is 0: give a probability in (0, 1]")

    def draws(self, generator: np.random.Generator) -> Draw:
        """A worker's stream."""
        return lambda: float(generator.geometric(self.p) - 1)


@dataclass(frozen=True)
class Exponential:
    """Of that mean: service without memory."""

    mean: float = 1.0

    def __post_init__(self) -> None:
        _require("mean", self.mean, 0, math.inf)

    def draws(self, generator: np.random.Generator) -> Draw:
        """A worker's stream."""
        return lambda: generator.exponential(self.mean)


@dataclass(frozen=True)
class Heterogeneous:
    """Workers of lasting different speed: each draw times a factor of the worker, exp(spread z) with z standard normal."""

    base: Delay = Exponential()
    spread: float = 0.5

    def __post_init__(self) -> None:
        _require("spread", self.spread, 0, math.inf)

    def draws(self, generator: np.random.Generator) -> Draw:
        """A worker's stream."""
        factor, draw = math.exp(self.spread * generator.standard_normal()), self.base.draws(generator)
        return lambda: factor * draw()


@dataclass(frozen=True)
class Stragglers:
    """Each draw is ``factor`` times as long with probability ``share``: now one worker is late, now another."""

    base: Delay = Exponential()
    share: float = 0.05
    factor: float = 10.0

    def __post_init__(self) -> None:
        _require("share", self.share, 0, 1)
        _require("factor", self.factor, 1, math.inf)

    def draws(self, generator: np.random.Generator) -> Draw:
        """A worker's stream."""
        draw = self.base.draws(generator)
        return lambda: draw() * (self.factor if generator.random() < self.share else 1.0)


DELAYS = MappingProxyType(
    {
        "constant": Constant,
        "uniform": Uniform,
        "geometric": Geometric,
        "exponential": Exponential,
        "heterogeneous": Heterogeneous,
        "stragglers": Stragglers,
    }
)


def delay(name: str, **options: Any) -> Delay:
    """The distribution of that name.

    Raises:
        UsageError: for an unknown name or option, or a value out of its range; an unknown name lists the known ones.
    """
    if name not in DELAYS:
        raise UsageError(f"there is no delay distribution {name!r}; known are {', '.join(sorted(DELAYS))}")
    try:
        return DELAYS[name](**options)
    except TypeError as error:
        raise UsageError(f"the delay distribution {name} cannot be built with {options}: {error}") from error
