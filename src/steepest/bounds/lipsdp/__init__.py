"""LipSDP: multipliers for slope restrictions."""

from steepest.bounds.lipsdp.bound import LipSDP
from steepest.bounds.lipsdp.channels import ChannelLipSDP

__all__ = ["ChannelLipSDP", "LipSDP"]
