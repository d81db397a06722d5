"""``with steepest.watch() as run``."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from steepest.errors import UsageError
from steepest.monitors.observed import cheap_probes, dear_probes
from steepest.probes.defaults import curvature_probes, default_probes
from steepest.probes.probe import Probe
from steepest.watch.hooks import Hooks
from steepest.watch.observer import Observer
from steepest.watch.run import WatchedRun
from steepest.watch.schedule import Schedule

_watching: list[Observer] = []


@contextmanager
def watch(
    probes: Sequence[Probe] | None = None,
    *,
    schedule: Schedule | None = None,
    curvature: bool = False,
    convergence: bool = False,
) -> Generator[WatchedRun]:
    """Observe all training in a block, without changing a number in it.

    Everything that torch trains while the block runs is seen, in any thread: models, optimizers, losses, data loaders. Where several
    threads train at once, one is seen at a time, the first, and a note says so. Losses, random numbers and the autograd graph stay bit by
    bit what they would be; but threads that draw from one generator at once get their numbers by chance, watched or not. What fails in a
    probe or in the observer itself becomes one of ``run.notes``, never an error of the training.

    Args:
        probes: what is asked; by default ``default_probes()`` and the convergence theories that cost little, at most 1.2x a step together.
        schedule: which windows between steps are looked at closely.
        curvature: also measure the Hessian's largest eigenvalue, beside the optimizer's edge of stability, and the gradient noise scale, as
            often as some percent of the run's time allow.
        convergence: also hold the descent lemma against the run, for which the model is applied again to some batches, and measure the
            curvature.

    Yields:
        The run, filled as it goes and final after the block: ``losses``, ``steps``, ``measurements()``, ``notes``.

    Raises:
        UsageError: inside another ``watch``.
    """
    if _watching:
        raise UsageError("this is watched already: end the outer steepest.watch() before beginning another")
    run = WatchedRun()
    asked = [*default_probes(), *cheap_probes()] if probes is None else list(probes)
    if convergence:
        asked += dear_probes()
    if curvature or convergence:
        asked += curvature_probes()
    observer = Observer(run, asked, schedule or Schedule())
    hooks = Hooks(observer)
    _watching.append(observer)
    try:
        yield run
    finally:
        _watching.remove(observer)
        hooks.remove()
        observer.finish()
