"""Layers that ``torch.nn`` lacks: of bounded Lipschitz constant, for normalisation, and for networks without it."""

from steepest.layers.aol import AlmostOrthogonal, almost_orthogonalise
from steepest.layers.batch_norm import LipschitzBatchNorm
from steepest.layers.export import export, settle_
from steepest.layers.fixup import FixupResidual
from steepest.layers.ghost_batch_norm import GhostBatchNorm, with_ghost_batches_
from steepest.layers.gradient_step import Difference, GradientStep, Householder, cpl, sll
from steepest.layers.losses import hinge_kantorovich_rubinstein, margin_cross_entropy, margins, multiclass_hinge, with_bottom
from steepest.layers.orthogonal import OrthogonalKernel, OrthogonalMatrix, orthogonalise
from steepest.layers.pooling import ScaledAvgPool2d
from steepest.layers.sdp import RescaledOutputs, rescale_outputs
from steepest.layers.sorting import GroupSort, MaxMin
from steepest.layers.spectral import SpectralNorm, spectral_normalise
from steepest.layers.weight_standardisation import WeightStandardisation, weight_standardise

__all__ = [
    "AlmostOrthogonal",
    "Difference",
    "FixupResidual",
    "GhostBatchNorm",
    "GradientStep",
    "GroupSort",
    "Householder",
    "LipschitzBatchNorm",
    "MaxMin",
    "OrthogonalKernel",
    "OrthogonalMatrix",
    "RescaledOutputs",
    "ScaledAvgPool2d",
    "SpectralNorm",
    "WeightStandardisation",
    "almost_orthogonalise",
    "cpl",
    "export",
    "hinge_kantorovich_rubinstein",
    "margin_cross_entropy",
    "margins",
    "multiclass_hinge",
    "orthogonalise",
    "rescale_outputs",
    "settle_",
    "sll",
    "spectral_normalise",
    "weight_standardise",
    "with_bottom",
    "with_ghost_batches_",
]
