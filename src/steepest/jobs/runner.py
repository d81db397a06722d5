"""Runs jobs: here, in local processes, or on a cluster; finished ones are kept, those of lost workers run again."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import ClassVar, Generic

from steepest.errors import LimitError, UsageError
from steepest.jobs.store import J, R, Store
from steepest.jobs.workers import RETRIES
from steepest.numerics.deadline import Deadline

Progress = Callable[[str, float | None], None]


@dataclass
class Runner(ABC, Generic[J, R]):
    """Runs jobs, counts them, and says how long it will take.

    Args:
        executor: makes what the jobs run on; None: this process.
        store: where finished jobs are kept and looked for first.
        stop: ends the run between jobs.
        tell: called with a phrase and the fraction done.
        total: how many jobs there will be, for the fraction.
        finished: results by the digest of their jobs.
    """

    noun: ClassVar[str]
    """What people call a job."""

    plural: ClassVar[str]
    """And several."""

    executor: Callable[[], Executor] | None = None
    store: Store[J, R] | None = None
    stop: Deadline = field(default_factory=Deadline)
    tell: Progress = lambda stage, fraction: None
    total: int = 0
    finished: dict[str, R] = field(default_factory=dict, init=False)
    _done: int = field(default=0, init=False)
    _ran: int = field(default=0, init=False)
    _began: float = field(default_factory=time.perf_counter, init=False)
    _pool: Executor | None = field(default=None, init=False)

    @abstractmethod
    def work(self) -> Callable[[J], R]:
        """What does a job elsewhere: a function by its name, which other processes can find."""

    def here(self, job: J) -> R:
        """Do a job in this process."""
        return self.work()(job)

    def run(self, jobs: Sequence[J], stage: str) -> list[R]:
        """The results of jobs, in their order; equal jobs run once.

        Raises:
            LimitError: when asked to stop; what was finished is in the store and in ``finished``.
            UsageError: where a job cannot be run.
        """
        found = self.finished
        digests = [job.digest for job in jobs]
        wanted: dict[str, J] = {}
        for digest, job in zip(digests, jobs, strict=True):
            kept = self.store.read(job) if self.store else None
            if kept is not None:
                found[digest] = kept
            else:
                wanted[digest] = job
        self._count(len(jobs) - len(wanted), 0, stage)
        run = self._here if self.executor is None else self._spread
        run(wanted, stage)
        return [found[digest] for digest in digests]

    def close(self) -> None:
        """Let go of the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True) if isinstance(self._pool, ProcessPoolExecutor) else self._pool.shutdown()
            self._pool = None

    def _here(self, wanted: dict[str, J], stage: str) -> None:
        for digest, job in wanted.items():
            self._check()
            self._keep(digest, job, self.here(job), stage)

    def _spread(self, wanted: dict[str, J], stage: str) -> None:
        assert self.executor is not None
        losses = 0
        kept: set[str] = set()
        while left := {digest: job for digest, job in wanted.items() if digest not in kept}:
            if self._pool is None:
                self._pool = self.executor()
            before = len(kept)
            try:
                self._gather(self._pool, left, kept, stage)
            except BrokenProcessPool as error:
                # A worker died (killed, out of memory): what it had not finished runs again in a new pool.
                self.close()
                losses = 0 if len(kept) > before else losses + 1
                if losses > RETRIES:
                    raise UsageError(
                        f"workers die {RETRIES + 1} times in a row: (a) memory is short: fewer --jobs; (b) a {self.noun} crashes"
                    ) from error

    def _gather(self, pool: Executor, left: dict[str, J], kept: set[str], stage: str) -> None:
        futures: dict[Future[R], str] = {pool.submit(self.work(), job): digest for digest, job in left.items()}
        pending = set(futures)

        def keep(future: Future[R]) -> None:
            digest = futures[future]
            self._keep(digest, left[digest], future.result(), stage)
            kept.add(digest)

        try:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    keep(future)
                self._check()
        except BaseException:
            # Those that run cannot be called back: they are waited for and kept.
            running = {future for future in pending if not future.cancel()}
            for future in wait(running, timeout=60).done:
                if not future.cancelled() and future.exception() is None:
                    keep(future)
            raise

    def _check(self) -> None:
        if self.stop.passed():
            where = (
                f"; {self._done} of {self.total} {self.plural} are kept in {self.store.folder}, and the same command goes on from there"
                if self.store
                else ""
            )
            raise LimitError(f"interrupted{where}")

    def _keep(self, digest: str, job: J, result: R, stage: str) -> None:
        self.finished[digest] = result
        if self.store is not None:
            self.store.write(job, result)
        self._count(1, 1, stage)

    def _count(self, done: int, ran: int, stage: str) -> None:
        self._done += done
        self._ran += ran
        left = ""
        if self._ran > 3 and self.total > self._done:
            seconds = (time.perf_counter() - self._began) / self._ran * (self.total - self._done)
            left = f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
        fraction = min(1.0, self._done / self.total) if self.total else None
        self.tell(f"{stage}, {self.noun} {self._done} of {self.total}{left}", fraction)
