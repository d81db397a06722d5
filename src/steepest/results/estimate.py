"""A number near an upper bound that nobody has proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A value for comparison with the bounds; it takes no part in a bracket, and no certificate can hold it.

    Args:
        method: the algorithm's name: ``seqlip`` or ``liplt``.
        value: finite, in the norm of the bracket it stands beside.
        seconds: wall time it took.
        remark: why it is no bound.
    """

    method: str
    value: float
    seconds: float
    remark: str

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"method": self.method, "value": self.value, "seconds": self.seconds, "remark": self.remark}
