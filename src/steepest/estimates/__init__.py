"""Values of well-known methods that are no proof: shown beside the bounds, never among them."""

from steepest.estimates.liplt import LipLT
from steepest.estimates.seqlip import SeqLip

__all__ = ["LipLT", "SeqLip"]
