"""Rate schedules: what the rate is multiplied by in the course of a run, the same for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from steepest.errors import UsageError

Schedule = Callable[[int, int], float]
"""The factor, at most 1, of gradient k = 0, 1, ..., n - 1 of n."""

_WARM = 0.05


def constant(k: int, n: int) -> float:
    """1 throughout."""
    return 1.0


def warmup(k: int, n: int) -> float:
    """Linear up to 1 over the first twentieth of the run, then constant. Source: Goyal et al. 2017."""
    return min(1.0, (k + 1) / _warm(n))


def step(k: int, n: int) -> float:
    """A tenth from half of the run on, a hundredth from three quarters on. Source: He et al. 2016, section 4.2."""
    return 1.0 if 2 * k < n else 0.1 if 4 * k < 3 * n else 0.01


def cosine(k: int, n: int) -> float:
    """(1 + cos(pi k / n)) / 2. Source: Loshchilov and Hutter 2017, without restarts."""
    return (1.0 + math.cos(math.pi * k / n)) / 2.0


def warmup_cosine(k: int, n: int) -> float:
    """Linear up to 1 over the first twentieth of the run, then half a cosine. Source: the baselines of Dahl et al. 2023."""
    w = _warm(n)
    return warmup(k, n) if k < w else cosine(k - w, n - w)


def one_cycle(k: int, n: int) -> float:
    """Half a cosine from 1/25 up to 1 over three tenths of the run, then down to 4e-6; the momentum is left alone.

    Source: Smith and Topin 2019, with the shape and the numbers of ``torch.optim.lr_scheduler.OneCycleLR``.
    """
    first, last = 1 / 25, 1 / 25e4
    top, end = 0.3 * n - 1, n - 1
    if k <= top:
        return 1.0 + (first - 1.0) * (1.0 + math.cos(math.pi * k / top)) / 2.0
    return last + (1.0 - last) * (1.0 + math.cos(math.pi * (k - top) / (end - top))) / 2.0


def _warm(n: int) -> int:
    return max(1, round(_WARM * n))


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "constant": constant,
        "warmup": warmup,
        "step": step,
        "cosine": cosine,
        "warmup-cosine": warmup_cosine,
        "one-cycle": one_cycle,
    }
)


def find_schedule(name: str) -> Schedule:
    """The schedule of that name.

    Raises:
        UsageError: for an unknown name; lists the known ones.
    """
    try:
        return SCHEDULES[name]
    except KeyError:
        raise UsageError(f"there is no schedule {name!r}; known are {', '.join(SCHEDULES)}") from None
