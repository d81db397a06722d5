"""One file per layer family; each operator states its kind and its facts."""

from steepest.ops.analytic import Cos, Log, Power, Reciprocal, Sin, Sqrt
from steepest.ops.conv import Conv, ConvTranspose
from steepest.ops.dense import Dense
from steepest.ops.group_max import GroupMax
from steepest.ops.group_sort import GroupSort
from steepest.ops.join import Add, Concat
from steepest.ops.kinds import Affine, Bilinear, Elementwise, Group, Join, Rearrangement
from steepest.ops.normalize import Normalize
from steepest.ops.piecewise import Clamp, HardSwish, LeakyRelu
from steepest.ops.product import MatMul, Multiply
from steepest.ops.rearrange import Permute, Reshape, Select
from steepest.ops.scale import Scale
from steepest.ops.smooth import (
    Elu,
    Erf,
    Exp,
    Gelu,
    GeluTanh,
    Mish,
    Sigmoid,
    Silu,
    Smooth,
    Softplus,
    Softsign,
    Tanh,
    Tanhshrink,
)
from steepest.ops.softmax import LogSoftmax, Softmax

__all__ = [
    "Add",
    "Affine",
    "Bilinear",
    "Clamp",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Dense",
    "Elementwise",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "GeluTanh",
    "Group",
    "GroupMax",
    "GroupSort",
    "HardSwish",
    "Join",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Mish",
    "Multiply",
    "Normalize",
    "Permute",
    "Power",
    "Rearrangement",
    "Reciprocal",
    "Reshape",
    "Scale",
    "Select",
    "Sigmoid",
    "Silu",
    "Sin",
    "Smooth",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tanh",
    "Tanhshrink",
]
