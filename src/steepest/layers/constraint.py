"""What the constraints of a dense or convolutional layer's weight have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from steepest import ops

M = TypeVar("M", bound=nn.Module)
Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Constraint(nn.Module):
    """A parametrisation under which a layer's l2 norm is at most one, up to the rounding of its weight."""


def constraint_of(module: nn.Module) -> Constraint | None:
    """The constraint on the weight of a layer, where there is one."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    listed = module.get_submodule("parametrizations.weight")
    only, *more = listed.children()
    # Another parametrisation after it may undo it.
    return only if isinstance(only, Constraint) and not more else None


def require_layer(module: nn.Module, what: str) -> None:
    """Raise where a module is no dense layer and no convolution.

    Raises:
        ValueError: naming it; also where its weight is parametrised already.
    """
    if not isinstance(module, (nn.Linear, *CONVS)):
        raise ValueError(f"{what} takes Linear, Conv1d, Conv2d or Conv3d, not {type(module).__name__}")
    if isinstance(module.weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"{what} needs a weight with a shape: {type(module).__name__} has not seen an input yet")
    if parametrize.is_parametrized(module, "weight"):
        raise ValueError(f"the weight of {type(module).__name__} is parametrised already")


def paddings(module: Conv) -> tuple[tuple[int, int], ...]:
    """(before, after) per spatial dimension, whatever way it was asked for."""
    backwards = module._reversed_padding_repeated_twice
    return tuple((backwards[2 * a], backwards[2 * a + 1]) for a in reversed(range(len(module.kernel_size))))


def require_circle(module: Conv, what: str) -> None:
    """Raise where padding copies entries in a way under which the constraint's argument fails.

    Zeros are always fine: the operator is a piece of the one on the whole lattice. On a circle of any size it is fine where outputs
    are no more than inputs and one apart.

    Raises:
        ValueError: naming the setting.
    """
    padded = any(p != (0, 0) for p in paddings(module))
    if not padded or module.padding_mode == "zeros":
        return
    if module.padding_mode != "circular":
        raise ValueError(
            f"{what} cannot be guaranteed with padding_mode={module.padding_mode!r}, which copies entries and so adds to the norm: "
            "use zeros, circular, or spectral_normalise"
        )
    if any(s != 1 for s in module.stride):
        raise ValueError(f"{what} cannot be guaranteed with circular padding and stride {module.stride}: use zeros, or spectral_normalise")
    for (before, after), k, d in zip(paddings(module), module.kernel_size, module.dilation, strict=True):
        if before + after > d * (k - 1):
            raise ValueError(f"{what} cannot be guaranteed where circular padding {before} + {after} gives more outputs than inputs")


@dataclass(frozen=True)
class Setting:
    """What of a layer its operator depends on, beside the weight.

    Args:
        kind: its class, for messages.
        stride, dilation: one per spatial dimension; none for a dense layer.
        padding: (before, after) per spatial dimension.
        groups: blocks of channels that do not mix.
        mode: what the padding holds.
    """

    kind: str
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 1
    mode: str = "zeros"

    @classmethod
    def of(cls, module: nn.Module) -> Setting:
        """That of a dense or convolutional layer."""
        kind = type(module).__name__
        if isinstance(module, nn.Linear):
            return cls(kind)
        assert isinstance(module, CONVS)
        return cls(kind, module.stride, module.dilation, paddings(module), module.groups, module.padding_mode)

    def operator(self, weight: Tensor, size: tuple[int, ...] | None) -> ops.Dense | ops.Conv:
        """The layer with a given weight as the operator that bounds speak of, without its bias.

        Args:
            weight: of any dtype.
            size: spatial size of a convolution's input.

        Raises:
            ValueError: where a convolution's size is missing, or does not fit.
        """
        bias = weight.new_zeros(len(weight))
        if not self.stride:
            return ops.Dense(((1, weight.shape[1]),), weight, bias)
        rank = len(self.stride)
        if size is None or len(size) != rank or not all(isinstance(n, int) and n > 0 for n in size):
            raise ValueError(f"the norm of {self.kind} depends on the spatial size of its input: give {rank} positive numbers, not {size}")
        kernel = tuple(weight.shape[2:])
        for n, (before, after), k, d in zip(size, self.padding, kernel, self.dilation, strict=True):
            if n + before + after < d * (k - 1) + 1:
                raise ValueError(f"an input of size {size} is smaller than the kernel {kernel} of {self.kind}")
            if max(before, after) > {"reflect": n - 1, "circular": n}.get(self.mode, max(before, after)):
                raise ValueError(f"{self.mode} padding {before} + {after} does not fit an input of size {size}")
        modes = () if self.mode == "zeros" else (self.mode,) * rank
        shape = (1, weight.shape[1] * self.groups, *size)
        return ops.Conv((shape,), weight, bias, self.stride, self.padding, self.dilation, self.groups, modes)

    def norm_above(self, weight: Tensor, size: tuple[int, ...] | None) -> float:
        """A proven upper bound of the layer's l2 norm with a given weight, taken exactly, as ``steepest.bound`` will find it."""
        exact = weight.detach().double().cpu()
        return self.operator(exact, size).norm(2.0) if torch.isfinite(exact).all() else math.inf
