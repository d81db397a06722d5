"""What rules share."""

from __future__ import annotations

from collections.abc import Callable

from steepest.diagnose.case import Case
from steepest.diagnose.harm import Harm
from steepest.results.cause import Cause
from steepest.results.finding import Evidence, Finding, Severity

Rule = Callable[[Case, Harm], Finding | None]


def finding(cause: Cause, score: float, fix: str, *evidence: Evidence, severity: Severity = Severity.ERROR) -> Finding:
    """A finding; the score is clipped to (0, 1]."""
    return Finding(cause, severity, min(1.0, max(0.01, score)), evidence, fix)
