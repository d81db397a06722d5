"""LipSDP: multipliers for slope restrictions."""

from steepest.bounds.lipsdp.bound import LipSDP

__all__ = ["LipSDP"]
