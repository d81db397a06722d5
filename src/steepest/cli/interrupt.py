"""Ctrl-C asks the work to end with the best it has; a second one breaks it off."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from steepest.numerics.deadline import Deadline


@contextlib.contextmanager
def interruptible() -> Iterator[Deadline]:
    """A deadline that the first Ctrl-C asks to stop."""
    stop = Deadline()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.stop("interrupted")
        print("steepest: finishing with what is known so far; once more breaks off", file=sys.stderr)

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
