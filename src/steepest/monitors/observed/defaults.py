"""Which theories are asked of every run, and which on request."""

from __future__ import annotations

from steepest.monitors.observed.adam_type import AdamTypeProbe
from steepest.monitors.observed.deep_linear import DeepLinearProbe
from steepest.monitors.observed.descent import DescentProbe
from steepest.monitors.observed.gradients import GradientPathProbe
from steepest.monitors.observed.kernel import KernelProbe
from steepest.probes.probe import Probe


def cheap_probes() -> tuple[Probe, ...]:
    """Fresh probes within 1.05x a step together; the last two do nothing where the network is not of their kind."""
    return (AdamTypeProbe(), GradientPathProbe(), KernelProbe(), DeepLinearProbe())


def dear_probes() -> tuple[Probe, ...]:
    """Fresh probes that apply the model again, within some percent of a run."""
    return (DescentProbe(),)
