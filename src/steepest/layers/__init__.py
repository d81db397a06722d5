"""Layers that torch.nn lacks."""

from steepest.layers.fixup import FixupResidual
from steepest.layers.ghost_batch_norm import GhostBatchNorm, with_ghost_batches_
from steepest.layers.weight_standardisation import WeightStandardisation, weight_standardise

__all__ = ["FixupResidual", "GhostBatchNorm", "WeightStandardisation", "weight_standardise", "with_ghost_batches_"]
