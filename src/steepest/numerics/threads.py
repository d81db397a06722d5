"""How many threads torch takes on the processor: as many as help."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

LARGEST = 384
"""Size of the matrices on which threads are tried, at most."""

TURNS, TURN = 8, 0.003
"""How often they are tried, and the seconds that one thread is given each time."""

GAIN = 0.8
"""Several threads are taken where they need at most this part of what one needs, and no more in any turn."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch takes so many threads inside, and as many as before afterwards; the number is the process's, so one caller at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def worthwhile_threads(size: int) -> int:
    """As many threads as torch may take, or one where more do not help: matrices are small, or other programs keep the processor busy.

    Products and factorisations are timed both ways, some hundredths of a second in all. Threads wait for each other at the end of
    each operation, and where one of them has no core to itself each such wait takes milliseconds, however small the operation.

    Args:
        size: of the matrices that are to be worked on.
    """
    most = torch.get_num_threads()
    if most == 1:
        return 1
    n = max(1, min(size, LARGEST))
    matrix = torch.eye(n, dtype=torch.float64) + 1.0 / n
    for count in (most, 1):
        # Wakes the threads, which the first time takes long.
        with threads(count):
            _work(matrix)
    alone = several = 0.0
    for _ in range(TURNS):
        # By turns, so that load which comes and goes meets both.
        one, rounds = 0.0, 0
        with threads(1):
            while one < TURN:
                one += _work(matrix)
                rounds += 1
        shared = 0.0
        with threads(most):
            for _ in range(rounds):
                shared += _work(matrix)
                if shared > one:
                    return 1
        alone, several = alone + one, several + shared
    return most if several <= GAIN * alone else 1


def _work(matrix: Tensor) -> float:
    """Seconds of a product and a factorisation."""
    started = time.perf_counter()
    torch.linalg.cholesky(matrix @ matrix)
    return time.perf_counter() - started
