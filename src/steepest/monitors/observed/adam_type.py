"""The theorem for Adam-type methods, as a question asked of an observed run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from steepest.errors import UsageError
from steepest.monitors.adam_type import AdamTypeMonitor
from steepest.probes.events import Step
from steepest.probes.probe import Probe
from steepest.results.convergence import AdamTypeReport, Assumption, Verdict


@dataclass(frozen=True)
class AdamTypeRecord:
    """What the theorem says of each Adam-type optimizer of a run.

    Args:
        reports: in the order in which the optimizers first stepped.
    """

    reports: tuple[AdamTypeReport, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"reports": [r.to_json() for r in self.reports]}


class AdamTypeProbe(Probe):
    """Does the convergence theorem for Adam-type methods hold so far? See ``AdamTypeMonitor``, whose options these are.

    Cost: a few gathers per tensor in all of the first ``dense`` steps and about ``dense`` a doubling after them. The losses of the
    run's own batches are the evidence for a rise.
    """

    def __init__(self, coordinates: int = 512, dense: int = 128) -> None:
        self.coordinates, self.dense = coordinates, dense
        self.monitors: dict[int, AdamTypeMonitor | None] = {}

    def before_step(self, event: Step) -> None:
        """Read the state before."""
        if event.optimizer is None:
            return
        if event.index not in self.monitors:
            self.monitors[event.index] = self._monitor(event.optimizer)
        monitor = self.monitors[event.index]
        if monitor is not None:
            monitor.before_step()

    def after_step(self, event: Step) -> None:
        """Read the state after."""
        monitor = self.monitors.get(event.index)
        if monitor is not None:
            for loss in event.losses:
                monitor.record_loss(loss)
            monitor.after_step()

    def finish(self) -> AdamTypeRecord | None:
        """A report for each optimizer that is of this type."""
        reports = tuple(m.report() for m in self.monitors.values() if m is not None)
        for report in reports:
            if report.verdict is Verdict.FAILED and Assumption.NOT_FINITE not in report.assumptions:
                self.run.note(f"{report.method}: {report.verdict.value}: {'; '.join(report.evidence)}")
        return AdamTypeRecord(reports) if reports else None

    def _monitor(self, optimizer: Optimizer) -> AdamTypeMonitor | None:
        try:
            return AdamTypeMonitor(optimizer, coordinates=self.coordinates, dense=self.dense, attach=False)
        except UsageError:
            return None
