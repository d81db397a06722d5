"""What jobs run on: local processes, or a Dask cluster."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

from steepest.errors import UsageError, require_extra

RETRIES = 3
"""How often a job is run again whose worker was lost."""


def workers(jobs: int, address: str | None, executor: Executor | None) -> Callable[[], Executor] | None:
    """What makes the workers that were asked for; None: this process.

    Args:
        jobs: local processes; one is this process.
        address: instead of these: of a Dask scheduler.
        executor: instead of both: one that is there already.

    Raises:
        UsageError: without the extra ``cluster``.
    """
    if executor is not None:
        lent = _Lent(executor)
        return lambda: lent
    if address is not None:
        return cluster(address)
    return local(jobs) if jobs > 1 else None


def local(jobs: int) -> Callable[[], Executor]:
    """Makes a pool of so many processes of one thread each."""
    # A forked copy of a process with threads may hang; Ctrl-C is the parent's to handle.
    return lambda: ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)


def cluster(address: str) -> Callable[[], Executor]:
    """Connects to a Dask scheduler, whose workers need this package and what the jobs name; jobs of lost workers are run again.

    Raises:
        UsageError: without the extra ``cluster``, or where nobody answers.
    """
    distributed = require_extra("dask.distributed", "cluster")

    def connect() -> Executor:
        try:
            client = distributed.Client(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"no Dask scheduler answers at {address}: {error}") from error
        return client.get_executor(retries=RETRIES, pure=False)

    return connect


class _Lent(Executor):
    """Somebody else's workers: they stay when a run ends."""

    def __init__(self, lender: Executor) -> None:
        self._lender = lender

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._lender.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
