"""LipSDP: multipliers for slope restrictions."""

from steepest.bounds.lipsdp.bound import LipSDP
from steepest.bounds.lipsdp.channels import ChannelLipSDP
from steepest.bounds.lipsdp.local import LocalLipSDP
from steepest.bounds.lipsdp.piece import PieceLipSDP

__all__ = ["ChannelLipSDP", "LipSDP", "LocalLipSDP", "PieceLipSDP"]
