"""The probes that watch a run unless others are asked for."""

from __future__ import annotations

from steepest.probes.curvature import Curvature
from steepest.probes.noise import GradientNoise
from steepest.probes.probe import Probe


def default_probes() -> tuple[Probe, ...]:
    """Fresh probes for one run, within the budget of 1.2x a step together."""
    return (Curvature(), GradientNoise())
