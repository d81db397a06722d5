"""A convolution laid on a torus: its symbols there, and their Gram matrices."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from steepest.numerics.rounding import gamma


@dataclass(frozen=True)
class ConvGeometry:
    """Sizes of a convolution in d spatial dimensions: ``out[i] = sum_k K[k] in~[stride i + dilation k]`` of the padded input.

    Args:
        kernel: size of the kernel.
        stride: one per dimension.
        dilation: one per dimension.
        padding: (before, after) per dimension.
        size: of the input.
        modes: per dimension what the padding holds: ``zeros``, ``circular``, ``reflect`` or ``replicate``; empty: zeros everywhere.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    size: tuple[int, ...]
    modes: tuple[str, ...] = ()

    @property
    def out_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return tuple(
            (n + lo + hi - d * (k - 1) - 1) // s + 1
            for n, (lo, hi), k, s, d in zip(self.size, self.padding, self.kernel, self.stride, self.dilation, strict=True)
        )

    def mode(self, axis: int) -> str:
        """What the padding of an axis holds."""
        return self.modes[axis] if self.modes else "zeros"

    def on_torus(self, axis: int) -> bool:
        """Whether an axis is part of a circle: zero padding, or a circle whose outputs are whole strides apart and no two the same."""
        if self.mode(axis) == "zeros" or self.padding[axis] == (0, 0):
            return True
        n, s = self.size[axis], self.stride[axis]
        return self.mode(axis) == "circular" and n % s == 0 and self.out_size[axis] <= n // s


def padded_positions(mode: str, size: int, before: int, after: int) -> Tensor:
    """Which entry of an axis each entry of the padded axis is; -1 for a zero.

    Args:
        mode: ``zeros``, ``circular``, ``reflect`` (without the edge itself) or ``replicate``.
        size: of the axis.
        before: entries in front.
        after: entries behind.
    """
    at = torch.arange(-before, size + after)
    if mode == "zeros":
        return torch.where((at >= 0) & (at < size), at, -1)
    if mode == "circular":
        return at % size
    if mode == "replicate":
        return at.clamp(0, size - 1)
    assert mode == "reflect", mode
    assert max(before, after) < size, (before, after, size)
    return (size - 1) - (at.abs() - (size - 1)).abs()


@dataclass(frozen=True)
class Torus:
    """Frequencies ``(j + twist) / period`` of a torus on which a convolution of stride one over phases is laid.

    With offsets ``o = dilation k - before = stride q + r`` the input splits into phases r and the convolution reads shifts q of
    (channel, phase). Only half of the first axis is kept: the symbols of a real kernel at opposite frequencies are conjugate.

    Args:
        geometry: every axis must lie ``on_torus``.
        periods: one per axis, at least ``least_periods``, and equal to it where the padding is circular.
        twist: 0 or 1/2 per axis; what goes round is multiplied by -1 where it is 1/2. Zero where the padding is circular.
    """

    geometry: ConvGeometry
    periods: tuple[int, ...]
    twist: tuple[float, ...]

    @cached_property
    def offsets(self) -> list[list[tuple[int, int]]]:
        """Per axis and kernel entry the shift q and the phase r."""
        return _offsets(self.geometry)

    @cached_property
    def taps(self) -> list[tuple[int, ...]]:
        """Kernel entries in row-major order."""
        return list(itertools.product(*(range(k) for k in self.geometry.kernel)))

    @cached_property
    def tap_shifts(self) -> Tensor:
        """``[taps, d]``."""
        return torch.tensor([[self.offsets[a][k][0] for a, k in enumerate(t)] for t in self.taps])

    @cached_property
    def phases(self) -> list[tuple[int, ...]]:
        """The phases that are read at all."""
        return sorted({tuple(self.offsets[a][k][1] for a, k in enumerate(t)) for t in self.taps})

    @cached_property
    def tap_phases(self) -> Tensor:
        """Per tap the place of its phase among ``phases``."""
        return torch.tensor([self.phases.index(tuple(self.offsets[a][k][1] for a, k in enumerate(t))) for t in self.taps])

    @cached_property
    def axes(self) -> list[Tensor]:
        """Per axis the numbers ``2 (j + twist)`` of its frequencies, the first axis halved."""
        found = [2 * torch.arange(n) + round(2 * t) for n, t in zip(self.periods, self.twist, strict=True)]
        return [found[0][found[0] <= self.periods[0]], *found[1:]] if found else []

    @cached_property
    def frequencies(self) -> Tensor:
        """``[count, d]``: ``2 (j + twist)``."""
        grid = torch.meshgrid(*self.axes, indexing="ij")
        return torch.stack([g.flatten() for g in grid], 1)

    def waves(self, frequencies: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of ``2 pi f . q``, ``[frequencies, shifts]``, float64, each within a few ulp of one."""
        cosine, sine = torch.ones(len(frequencies), len(shifts), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for a, n in enumerate(self.periods):
            # The turn is reduced in whole numbers, so that no phase loses digits.
            turn = torch.outer(frequencies[:, a], shifts[:, a]) % (2 * n)
            angle = turn.double() * (math.pi / n)
            c, s = angle.cos(), angle.sin()
            cosine, sine = cosine * c - sine * s, sine * c + cosine * s
        return cosine, sine.expand(cosine.shape)

    def lengths(self, of_outputs: bool) -> tuple[int, ...]:
        """How many positions of the torus outputs, or inputs of one phase, may take up."""
        g = self.geometry
        return g.out_size if of_outputs else tuple(-(-n // s) for n, s in zip(g.size, g.stride, strict=True))

    def positions(self, of_outputs: bool) -> Tensor:
        """Those positions, ``[count, d]``."""
        lengths = self.lengths(of_outputs)
        return torch.cartesian_prod(*(torch.arange(n) for n in lengths)).reshape(-1, len(lengths))

    def multiplicity(self, frequencies: Tensor) -> Tensor:
        """Two for frequencies whose opposites are left out, one for the others."""
        alone = (frequencies[:, 0] == 0) | (frequencies[:, 0] == self.periods[0])
        return torch.where(alone, 1.0, 2.0).double()

    def there(self, of_outputs: bool) -> Tensor:
        """Which of the torus's entries belong to the operator: ``[positions, phases]`` of zeros and ones (outputs: one phase)."""
        positions = self.positions(of_outputs)
        if of_outputs:
            return torch.ones(len(positions), 1, dtype=torch.float64)
        g, phases = self.geometry, torch.tensor(self.phases)
        return ((positions[:, None] * torch.tensor(g.stride) + phases) < torch.tensor(g.size)).all(-1).double()


def _offsets(geometry: ConvGeometry) -> list[list[tuple[int, int]]]:
    found = []
    for k, s, d, (before, _) in zip(geometry.kernel, geometry.stride, geometry.dilation, geometry.padding, strict=True):
        found.append([((d * j - before) // s, (d * j - before) % s) for j in range(k)])
    return found


def least_periods(geometry: ConvGeometry) -> tuple[int, ...]:
    """The shortest torus on which nothing that goes round is seen; for circular padding the circle itself."""
    found = []
    for a, offsets in enumerate(_offsets(geometry)):
        shifts, length, out = [q for q, _ in offsets], -(-geometry.size[a] // geometry.stride[a]), geometry.out_size[a]
        wraps = geometry.mode(a) == "circular" and geometry.padding[a] != (0, 0)
        found.append(length if wraps else max(out + max(shifts), length - min(shifts), length, out, 1))
    return tuple(found)


def symbols(torus: Torus, weight: Tensor, frequencies: Tensor, groups: int = 1) -> Tensor:
    """The convolution's symbols ``sum_k K_k e^(2 pi i f . q_k)``.

    Args:
        torus: where it lies.
        weight: ``[out, in / groups, *kernel]``, float64.
        frequencies: ``[count, d]``, some of ``torus.frequencies``.
        groups: blocks of channels.

    Returns:
        ``[count, groups, out / groups, phases * in / groups]``, complex128. Each entry is within
        ``gamma(taps + 8 d) sum_k |K_k|`` of the truth.
    """
    taps = weight.reshape(groups, len(weight) // groups, weight.shape[1], len(torus.taps))
    cosine, sine = torus.waves(frequencies, torus.tap_shifts)
    rows, inner = taps.shape[1:3]
    found = torch.empty(len(frequencies), groups, rows, len(torus.phases), inner, dtype=torch.complex128)
    for phase in range(len(torus.phases)):
        mine = torus.tap_phases == phase
        flat = taps[..., mine].movedim(-1, 0).flatten(1)
        for part, wave in ((found.real, cosine), (found.imag, sine)):
            part[:, :, :, phase] = (wave[:, mine] @ flat).reshape(-1, groups, rows, inner)
    return found.flatten(-2)


@dataclass(frozen=True)
class Grams:
    """Gram matrices of the symbols on their smaller side, from the kernel's correlations with itself.

    Args:
        torus: where the convolution lies.
        lags: ``[lags, d]``.
        correlations: ``[lags, groups, m, m]``: ``G(f) = sum_l R_l e^(2 pi i f . l)``.
        of_outputs: whether ``G = S S^H``; else the conjugate of ``S^H S``, whose rows are (phase, channel).
        error: bound on the spectral norm of what a computed ``G(f)`` is off by.
    """

    torus: Torus
    lags: Tensor
    correlations: Tensor
    of_outputs: bool
    error: float

    @staticmethod
    def of(torus: Torus, weight: Tensor, groups: int) -> Grams:
        """Of a kernel ``[out, in / groups, *kernel]``, float64; for outputs ``S S^H``, for inputs ``S^H S`` (conjugated)."""
        taps = weight.reshape(groups, len(weight) // groups, weight.shape[1], len(torus.taps))
        count, shifts, phase, many = len(torus.taps), torus.tap_shifts, torus.tap_phases, len(torus.phases)
        rows, inner = taps.shape[1:3]
        of_outputs = rows <= inner * many
        lags, which = torch.unique((shifts[:, None] - shifts[None]).flatten(0, 1), dim=0, return_inverse=True)
        # Lags come in increasing order, so that the negative of the first is the last: R_-l = R_l'.
        half = which < (len(lags) + 1) // 2
        first, second = torch.arange(count).repeat_interleave(count), torch.arange(count).repeat(count)
        blocks = 1 if of_outputs else many
        # One kernel entry after the other, so that those of a lag are gathered in long runs.
        kernels = (taps if of_outputs else taps.transpose(1, 2)).movedim(-1, 0).contiguous()
        m = kernels.shape[2]
        found = torch.zeros(len(lags), groups, blocks, m, blocks, m, dtype=torch.float64)
        if of_outputs:
            half &= phase[first] == phase[second]
            place = which
        else:
            place = (which * many + phase[first]) * many + phase[second]
        order = torch.arange(len(place))[half]
        order = order[place[half].argsort(stable=True)]
        for run in order.split(torch.unique_consecutive(place[order], return_counts=True)[1].tolist()):
            left, right = (kernels[side[run]].movedim(0, 2).flatten(2) for side in (first, second))
            lag, u, v = which[run[0]], *((0, 0) if of_outputs else (phase[first[run[0]]], phase[second[run[0]]]))
            found[lag, :, u, :, v] = left @ right.mT
        found = found.flatten(4, 5).flatten(2, 3)
        found[len(lags) // 2 + 1 :] = found[: len(lags) // 2].flip(0).mT
        # Entry by entry the sum of the magnitudes is that of the product of sum_k |K_k| with itself.
        mass = taps.abs().sum(-1).square().sum((1, 2)).max().item() * (1.0 + gamma(weight.numel()))
        error = gamma(count * count + len(lags) + count * max(rows, inner) + 16 * len(torus.periods)) * mass
        return Grams(torus, lags, found, of_outputs, error)

    @property
    def side(self) -> int:
        """M."""
        return self.correlations.shape[-1]

    def at(self, frequencies: Tensor, dtype: torch.dtype = torch.complex128) -> Tensor:
        """``[count * groups, m, m]``; ``error`` holds for complex128 alone."""
        real = torch.empty((), dtype=dtype).real.dtype
        cosine, sine = self.torus.waves(frequencies, self.lags)
        flat = self.correlations.flatten(1).to(real)
        found = torch.complex(cosine.to(real) @ flat, sine.to(real) @ flat)
        return found.reshape(-1, self.side, self.side)
