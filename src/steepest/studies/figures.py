"""Lines with bands over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steepest.results import Series
from steepest.studies.verdicts import mean_interval


def band(name: str, x: Sequence[float], rows: Sequence[Sequence[float]], logarithmic: bool = False) -> Series:
    """The mean over seeds at each x with its 95 % interval, of the logarithms where the axis is one.

    Args:
        name: of the line.
        x: the points.
        rows: ``[points][seeds]``; positive where logarithmic.
        logarithmic: average and spread in logarithms.
    """
    found = [mean_interval([math.log(v) for v in row] if logarithmic else list(row)) for row in rows]
    ends = [[math.exp(v) if logarithmic else v for v in line] for line in zip(*((f.value, f.low, f.high) for f in found), strict=True)]
    return Series(name, tuple(x), tuple(ends[0]), tuple(ends[1]), tuple(ends[2]))
