"""Judges a run that was watched: from measurements to findings."""

from __future__ import annotations

from steepest.results.finding import Finding
from steepest.watch.run import WatchedRun


def judge(run: WatchedRun) -> tuple[Finding, ...]:
    """The findings of a run, ranked; none for a healthy one."""
    return ()
