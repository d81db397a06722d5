"""Quasi-random points in the options of a method, the same coordinates for the same option of every method."""

from __future__ import annotations

from collections.abc import Sequence

from torch.quasirandom import SobolEngine

from steepest.optim.method import Method

_SHARED = ("lr", "momentum", "beta2", "weight_decay")
_SAME = {"beta1": "momentum", "alpha": "beta2", "rho": "beta2"}
_DIMENSIONS = 16


def coordinates(trials: int, seed: int) -> list[list[float]]:
    """A scrambled Sobol sequence in the unit cube, ``[trials][16]``; a longer one begins with the shorter."""
    return SobolEngine(_DIMENSIONS, scramble=True, seed=seed).draw(trials).double().tolist()


def points(method: Method, trials: int, seed: int) -> list[dict[str, float]]:
    """The options to try, rounded to four digits.

    The k-th trial of every method has the same coordinate for its rate, for its averaging of gradients (``momentum``, ``beta1``), for its
    averaging of squares (``beta2``, ``alpha``, ``rho``) and for its decay; each method maps it into its own range. So no method is luckier
    in its draws.

    Args:
        method: whose space it is.
        trials: how many points.
        seed: of the scrambling.
    """
    slots = _slots(list(method.space))
    drawn = (method.point({name: u[slot] for name, slot in slots.items()}) for u in coordinates(trials, seed))
    return [{name: rounded(value) for name, value in point.items()} for point in drawn]


def rounded(value: float) -> float:
    """Four significant digits; of a number just below one, such as an averaging factor, of its distance from one."""
    return float(f"{value:.4g}") if not 0.5 <= value < 1.0 else 1.0 - float(f"{1.0 - value:.4g}")


def _slots(names: Sequence[str]) -> dict[str, int]:
    slots: dict[str, int] = {}
    for name in names:
        shared = _SAME.get(name, name)
        if shared in _SHARED:
            slots[name] = _SHARED.index(shared)
    if len(set(slots.values())) < len(slots):
        # Two options of one method would share a coordinate: the later ones get their own.
        seen: set[int] = set()
        for name in list(slots):
            if slots[name] in seen:
                del slots[name]
            else:
                seen.add(slots[name])
    free = iter(range(len(_SHARED), _DIMENSIONS))
    return {name: slots[name] if name in slots else next(free) for name in names}
