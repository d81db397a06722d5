"""Plain frozen records of what was found; needs no torch."""

from steepest.results.bracket import Bracket, LowerBound, Step, UpperBound
from steepest.results.cause import Cause
from steepest.results.domain import Domain
from steepest.results.estimate import Estimate
from steepest.results.finding import Evidence, Finding, Severity, Trial
from steepest.results.generalisation import Generalisation, LayerNorms, MarginBound
from steepest.results.record import NetworkRecord, NodeRecord
from steepest.results.study import Claim, Figure, Interval, Series, StudyResult, Verdict

__all__ = [
    "Bracket",
    "Cause",
    "Claim",
    "Domain",
    "Estimate",
    "Evidence",
    "Figure",
    "Finding",
    "Generalisation",
    "Interval",
    "LayerNorms",
    "LowerBound",
    "MarginBound",
    "NetworkRecord",
    "NodeRecord",
    "Series",
    "Severity",
    "Step",
    "StudyResult",
    "Trial",
    "UpperBound",
    "Verdict",
]
