"""How often a dear question may be asked of a run: as often as its share of the time allows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Keeps the time of a measurement below a share of the time of the run it is made in.

    Args:
        share: of the run's own time.
        windows: what a first measurement will take, in windows between optimizer steps.
    """

    def __init__(self, share: float, windows: float) -> None:
        self.share, self.windows = share, windows
        self.begun: float | None = None
        self.passed, self.spent, self.dearest = 0, 0.0, 0.0

    def tick(self) -> None:
        """A window has passed."""
        if self.begun is None:
            self.begun = time.perf_counter()
        else:
            self.passed += 1

    def allows(self) -> bool:
        """Whether one more measurement stays within the share."""
        if self.begun is None or not self.passed:
            return False
        own = time.perf_counter() - self.begun - self.spent
        expected = self.dearest or self.windows * own / self.passed
        return self.spent + expected <= self.share * own

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Counts what happens within as the measurement's."""
        started = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - started
            self.spent += took
            self.dearest = max(self.dearest, took)
