"""What is wrong with a training run, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from steepest.results.cause import Cause


class Severity(StrEnum):
    """How bad it is: ``error`` makes ``--strict`` fail, ``warning`` costs quality."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Evidence:
    """One measured number beside the threshold that makes it tell.

    Args:
        quantity: what was measured, in words, with its unit.
        value: the measurement; a sentence where it is no number.
        threshold: the value from which on it counts; None where a fact needs none.
        source: where the threshold comes from: a paper with its equation, or how it was fitted.
        where: the module, parameter or step it was measured at.
    """

    quantity: str
    value: float | str
    threshold: float | None = None
    source: str = ""
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON form; numbers that are not finite are written as words."""
        return {
            "quantity": self.quantity,
            "value": _plain(self.value),
            "threshold": _plain(self.threshold),
            "source": self.source,
            "where": self.where,
        }


@dataclass(frozen=True)
class Trial:
    """A fix that was tried by running the script again under an intervention.

    Args:
        intervention: what was changed, in words; empty where nothing could be tried, as ``remark`` says.
        before: final value of ``metric`` without the change.
        after: the same with it.
        metric: what was compared, such as ``training loss``.
        helped: whether the change is recommended.
        remark: why no value could be had, where so; else the training loss before and after, where another metric decided.
    """

    intervention: str
    before: float | None
    after: float | None
    metric: str
    helped: bool
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "intervention": self.intervention,
            "before": _plain(self.before),
            "after": _plain(self.after),
            "metric": self.metric,
            "helped": self.helped,
            "remark": self.remark,
        }


@dataclass(frozen=True)
class Finding:
    """A root cause with its evidence and what to change.

    Args:
        cause: one of the root causes.
        severity: error or warning.
        score: how strongly the evidence speaks for it, in (0, 1]; findings are ranked by severity, then score.
        evidence: the measurements that led to it.
        fix: what to change, in one or two sentences.
        trial: what the fix did when it was tried.
    """

    cause: Cause
    severity: Severity
    score: float
    evidence: tuple[Evidence, ...]
    fix: str
    trial: Trial | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "cause": self.cause.value,
            "sentence": self.cause.sentence,
            "severity": self.severity.value,
            "score": self.score,
            "evidence": [e.to_json() for e in self.evidence],
            "fix": self.fix,
            "trial": None if self.trial is None else self.trial.to_json(),
        }


def _plain(value: float | str | None) -> float | str | None:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
