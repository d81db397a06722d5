"""Proven l2 norm of a padded, strided, dilated, grouped convolution as it is applied."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from steepest.numerics.deflation import deflated_norm_above
from steepest.numerics.matrix_norm import norm_2_above
from steepest.numerics.rounding import gamma
from steepest.numerics.torus import ConvGeometry, padded_positions
from steepest.numerics.torus_norm import Laid, lay, torus_norm_above, turned

_DENSE_SIDE = 256
_DENSE_SIDE_MIRRORED = 1536
_DENSE_ENTRIES = 2**24


def conv_norm_2_above(weight: Tensor, geometry: ConvGeometry, groups: int = 1, refine: bool = True) -> float:
    """Upper bound of the operator norm from l2 to l2 of a convolution together with its padding.

    A small operator is bounded as the matrix it is, whatever its padding. Otherwise:

    - zeros: ``|W| <= max |S(f)|`` over the frequencies of a torus too long for anything to go round unseen, or a refinement of it
      in the operator itself (``torus_norm_above``, ``deflated_norm_above``);
    - circular, where the stride divides the circle: the same with the circle itself, which is exact where nothing is cropped;
    - reflect, replicate, other circles: the outputs of such an axis are those inside, whose windows touch no padding, and those at
      its ends. ``|W x|^2 = |W_in x|^2 + |W_end x|^2``, so ``|W|^2 <= |W_in|^2 + |W_end|^2``, where the inside is a convolution
      without padding in that axis, and the ends are convolutions in the other axes with the few positions they read and write as
      channels (two ends that read nothing in common: the larger); and ``|W| <= |T| |P|`` for the unpadded convolution T of the padded
      input, ``|P|^2`` the most copies of an entry. The smaller of the two.

    Args:
        weight: ``[out, in / groups, *kernel]``, float64.
        geometry: sizes, strides, dilations and padding.
        groups: blocks of channels that do not mix; the norm is the largest of theirs.
        refine: whether to look for less than the torus shows.

    Returns:
        A bound proven in floating point.
    """
    if not weight.any():
        return 0.0
    if not geometry.kernel:
        return norm_2_above(weight.reshape(groups, -1, weight.shape[1])).max().item()
    mirrored = [a for a in range(len(geometry.kernel)) if not geometry.on_torus(a)]
    rows = math.prod(geometry.out_size) * (len(weight) // groups)
    columns = math.prod(geometry.size) * weight.shape[1]
    if min(rows, columns) <= (_DENSE_SIDE_MIRRORED if mirrored else _DENSE_SIDE) and groups * rows * columns <= _DENSE_ENTRIES:
        rounding = 0.0
        if mirrored:
            summed = torch.linalg.matrix_norm(conv_matrix(weight.abs(), geometry, groups)).max().item()
            rounding = gamma(math.prod(geometry.kernel)) * (1.0 + gamma(groups * rows * columns)) * summed
        return (norm_2_above(conv_matrix(weight, geometry, groups)).max().item() + rounding) * (1.0 + gamma(1))
    if mirrored:
        # The margin lets another proof take its own way to the norms of the parts.
        return min(_inside_and_ends(weight, geometry, groups, mirrored[0]), _copied(weight, geometry, groups)) * (1.0 + 2e-5)
    laid = lay(weight, geometry, groups)
    if refine and groups == 1 and _worth_refining(laid):
        refined = deflated_norm_above(weight, laid)
        if refined is not None:
            return refined
    return torus_norm_above(turned(laid))


def _worth_refining(laid: Laid) -> bool:
    """On a torus of period N the largest symbol is above the norm by a share that falls as 1 / N^2: 6e-4 at N = 32 for random kernels."""
    torus = laid.grams.torus
    zeros = all(torus.geometry.mode(a) == "zeros" for a in range(len(torus.periods)))
    return zeros and min(torus.periods) < 32 and math.prod(torus.geometry.kernel) > 1


def axis_matrices(geometry: ConvGeometry, axis: int) -> Tensor:
    """Which position of an axis each output reads with each kernel entry: ``[kernel, out, size]`` of zeros and ones."""
    k, s, d, n = geometry.kernel[axis], geometry.stride[axis], geometry.dilation[axis], geometry.size[axis]
    positions = padded_positions(geometry.mode(axis), n, *geometry.padding[axis])
    read = positions[d * torch.arange(k)[:, None] + s * torch.arange(geometry.out_size[axis])]
    return (read[:, :, None] == torch.arange(n)).to(torch.float64)


def conv_matrix(weight: Tensor, geometry: ConvGeometry, groups: int) -> Tensor:
    """The operator as a matrix per group: ``[groups, out / groups * positions, in / groups * positions]``.

    Sums of kernel entries that meet in one place are rounded, at most one per kernel entry.
    """
    found = weight.reshape(groups, len(weight) // groups, weight.shape[1], 1, 1, *weight.shape[2:])
    for axis in range(len(geometry.kernel)):
        # [g, o, c, positions out, positions in, k, ...] with [k, out, in]
        found = torch.einsum("gocpqk...,kyx->gocpyqx...", found, axis_matrices(geometry, axis))
        found = found.flatten(3, 4).flatten(4, 5)
    found = found.permute(0, 1, 3, 2, 4)
    return found.flatten(3, 4).flatten(1, 2)


def _copied(weight: Tensor, geometry: ConvGeometry, groups: int) -> float:
    """``|T| |P|``."""
    copies, sizes, paddings, modes = 1, list(geometry.size), list(geometry.padding), []
    for a in range(len(geometry.kernel)):
        if geometry.on_torus(a):
            modes.append(geometry.mode(a))
            continue
        positions = padded_positions(geometry.mode(a), geometry.size[a], *geometry.padding[a])
        copies *= int(positions.bincount().max())
        sizes[a], paddings[a] = len(positions), (0, 0)
        modes.append("zeros")
    plain = replace(geometry, size=tuple(sizes), padding=tuple(paddings), modes=tuple(modes))
    return conv_norm_2_above(weight, plain, groups, refine=False) * math.sqrt(copies) * (1.0 + gamma(2))


def ends(geometry: ConvGeometry, axis: int) -> tuple[range, list[Tensor]]:
    """The outputs of an axis whose windows touch no padding, and the others by what they read: apart, or together."""
    n, s, (before, _) = geometry.size[axis], geometry.stride[axis], geometry.padding[axis]
    reach, out = geometry.dilation[axis] * (geometry.kernel[axis] - 1), geometry.out_size[axis]
    first = min(out, -(-before // s))
    last = max(first, min(out, (n - 1 - reach + before) // s + 1))
    sides = [torch.arange(0, first), torch.arange(last, out)]
    reads = axis_matrices(geometry, axis).sum(0) > 0
    if (reads[sides[0]].any(0) & reads[sides[1]].any(0)).any():
        sides = [torch.cat(sides)]
    return range(first, last), [side for side in sides if len(side)]


def _inside_and_ends(weight: Tensor, geometry: ConvGeometry, groups: int, axis: int) -> float:
    """``sqrt(|W_in|^2 + |W_end|^2)``."""
    inside, sides = ends(geometry, axis)
    total = 0.0
    if len(inside):
        before = geometry.padding[axis][0] - geometry.stride[axis] * inside.start
        reach = geometry.stride[axis] * (len(inside) - 1) + geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        cropped = (before, reach - geometry.size[axis] - before)
        total = conv_norm_2_above(weight, _changed(geometry, axis, cropped), groups, refine=False) ** 2
    parts = [0.0]
    matrices = axis_matrices(geometry, axis)
    for side in sides:
        rows = matrices[:, side]
        rows = rows[:, :, rows.sum((0, 1)) > 0]
        # Entries that meet are added with rounding; the norm of a convolution is at most that of the sum of its |K_k|.
        slab = _slab(weight.abs(), rows, groups, axis)
        mass = slab.reshape(*slab.shape[:2], -1).sum(2).norm().item() * (1.0 + gamma(weight.numel() * rows.numel()))
        rounding = gamma(geometry.kernel[axis]) * mass
        parts.append(conv_norm_2_above(_slab(weight, rows, groups, axis), _without(geometry, axis), groups, refine=False) + rounding)
    return math.sqrt(total + max(parts) ** 2) * (1.0 + gamma(8))


def _slab(weight: Tensor, rows: Tensor, groups: int, axis: int) -> Tensor:
    """The kernel in the other axes, with positions of this one as channels; ``rows`` is ``[kernel, written, read]``."""
    grouped = weight.reshape(groups, len(weight) // groups, *weight.shape[1:]).movedim(3 + axis, -1)
    slab = torch.einsum("goc...k,kyx->goycx...", grouped, rows)
    return slab.reshape(groups * slab.shape[1] * slab.shape[2], slab.shape[3] * slab.shape[4], *slab.shape[5:])


def _changed(geometry: ConvGeometry, axis: int, padding: tuple[int, int]) -> ConvGeometry:
    modes = tuple("zeros" if a == axis else geometry.mode(a) for a in range(len(geometry.kernel)))
    return replace(geometry, padding=tuple(padding if a == axis else p for a, p in enumerate(geometry.padding)), modes=modes)


def _without(geometry: ConvGeometry, axis: int) -> ConvGeometry:
    def rest(values: tuple) -> tuple:
        return tuple(v for a, v in enumerate(values) if a != axis)

    modes = rest(tuple(geometry.mode(a) for a in range(len(geometry.kernel))))
    return ConvGeometry(
        rest(geometry.kernel), rest(geometry.stride), rest(geometry.dilation), rest(geometry.padding), rest(geometry.size), modes
    )
