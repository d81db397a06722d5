"""What came of running a script under observation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from steepest.results.finding import Finding, Severity


class Ending(StrEnum):
    """How an observed script ended, as a sentence."""

    TRAINED = "the script trained and ran to its end"
    INTERRUPTED = "the script was interrupted: the findings are about what it had done until then"
    CRASHED = "the script failed with an error of its own: the findings are about what it had done until then"
    CRASHED_EARLY = "the script failed before it trained anything: its traceback says why"
    EXITED_EARLY = "the script ended itself with sys.exit() before it trained anything: see what it printed"
    NO_BACKWARD = "the script never called backward(): there is no training to diagnose"
    NO_STEP = "the script called backward(), but no optimizer stepped and no parameter changed: call optimizer.step() after it"

    @property
    def trained(self) -> bool:
        """Whether there was a run to judge."""
        return self in (Ending.TRAINED, Ending.INTERRUPTED, Ending.CRASHED, Ending.NO_STEP)


@dataclass(frozen=True)
class Diagnosis:
    """The findings about one run of a script.

    Args:
        script: its path.
        findings: ranked; empty for a healthy run.
        ending: how the script ended.
        exit_code: the script's own.
        steps: optimizer steps that were seen.
        losses: the loss at every backward pass.
        notes: what could not be observed.
        measurements: what the probes measured, in their JSON form, under the names of the records.
        loss_optimizers: for each loss, the index of the optimizer that stepped next; None where none did.
    """

    script: str
    findings: tuple[Finding, ...]
    ending: Ending
    exit_code: int
    steps: int
    losses: tuple[float, ...]
    notes: tuple[str, ...]
    measurements: dict[str, Any]
    loss_optimizers: tuple[int | None, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a finding is an error."""
        return any(f.severity is Severity.ERROR for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The JSON form, the findings first; numbers that are not finite are written as words."""
        return {
            "findings": [f.to_json() for f in self.findings],
            "format": "steepest-diagnosis/1",
            "script": self.script,
            "ending": self.ending.value,
            "exit_code": self.exit_code,
            "steps": self.steps,
            "losses": [v if abs(v) < float("inf") else str(v) for v in self.losses],
            "loss_optimizers": list(self.loss_optimizers),
            "notes": list(self.notes),
            "measurements": self.measurements,
        }

    def _repr_html_(self) -> str:
        # Upwards, as for a bracket: notebooks ask the record itself for its picture.
        from steepest.report.fragments import diagnosis_fragment

        return diagnosis_fragment(self.to_json())
