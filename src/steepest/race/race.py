"""The verb: what was asked for is checked, then raced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from steepest.errors import UsageError
from steepest.jobs import Progress, workers
from steepest.numerics.deadline import Deadline
from steepest.optim.catalogue import find
from steepest.optim.method import Need
from steepest.race.protocol import Raced, Racing
from steepest.race.runner import Runner
from steepest.race.schedule import find_schedule
from steepest.race.store import Store
from steepest.race.task import Task, fingerprint, load_task
from steepest.results.race import RaceResult

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adagrad")
_UNMET = {
    Need.SNAPSHOT: "gradients of the whole data set now and then",
    Need.COMPONENTS: "the loss of each sample by its number",
    Need.MODEL: "the layers of the model",
}


def race(
    task: str | Task | Sequence[str | Task] = "digits_mlp",
    *,
    optimizers: Sequence[str] = OPTIMIZERS,
    trials: int = 24,
    seeds: int = 10,
    steps: int | None = None,
    rates: tuple[float, float] | None = None,
    schedule: str = "constant",
    seed: int = 0,
    jobs: int = 1,
    executor: Executor | None = None,
    cluster_address: str | None = None,
    folder: str | Path | None = None,
    fresh: bool = False,
    data: str | Path | None = None,
    progress: Progress = lambda stage, fraction: None,
    stop: Deadline | None = None,
) -> RaceResult:
    """Compare descent methods under equal tuning budgets, on fresh seeds, by steps to a common target (``Racing`` states the protocol).

    Args:
        task: a name of ``steepest.race.TASKS``, ``"module:function"`` that returns a ``Task``, a ``Task``, or several.
        optimizers: names of ``steepest.optim.catalogue``.
        trials: options tried per method.
        seeds: fresh seeds per method.
        steps: gradients per trial; by default the task's own number.
        rates: ``(low, high)``, the range of the rate for every method, instead of each method's own; of the effective rate
            ``lr / (1 - momentum)`` where gradients are summed.
        schedule: a name of ``steepest.race.schedule.SCHEDULES``: how the rate of every method changes over a run.
        seed: from which all points and seeds come: the same seed gives the same race, processor seconds aside.
        jobs: local processes, each of one thread; 1 is this process. With more, a script that calls this needs
            ``if __name__ == "__main__":``, and a ``Task`` must be named as ``"module:function"``.
        executor: instead of ``jobs``: any ``concurrent.futures.Executor``; it stays open.
        cluster_address: instead of ``jobs``: of a Dask scheduler.
        folder: keeps every finished trial, and takes up those that are there.
        fresh: forget the trials that are there.
        data: folder of a task's data (``fashion_cnn``).
        progress: called with a phrase and the fraction done.
        stop: ``stop.stop(reason)`` ends the race between trials.

    Raises:
        UsageError: for an unknown task, method or schedule (lists the known ones), and options that cannot be.
        ModelError: where a task's loss is not finite before the first step.
        LimitError: when stopped; finished trials are in the folder.
    """
    given = [task] if isinstance(task, (str, Task)) else list(task)
    _require(trials, seeds, steps, rates, jobs, seed)
    find_schedule(schedule)
    names = list(dict.fromkeys(optimizers))
    if not names or not given:
        raise UsageError("a race needs at least one task and one optimizer")
    for name in names:
        _require_method(name)
    objects = {one.name: one for one in given if isinstance(one, Task)}
    distant = executor is not None or cluster_address is not None or jobs > 1
    if objects and (distant or folder is not None):
        raise UsageError(
            f"{', '.join(objects)}: a Task object is raced in this process and not kept; "
            "for jobs, a cluster or a folder give it as module:function"
        )
    place = None if data is None else str(Path(data).resolve())
    raced = [
        Raced(one, one.name, "") if isinstance(one, Task) else Raced(load_task(one, place), one, fingerprint(one), place) for one in given
    ]
    store = None if folder is None else Store(Path(folder))
    if store is not None and fresh:
        store.clear()
    runner = Runner(workers(jobs, cluster_address, executor), store, stop or Deadline(), progress, given=objects)
    try:
        return Racing(trials, seeds, seed, steps, rates, schedule).run(raced, names, runner)
    finally:
        runner.close()


def _require_method(name: str) -> None:
    method = find(name)
    method.load()
    for need, words in _UNMET.items():
        if need in method.needs:
            raise UsageError(f"{name} cannot race: it needs {words}, which a task does not give")


def _require(trials: int, seeds: int, steps: int | None, rates: tuple[float, float] | None, jobs: int, seed: int) -> None:
    for name, number in (("trials", trials), ("seeds", seeds), ("steps", steps), ("jobs", jobs)):
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least 1, not {number}")
    if seed < 0:
        raise UsageError(f"seed must be at least 0, not {seed}")
    if rates is not None and not 0 < rates[0] < rates[1] < math.inf:
        raise UsageError(f"rates are two positive numbers, the lower first, not {rates[0]:g} and {rates[1]:g}")
