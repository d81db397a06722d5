"""Plain frozen records of what was found; needs no torch."""

from steepest.results.bracket import Bracket, LowerBound, Step, UpperBound
from steepest.results.domain import Domain
from steepest.results.estimate import Estimate
from steepest.results.record import NetworkRecord, NodeRecord

__all__ = ["Bracket", "Domain", "Estimate", "LowerBound", "NetworkRecord", "NodeRecord", "Step", "UpperBound"]
