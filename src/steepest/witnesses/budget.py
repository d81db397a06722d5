"""How much a search may compute: time of its own thread, whatever else the machine does, and a deadline of the wall clock."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

from steepest.numerics.deadline import Deadline


@dataclass(frozen=True)
class Budget:
    """Computing time that is left to the calling thread; all parts of one search share the request to stop.

    Args:
        end: of ``time.thread_time``.
        stop: ends it as well, by the wall clock or when asked.
    """

    end: float = math.inf
    stop: Deadline = field(default_factory=Deadline)

    @classmethod
    def of(cls, seconds: float, stop: Deadline) -> Budget:
        """So many seconds of computing from now."""
        return cls(time.thread_time() + seconds, stop)

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, min(self.end - time.thread_time(), self.stop.left()))

    def share(self, part: float) -> Budget:
        """A part of what is left."""
        left = self.left()
        return self if left == math.inf else replace(self, end=time.thread_time() + part * left)

    def passed(self) -> bool:
        """Whether nothing is left."""
        return time.thread_time() >= self.end or self.stop.passed()
