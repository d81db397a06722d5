"""Judgement of a watched run: measurements become ranked findings."""

from __future__ import annotations

from typing import Protocol

from steepest.diagnose.case import Case
from steepest.diagnose.judge import judge_case
from steepest.probes.probe import Measurement
from steepest.results.finding import Finding

__all__ = ["Case", "judge", "judge_case"]


class Watched(Protocol):
    """A run that is over."""

    def measurements(self) -> tuple[Measurement, ...]:
        """The records of all probes."""
        ...


def judge(run: Watched) -> tuple[Finding, ...]:
    """What is wrong with a watched run, ranked: severity first, then how strongly the evidence speaks.

    Args:
        run: what ``steepest.watch`` gave, after its block.

    Returns:
        At most three findings; an empty tuple for a healthy run.
    """
    return judge_case(Case.of(run.measurements()))
