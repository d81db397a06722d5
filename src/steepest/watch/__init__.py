"""The observer of a training run: global hooks turn what happens into events, and probes are told."""

from steepest.watch.run import WatchedRun
from steepest.watch.schedule import Schedule
from steepest.watch.watching import watch

__all__ = ["Schedule", "WatchedRun", "watch"]
