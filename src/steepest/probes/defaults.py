"""The probes that watch a run unless others are asked for."""

from __future__ import annotations

from steepest.probes.curvature import Curvature
from steepest.probes.finite import FiniteProbe
from steepest.probes.fit import FitProbe
from steepest.probes.inputs import InputProbe
from steepest.probes.leak import LeakProbe
from steepest.probes.losses import LossProbe
from steepest.probes.modes import ModeProbe
from steepest.probes.noise import GradientNoise
from steepest.probes.parameters import ParameterProbe
from steepest.probes.probe import Probe
from steepest.probes.reachable import ReachableProbe
from steepest.probes.signals import SignalProbe
from steepest.probes.steps import StepProbe
from steepest.probes.task import TaskProbe


def default_probes() -> tuple[Probe, ...]:
    """Fresh probes for one run, within the budget of 1.2x a step together."""
    return (
        LossProbe(),
        TaskProbe(),
        FitProbe(),
        InputProbe(),
        ReachableProbe(),
        SignalProbe(),
        ParameterProbe(),
        StepProbe(),
        ModeProbe(),
        LeakProbe(),
        FiniteProbe(),
    )


def curvature_probes() -> tuple[Probe, ...]:
    """Fresh probes of the Hessian's largest eigenvalue and of the gradient noise scale: asked for, each takes some percent of a run."""
    return (Curvature(), GradientNoise())
