"""Proven l2 norm of a zero-padded, strided, dilated, grouped convolution as it is applied."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.numerics.matrix_norm import largest_norm_2_above
from steepest.numerics.rounding import gamma


@dataclass(frozen=True)
class ConvGeometry:
    """Sizes of a convolution in d spatial dimensions: ``out[i] = sum_k K[k] in[stride i + dilation k - pad_before]``."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    size: tuple[int, ...]

    @property
    def out_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return tuple(
            (n + lo + hi - d * (k - 1) - 1) // s + 1
            for n, (lo, hi), k, s, d in zip(self.size, self.padding, self.kernel, self.stride, self.dilation, strict=True)
        )


def conv_norm_2_above(weight: Tensor, geometry: ConvGeometry, groups: int = 1, entries: int = 2**24) -> float:
    """Upper bound of the operator norm of a zero-padded convolution from l2 to l2.

    Polyphase: with offsets ``o = dilation k - pad = stride q + r`` the input splits into phases r and the operator is a
    stride-1 convolution with offsets q over (channel, phase). On a torus of period
    ``N >= max(out - 1 + q_max, in_phase - 1 - q_min) + 1`` no index wraps into the cropped support, so the operator is
    ``crop . circulant . embed`` and its norm is at most the largest norm of the symbol over the N frequencies; turning
    the circulant by any twist theta keeps this true, and the least over several twists is returned.

    Args:
        weight: ``[out, in / groups, *kernel]``, float64.
        geometry: sizes, strides, dilations and zero padding.
        groups: blocks of channels that do not mix; the norm is the largest of theirs.
        entries: most complex numbers held at once in a batch of symbols.

    Returns:
        A bound proven in floating point (definiteness of ``tau^2 I - S S^H`` at every frequency).

    Source: Sedghi, Gupta, Long 2019 for circular padding; here the zero-padded operator is embedded.
    """
    dims = len(geometry.kernel)
    out_channels, in_group = weight.shape[:2]
    grouped = weight.reshape(groups, out_channels // groups, in_group, -1)
    shifts, phases, periods = [], [], []
    for kernel, stride, dilation, (before, _), size, out in zip(
        geometry.kernel, geometry.stride, geometry.dilation, geometry.padding, geometry.size, geometry.out_size, strict=True
    ):
        offsets = [dilation * k - before for k in range(kernel)]
        shift = [o // stride for o in offsets]
        shifts.append(shift)
        phases.append([o % stride for o in offsets])
        phase_size = -(-size // stride)
        periods.append(max(out + max(shift), phase_size - min(shift), phase_size, out))
    taps = list(itertools.product(*(range(k) for k in geometry.kernel)))
    tap_shift = torch.tensor([[shifts[a][k[a]] for a in range(dims)] for k in taps], dtype=torch.float64)
    phase_ids = [tuple(phases[a][k[a]] for a in range(dims)) for k in taps]
    used = sorted(set(phase_ids))
    tap_phase = torch.tensor([used.index(i) for i in phase_ids])

    # |S - S~| entrywise is at most (taps + a few) u sum_k |K|: twiddles are within a few ulp.
    largest_tap = (weight.abs().sum(tuple(range(2, weight.ndim))).reshape(groups, -1).square().sum(1)).sqrt().amax().item()
    reach = max(abs(q) for shift in shifts for q in shift)
    error = gamma(32 * (len(taps) + dims * reach + 16)) * largest_tap * (1 + gamma(weight.numel()))

    best = math.inf
    for twist in ((0.0,) * dims, (0.5,) * dims) if math.prod(periods) > 1 else ((0.0,) * dims,):
        grid = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in periods)).reshape(-1, dims)
        fraction = (grid + torch.tensor(twist, dtype=torch.float64)) / torch.tensor(periods, dtype=torch.float64)
        fraction = _half_spectrum(grid, periods, twist, fraction)
        rows, columns = out_channels // groups, in_group * len(used)
        step = max(1, entries // max(1, groups * max(rows * columns, min(rows, columns) ** 2 * 3)))
        worst = 0.0
        for chunk in fraction.split(step):
            # The phase is reduced exactly before the exponential, so that its error stays a few ulp.
            turns = chunk @ tap_shift.T
            angle = 2.0 * math.pi * (turns - turns.round())
            waves = torch.polar(torch.ones_like(angle), angle)
            symbol = torch.zeros(groups, len(chunk), rows, in_group, len(used), dtype=torch.complex128)
            for phase in range(len(used)):
                mine = tap_phase == phase
                symbol[..., phase] = torch.einsum("ft,goct->gfoc", waves[:, mine], grouped[..., mine].to(waves.dtype))
            worst = max(worst, largest_norm_2_above(symbol.flatten(-2).flatten(0, 1)))
            if worst >= best:
                break
        best = min(best, worst)
    return (best + error) * (1.0 + gamma(4))


def _half_spectrum(grid: Tensor, periods: list[int], twist: tuple[float, ...], fraction: Tensor) -> Tensor:
    """Keep one of each pair of conjugate frequencies: a real kernel's symbols there have the same norm.

    The conjugate of index j under twist t is ``-j - 2t`` modulo the period.
    """
    size = torch.tensor(periods, dtype=torch.float64)
    mirror = torch.remainder(-grid - 2.0 * torch.tensor(twist, dtype=torch.float64), size)
    weights = torch.tensor([math.prod(periods[a + 1 :]) for a in range(len(periods))], dtype=torch.float64)
    return fraction[(grid @ weights) <= (mirror @ weights)]
