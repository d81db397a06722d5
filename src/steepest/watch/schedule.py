"""Which windows between optimizer steps are looked at closely."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Windows whose distance grows with the number of steps done, so that their number grows like its logarithm.

    The first are all sampled, then every gap is the step over ``spread``: 25 of the first 200 windows, 35 of the first 1,500. The
    sequence is fixed. Only where the closer look took more than ``budget`` of the time so far are gaps widened, by doubling.

    Args:
        spread: the step over the gap.
        budget: the share of the run's time that sampled windows may take in addition.
        forwards: model calls sampled in one window that are differentiated; further ones are not.
        evaluations: the same for calls without gradients, which come in great number between two steps.
    """

    spread: int = 4
    budget: float = 0.1
    forwards: int = 64
    evaluations: int = 2

    def gap(self, step: int) -> int:
        """How far behind ``step`` the next sampled window lies."""
        return max(1, step // self.spread)
