"""One file per convergence theory: what each says of a run as it goes."""

from steepest.monitors.adam_type import AdamTypeMonitor as AdamTypeMonitor

__all__ = ["AdamTypeMonitor"]
