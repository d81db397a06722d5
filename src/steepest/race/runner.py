"""Runs trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from steepest import jobs
from steepest.race.task import Task
from steepest.race.trial import Setting, run_trial
from steepest.results.race import RacedTrial


@dataclass
class Runner(jobs.Runner[Setting, RacedTrial]):
    """Runs trials, counts them, and says how long it will take.

    Args:
        given: tasks that are objects of this process, by name.
    """

    noun: ClassVar[str] = "trial"
    plural: ClassVar[str] = "trials"

    given: dict[str, Task] = field(default_factory=dict)

    def work(self) -> Callable[[Setting], RacedTrial]:
        """Training once."""
        return run_trial

    def here(self, job: Setting) -> RacedTrial:
        """With the task itself, where it is an object of this process."""
        return run_trial(job, self.given.get(job.task))
