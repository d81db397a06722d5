"""When to stop: at a time, or when asked to."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Deadline:
    """A moment by which anything iterative returns the best it has; all parts of one run share the request to stop.

    Args:
        at: of ``time.perf_counter``.
        asked: holds something once somebody asked to stop.
    """

    at: float = math.inf
    asked: list[str] = field(default_factory=list)

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """So many seconds from now."""
        return cls(time.perf_counter() + seconds)

    def within(self, seconds: float) -> Deadline:
        """The same request to stop, and at most so many seconds from now."""
        return replace(self, at=min(self.at, time.perf_counter() + seconds))

    def share(self, part: float) -> Deadline:
        """A part of what is left."""
        return self.within(part * self.left()) if self.at < math.inf else self

    def left(self) -> float:
        """Seconds left, never negative; none once somebody asked to stop."""
        return 0.0 if self.asked else max(0.0, self.at - time.perf_counter())

    def passed(self) -> bool:
        """Whether it is time."""
        return bool(self.asked) or time.perf_counter() >= self.at

    def stop(self, reason: str) -> None:
        """Ask everybody to stop."""
        self.asked.append(reason)
