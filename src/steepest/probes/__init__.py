"""Questions asked of a training run: one probe a file, each fed by the observer with the events of ``probes/events.py``."""

from steepest.probes.probe import Measurement, Probe, Run

__all__ = ["Measurement", "Probe", "Run"]
