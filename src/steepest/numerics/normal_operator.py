"""``B'B`` for a zero-padded convolution B or its adjoint, applied to many vectors: through symbols on a torus, or by convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.numerics.rounding import gamma
from steepest.numerics.torus import Torus

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_ENTRIES = 2**23
_TERMS = 2**21


@dataclass(frozen=True)
class OnTorus:
    """``B'B`` for a convolution B of one group or its adjoint, whichever starts on the torus's smaller side, through its symbols.

    Vectors are real columns ``[positions * side, count]``; ``side`` is the channels, of every phase where these are inputs. With the
    symbol ``P + i Q`` at a frequency and the cosine and sine sums c and s of a vector there, ``(P + i Q)(c - i s)`` takes three real
    products, ``P c``, ``Q s`` and ``(P + Q)(c - s)`` (Higham 2002, section 23.2.4). So B is three terms for each frequency of the half
    that is kept, each a row of waves over positions, a real matrix between channels and a row of waves back.

    Args:
        turns: ``[terms, shifts]``: what of every shift of the kernel goes into the matrix of each term.
        kernel: ``[shifts, out, phases, in]``.
        waves: ``[terms, positions]`` of the side on which B starts and of the other.
        there: ``[positions, channels]`` of either side: zero where the operator has no entry.
        flipped: whether B starts on outputs.
        matrices: those of all terms, ``[terms, out, phases * in]``, where they are kept.
    """

    turns: Tensor
    kernel: Tensor
    waves: tuple[Tensor, Tensor]
    there: tuple[Tensor, Tensor]
    flipped: bool
    matrices: Tensor | None = None

    @staticmethod
    def of(torus: Torus, weight: Tensor, flipped: bool) -> OnTorus:
        """For a kernel ``[out, in, *kernel]``; ``flipped`` to start on outputs."""
        shifts, which = torch.unique(torus.tap_shifts, dim=0, return_inverse=True)
        kernel = weight.new_zeros(len(shifts), len(weight), len(torus.phases), weight.shape[1])
        for tap, (shift, phase) in enumerate(zip(which.tolist(), torus.tap_phases.tolist(), strict=True)):
            kernel[shift, :, phase] = weight.flatten(2)[:, :, tap]
        cosine, sine = torus.waves(torus.frequencies, shifts)
        turns = torch.cat([cosine, sine, cosine + sine])
        cosine, sine = torus.waves(torus.frequencies, torus.positions(False))
        into = torch.cat([cosine, sine, cosine - sine])
        cosine, sine = torus.waves(torus.frequencies, torus.positions(True))
        share = (torus.multiplicity(torus.frequencies) / math.prod(torus.periods))[:, None]
        back = torch.cat([share * (cosine + sine), share * (cosine - sine), -share * sine])
        there = torus.there(False).repeat_interleave(weight.shape[1], 1), torus.there(True).repeat_interleave(len(weight), 1)
        sides = (1, 0) if flipped else (0, 1)
        first, second = ((into, back)[side] for side in sides)
        here, opposite = (there[side] for side in sides)
        return OnTorus(turns, kernel, (first, second), (here, opposite), flipped)

    @property
    def size(self) -> int:
        """Entries of a column."""
        return self.there[0].numel()

    def single(self) -> OnTorus:
        """The same in float32, with its matrices kept."""

        def pair(tensors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return tensors[0].to(torch.float32), tensors[1].to(torch.float32)

        found = OnTorus(self.turns.to(torch.float32), self.kernel.to(torch.float32), pair(self.waves), pair(self.there), self.flipped)
        return replace(found, matrices=found._laid(found.turns @ found.kernel.flatten(1)))

    def gram(self, x: Tensor) -> Tensor:
        """``B'B x``."""
        columns = max(1, _ENTRIES // (len(self.waves[0]) * max(t.shape[1] for t in self.there)))
        if x.shape[1] > columns:
            return torch.cat([self.gram(part.contiguous()) for part in x.split(columns, 1)], 1)
        (near, far), (here, opposite) = self.waves, self.there
        # What lies between goes to the same memory on both ways: fresh pages take as long as the products.
        shapes = [(len(near), t.shape[1], x.shape[1]) for t in (here, opposite)]
        space = [x.new_empty(math.prod(shape)) for shape in shapes]
        waves, images = (t.view(shape) for t, shape in zip(space, shapes, strict=True))
        torch.mm(near, x.reshape(near.shape[1], -1), out=waves.flatten(1))
        self._through(waves, images, self.flipped)
        found = _masked(far.T @ images.flatten(1), opposite)
        torch.mm(far, found, out=images.flatten(1))
        self._through(images, waves, not self.flipped)
        return _masked(near.T @ waves.flatten(1), here).reshape(-1, x.shape[1])

    def _through(self, waves: Tensor, images: Tensor, flipped: bool) -> None:
        """The matrices of all terms times what is given, to where it is wanted; to channels of inputs if ``flipped``."""
        if self.matrices is not None:
            torch.bmm(self.matrices.mT if flipped else self.matrices, waves, out=images)
            return
        step = max(1, _TERMS // self.kernel[0].numel())
        space = waves.new_empty(step, self.kernel[0].numel())
        for start in range(0, len(waves), step):
            part = slice(start, start + step)
            matrices = self._laid(torch.mm(self.turns[part], self.kernel.flatten(1), out=space[: len(self.turns[part])]))
            torch.bmm(matrices.mT if flipped else matrices, waves[part], out=images[part])

    def _laid(self, matrices: Tensor) -> Tensor:
        return matrices.reshape(-1, self.kernel.shape[1], self.kernel[0, 0].numel())

    def rounding(self, most: float) -> float:
        """Bound of what ``gram`` in float64 is off by, per unit of the Frobenius norm of x, for B of a norm of at most ``most``.

        Rows of waves are at most ``sqrt(2)``, those back at most ``sqrt(2) w`` with weights w whose sum over terms is three, as is
        that of ``w |row x|^2`` for ``|x| = 1`` (Parseval). So with matrices of Frobenius norm at most m, and of at most M with every
        kernel entry by its magnitude, over at most n positions, a pass is within ``sqrt(n)`` times ``6 sqrt(n) m`` gamma for waves,
        ``6 M`` gamma for matrices and ``3 sqrt(2) m`` gamma for each of the sums over channels and over terms. Two passes
        follow each other, each of a norm of at most ``most``.
        """
        terms, positions = len(self.turns), max(t.shape[1] for t in self.waves)
        flat = self.kernel.flatten(1)
        shifts, mass = len(flat), _mass(self.kernel)
        squares = ((self.turns @ (flat @ flat.T)) * self.turns).sum(1).max().item()
        # Entries of the product of the kernel with itself are at most M^2.
        size = math.sqrt(squares + gamma(flat.shape[1] + 2 * shifts + 16) * 2.0 * mass**2)
        found = 6.0 * math.sqrt(positions) * size * gamma(positions + 16) + 6.0 * mass * gamma(shifts + 16)
        found += 3.0 * math.sqrt(2.0) * size * (gamma(max(t.shape[1] for t in self.there) + 16) + gamma(terms + 16))
        return 2.0 * most * math.sqrt(positions) * found * (1.0 + 2.0**-20)


@dataclass(frozen=True)
class Direct:
    """The same by convolutions, which take less for few columns.

    Args:
        weight: the kernel.
        torus: which orders the entries of a column.
        of_outputs: whether columns are outputs.
    """

    weight: Tensor
    torus: Torus
    of_outputs: bool

    def single(self) -> Direct:
        """The same in float32."""
        return replace(self, weight=self.weight.to(torch.float32))

    def gram(self, x: Tensor) -> Tensor:
        """``B'B x``."""
        g, columns = self.torus.geometry, x.shape[1]
        if self.of_outputs:
            images = x.reshape(*g.out_size, -1, columns).movedim((-1, -2), (0, 1))
            return self._forward(self._backward(images)).movedim((0, 1), (-1, -2)).reshape(-1, columns)
        lengths = self.torus.lengths(False)
        whole = [n * s for n, s in zip(lengths, g.stride, strict=True)]
        phases = [(..., *(slice(r, None, s) for r, s in zip(phase, g.stride, strict=True))) for phase in self.torus.phases]
        entries = x.reshape(*lengths, len(phases), -1, columns).movedim((-3, -1, -2), (0, 1, 2))
        images = x.new_zeros(columns, self.weight.shape[1], *whole)
        for phase, entry in zip(phases, entries, strict=True):
            images[phase] = entry
        inside = (..., *(slice(n) for n in g.size))
        found = torch.zeros_like(images)
        found[inside] = self._backward(self._forward(images[inside]))
        return torch.stack([found[phase] for phase in phases]).movedim((0, 1, 2), (-3, -1, -2)).reshape(-1, columns)

    def _forward(self, x: Tensor) -> Tensor:
        g = self.torus.geometry
        x = F.pad(x, [p for pair in reversed(g.padding) for p in pair])
        return _CONV[len(g.kernel)](x, self.weight, None, g.stride, 0, g.dilation)

    def _backward(self, y: Tensor) -> Tensor:
        g = self.torus.geometry
        x = _CONV_TRANSPOSE[len(g.kernel)](y, self.weight, None, g.stride, 0, 0, 1, g.dilation)
        sizes = zip(g.size, g.padding, x.shape[2:], strict=True)
        return F.pad(x, [p for n, (lo, _), got in reversed(list(sizes)) for p in (-lo, n + lo - got)])

    def rounding(self, most: float) -> float:
        """Bound of what ``gram`` in float64 is off by, per unit of the Frobenius norm of x, for B of a norm of at most ``most``.

        Each pass sums products, so it is within ``gamma |B| |x|`` entry by entry, and the norm of ``|B|`` is at most M.
        """
        products = self.weight[0, 0].numel() * max(self.weight.shape[:2])
        return 2.0 * gamma(products + 16) * _mass(self.weight.flatten(2).movedim(-1, 0)) * most * (1.0 + 2.0**-20)


def _masked(found: Tensor, there: Tensor) -> Tensor:
    """Without entries that the operator does not have; ``[positions, channels * columns]``."""
    return found if there.all() else (found.reshape(*there.shape, -1) * there[:, :, None]).reshape(found.shape)


def _mass(kernel: Tensor) -> float:
    """Frobenius norm of the sum of magnitudes over the first axis, which no norm of the convolution exceeds."""
    return kernel.abs().sum(0).norm().item() * (1.0 + gamma(kernel.numel()))
