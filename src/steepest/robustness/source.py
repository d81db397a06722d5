"""What a certified radius can be proven from."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from steepest.robustness.decisions import Decisions

FARTHEST = 1e12
"""No larger radius is claimed."""


class Source(Protocol):
    """Bounds margins over balls."""

    @property
    def name(self) -> str:
        """As it is called in results and certificates."""
        ...

    def floors(self, at: Decisions, radius: Tensor) -> Tensor:
        """Lower bounds of ``f_c - f_j`` over closed balls around the inputs, in real arithmetic, rounded down.

        Args:
            at: n inputs.
            radius: ``[n]``, not negative.

        Returns:
            ``[n, classes - 1]``, possibly -inf.
        """
        ...

    def radius(self, at: Decisions) -> Tensor | None:
        """The largest radius it proves, ``[n]``, where that takes no search; else None."""
        ...
