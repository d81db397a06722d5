"""Runs trials: here, in local processes, or on a Dask cluster; finished ones are kept, lost workers retried."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from steepest.errors import LimitError, UsageError, require_extra
from steepest.numerics.deadline import Deadline
from steepest.race.store import Store
from steepest.race.task import Task
from steepest.race.trial import Setting, run_trial
from steepest.results.race import RacedTrial

Progress = Callable[[str, float | None], None]
_RETRIES = 3


def local(jobs: int) -> Callable[[], Executor]:
    """Makes a pool of so many processes of one thread each."""
    # A forked copy of a process with threads may hang; Ctrl-C is the parent's to handle.
    return lambda: ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)


def cluster(address: str) -> Callable[[], Executor]:
    """Connects to a Dask scheduler, whose workers need this package and the task; trials of lost workers are run again.

    Raises:
        UsageError: without the extra ``cluster``, or where nobody answers.
    """
    distributed = require_extra("dask.distributed", "cluster")

    def connect() -> Executor:
        try:
            client = distributed.Client(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"no Dask scheduler answers at {address}: {error}") from error
        return client.get_executor(retries=_RETRIES, pure=False)

    return connect


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass
class Runner:
    """Runs batches of trials, counts them, and says how long it will take.

    Args:
        executor: makes what the trials run on; None: this process.
        store: where finished trials are kept and looked for first.
        stop: ends the run between trials.
        tell: called with a phrase and the fraction done.
        given: tasks that are objects of this process, by name.
    """

    executor: Callable[[], Executor] | None = None
    store: Store | None = None
    stop: Deadline = field(default_factory=Deadline)
    tell: Progress = lambda stage, fraction: None
    given: dict[str, Task] = field(default_factory=dict)
    total: int = 0
    _done: int = field(default=0, init=False)
    _ran: int = field(default=0, init=False)
    _began: float = field(default_factory=time.perf_counter, init=False)
    _pool: Executor | None = field(default=None, init=False)

    def run(self, settings: Sequence[Setting], stage: str) -> list[RacedTrial]:
        """The trials of the settings, in their order; equal settings run once.

        Raises:
            LimitError: when asked to stop; what was finished is in the store.
            UsageError: where a trial cannot be run.
        """
        found: dict[str, RacedTrial] = {}
        wanted: dict[str, Setting] = {}
        for setting in settings:
            kept = self.store.read(setting) if self.store else None
            if kept is not None:
                found[setting.digest] = kept
            else:
                wanted[setting.digest] = setting
        self._count(len(settings) - len(wanted), 0, stage)
        run = self._here if self.executor is None else self._spread
        run(wanted, found, stage)
        return [found[setting.digest] for setting in settings]

    def close(self) -> None:
        """Let go of the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True) if isinstance(self._pool, ProcessPoolExecutor) else self._pool.shutdown()
            self._pool = None

    def _here(self, wanted: dict[str, Setting], found: dict[str, RacedTrial], stage: str) -> None:
        for digest, setting in wanted.items():
            self._check()
            self._keep(digest, setting, run_trial(setting, self.given.get(setting.task)), found, stage)

    def _spread(self, wanted: dict[str, Setting], found: dict[str, RacedTrial], stage: str) -> None:
        assert self.executor is not None
        losses = 0
        while left := {digest: setting for digest, setting in wanted.items() if digest not in found}:
            if self._pool is None:
                self._pool = self.executor()
            before = len(found)
            try:
                self._gather(self._pool, left, found, stage)
            except BrokenProcessPool as error:
                # A worker died (killed, out of memory): what it had not finished runs again in a new pool.
                self.close()
                losses = 0 if len(found) > before else losses + 1
                if losses > _RETRIES:
                    raise UsageError(
                        f"workers die {_RETRIES + 1} times in a row: (a) memory is short: fewer --jobs; (b) the task crashes"
                    ) from error

    def _gather(self, pool: Executor, left: dict[str, Setting], found: dict[str, RacedTrial], stage: str) -> None:
        futures: dict[Future[RacedTrial], str] = {pool.submit(run_trial, setting): digest for digest, setting in left.items()}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    self._keep(futures[future], left[futures[future]], future.result(), found, stage)
                self._check()
        except BaseException:
            # Those that run cannot be called back: they are waited for and kept.
            running = {future for future in pending if not future.cancel()}
            for future in wait(running, timeout=60).done:
                if not future.cancelled() and future.exception() is None:
                    self._keep(futures[future], left[futures[future]], future.result(), found, stage)
            raise

    def _check(self) -> None:
        if self.stop.passed():
            where = (
                f"; {self._done} of {self.total} trials are kept in {self.store.folder}, and the same command goes on from there"
                if self.store
                else ""
            )
            raise LimitError(f"interrupted{where}")

    def _keep(self, digest: str, setting: Setting, trial: RacedTrial, found: dict[str, RacedTrial], stage: str) -> None:
        found[digest] = trial
        if self.store is not None:
            self.store.write(setting, trial)
        self._count(1, 1, stage)

    def _count(self, done: int, ran: int, stage: str) -> None:
        self._done += done
        self._ran += ran
        left = ""
        if self._ran > 3 and self.total > self._done:
            seconds = (time.perf_counter() - self._began) / self._ran * (self.total - self._done)
            left = f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
        self.tell(f"{stage}, trial {self._done} of {self.total}{left}", min(1.0, self._done / self.total) if self.total else None)
