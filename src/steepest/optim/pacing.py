"""Pacing functions: which share of the data, easiest first, is in use at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Pacing(Protocol):
    """The share of the data in use."""

    def share(self, epoch: float) -> float:
        """In (0, 1], nowhere decreasing in the epoch."""
        ...


@dataclass(frozen=True)
class Root:
    """``min(1, (start^p + (1 - start^p) epoch / length)^(1/p))``: linear for p = 1, the square root's competence for p = 2.

    Args:
        start: the share at first, in (0, 1].
        length: after how many epochs all data are in use.
        power: p, above 0; larger takes in more early.

    Source: E. A. Platanios et al., Competence-based curriculum learning for neural machine translation, NAACL 2019, equations 6 to 8.
    """

    start: float = 0.1
    length: float = 10.0
    power: float = 1.0

    def __post_init__(self) -> None:
        _require(self.start, self.length)
        if not self.power > 0.0:
            raise ValueError(f"power is {self.power}: a number above 0 is needed")

    def share(self, epoch: float) -> float:
        """The share at an epoch."""
        if epoch >= self.length:
            return 1.0
        floor = self.start**self.power
        return min(1.0, (floor + (1.0 - floor) * epoch / self.length) ** (1.0 / self.power))


@dataclass(frozen=True)
class Exponential:
    """``min(1, start * increase^floor(epoch / length))``: the fixed exponential pacing; a single step for a large increase.

    Args:
        start: the share at first, in (0, 1].
        length: epochs between two increases.
        increase: the factor, above 1.

    Source: G. Hacohen, D. Weinshall, On the power of curriculum learning in training deep networks, ICML 2019, section 2.2.
    """

    start: float = 0.04
    length: float = 1.0
    increase: float = 1.9

    def __post_init__(self) -> None:
        _require(self.start, self.length)
        if not self.increase > 1.0:
            raise ValueError(f"increase is {self.increase}: a factor above 1 is needed")

    def share(self, epoch: float) -> float:
        """The share at an epoch."""
        increases = math.floor(epoch / self.length)
        # The power is taken only where it stays below one, so that it cannot overflow.
        if increases * math.log(self.increase) >= -math.log(self.start):
            return 1.0
        return self.start * self.increase**increases


def _require(start: float, length: float) -> None:
    if not 0.0 < start <= 1.0:
        raise ValueError(f"start is {start}: a share in (0, 1] is needed")
    if not length > 0.0:
        raise ValueError(f"length is {length}: a number of epochs above 0 is needed")
