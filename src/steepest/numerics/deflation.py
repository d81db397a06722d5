"""A convolution's l2 norm below what its torus shows: the few directions in which the torus is too large are settled in the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.numerics.definite import proves_semidefinite
from steepest.numerics.rounding import gamma
from steepest.numerics.torus import ConvGeometry, Grams, symbols
from steepest.numerics.torus_norm import Laid, chunks, top_eigenvalues

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_PRECISION = 9.5e-4
_MOST_DIRECTIONS = 1024


@dataclass(frozen=True)
class _OnTorus:
    """``B'B`` for a convolution B of one group or its adjoint, whichever starts on the torus's smaller side, through its symbols.

    Vectors are columns ``[positions * side, count]``; ``side`` is the channels, of every phase where these are inputs. Half of the
    frequencies are kept, so twice the real part of each is taken but of those that are their own opposite.

    Args:
        symbol: ``[frequencies, other side, side]``.
        into: ``[2 frequencies, positions]``, cosines and minus sines.
        across: ``[2 frequencies, other positions]``, the same of the other side.
        weights: ``[2 frequencies, 1]``: of each frequency over their number, twice.
        there: ``[positions, side]``: zero where the operator has no entry.
        opposite: ``[other positions, other side]``: the same.
    """

    symbol: Tensor
    into: Tensor
    across: Tensor
    weights: Tensor
    there: Tensor
    opposite: Tensor

    @staticmethod
    def of(laid: Laid, weight: Tensor) -> _OnTorus:
        """For the kernel as it is laid."""
        torus, of_outputs = laid.grams.torus, laid.grams.of_outputs
        symbol = symbols(torus, weight / laid.unit, torus.frequencies)[:, 0]
        symbol = symbol.mH.contiguous() if of_outputs else symbol
        sides = []
        for outputs in (of_outputs, not of_outputs):
            cosine, sine = torus.waves(torus.frequencies, torus.positions(outputs))
            channels = len(weight) if outputs else weight.shape[1]
            sides.append((torch.cat([cosine, -sine]), torus.there(outputs).repeat_interleave(channels, 1)))
        weights = (torus.multiplicity(torus.frequencies) / math.prod(torus.periods)).repeat(2)[:, None]
        return _OnTorus(symbol, sides[0][0], sides[1][0], weights, sides[0][1], sides[1][1])

    @property
    def size(self) -> int:
        """Entries of a column."""
        return self.there.numel()

    def single(self) -> _OnTorus:
        """The same in float32."""
        return _OnTorus(*(getattr(self, f.name).to(torch.complex64 if f.name == "symbol" else torch.float32) for f in fields(self)))

    def gram(self, x: Tensor) -> Tensor:
        """``B'B x``."""
        columns, half = x.shape[1], len(self.symbol)
        waves = (self.into @ x.reshape(self.into.shape[1], -1)).reshape(2 * half, -1, columns)
        image = self.symbol @ torch.complex(waves[:half], waves[half:])
        found = self._cut(self.across, image.real, image.imag, self.opposite)
        # S^H x is the conjugate of S' times the conjugate of x, and S' costs nothing.
        waves = (self.across @ found).reshape(2 * half, -1, columns)
        image = self.symbol.mT @ torch.complex(waves[:half], -waves[half:])
        return self._cut(self.into, image.real, -image.imag, self.there).reshape(-1, columns)

    def _cut(self, waves: Tensor, real: Tensor, imaginary: Tensor, there: Tensor) -> Tensor:
        """Back to positions, of which those outside the operator become zero."""
        parts = (torch.cat([real, imaginary]).flatten(1)).mul_(self.weights)
        found = waves.T @ parts
        if not there.all():
            found = (found.reshape(*there.shape, -1) * there[:, :, None]).reshape(len(found), -1)
        return found

    def rounding(self, weight: Tensor) -> float:
        """Bound of what ``gram`` in complex128 is off by, per unit of the Frobenius norm of x.

        With N positions on the torus and M the Frobenius norm of ``sum_k |K_k|``: waves are within ``gamma N |x|``, images within
        ``gamma N M |x|``, and sums of at most 2 / N times those over N frequencies within ``4 gamma N M |x|``; B itself is at most M.
        """
        mass = weight.abs().flatten(2).sum(2).norm().item() * (1.0 + gamma(weight.numel()))
        around = max(len(self.into), self.into.shape[1], self.across.shape[1])
        terms = 4 * around + 4 * max(self.symbol.shape[1:]) + weight[0, 0].numel() + 256
        return 16.0 * gamma(terms) * around * mass**2


def deflated_norm_above(weight: Tensor, geometry: ConvGeometry, laid: Laid) -> float | None:
    """Upper bound of the operator norm of a zero-padded convolution, within about 1e-3 of it, or None where the torus is to be kept.

    Let B be the operator (or its adjoint), and ``G(f)`` the Gram matrices of its torus, so that ``B'B`` is at most the torus's on the
    positions there are. With ``c < tau`` and any ``Y(f)`` such that ``G(f) - Y(f) Y(f)^H <= c^2`` at every frequency (its
    eigenvectors above ``c^2``, say), and F the waves ``Y(f)`` cut to those positions,

        H = tau^2 I - B'B + F F' >= (tau^2 - c^2) I,

    and ``|B| <= tau`` if and only if ``F' H^-1 F <= I``, a matrix of as many rows as there are directions. For any Z, exactly,
    ``F' H^-1 F = F'Z + Z'R + R' H^-1 R <= F'Z + Z'R + R'R / (tau^2 - c^2)`` with the residual ``R = F - H Z``. Conjugate gradients in
    float32 find Z; the residual, the definiteness at every frequency and that of the last matrix are proven in float64. Only as many
    directions enter as the torus has singular values above c, and c is just below the norm.

    Args:
        weight: ``[out, in, *kernel]``, float64, one group.
        geometry: sizes, zero padding alone.
        laid: the convolution on its torus.
    """
    torus = laid.norm / laid.unit
    tau = _norm_estimate(weight / laid.unit, geometry, torus / (1.0 + _PRECISION)) * (1.0 + _PRECISION)
    if not 0.0 < tau < torus:
        return None
    # The further c is below tau, the fewer steps for each direction and the more directions.
    share = min(0.01, max(0.004, 2.0 * (torus / tau - 1.0)))
    found = _directions(
        laid.grams, len(weight) if laid.grams.of_outputs else weight.shape[1], tau * tau * (1.0 - share), 0.1 * share * tau * tau
    )
    if found is None:
        return None
    least = (tau * tau - found.proven_cut) * (1.0 - gamma(4)) - found.error
    if least <= 0.0:
        return None
    exact = _OnTorus.of(laid, weight)
    solved = _solve(exact.single(), found.columns, tau, least)
    if solved is None or not _proves(exact, exact.rounding(weight / laid.unit), found.columns, solved, tau, least):
        return None
    return tau * laid.unit * (1.0 + gamma(4))


def _norm_estimate(weight: Tensor, geometry: ConvGeometry, enough: float, steps: int = 60) -> float:
    """From below, by Lanczos' method in float32; it stops where ``enough`` is reached."""
    w, g, dims = weight.to(torch.float32), geometry, len(geometry.kernel)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(1, weight.shape[1], *g.size, generator=generator)
    vector, before, beta, diagonal, off = vector / vector.norm(), torch.zeros_like(vector), 0.0, [], []
    norm = 0.0
    for step in range(min(steps, vector.numel())):
        image = _CONV[dims](F.pad(vector, [p for pair in reversed(g.padding) for p in pair]), w, None, g.stride, 0, g.dilation)
        image = _CONV_TRANSPOSE[dims](image, w, None, g.stride, 0, 0, 1, g.dilation)
        pads = [p for n, (lo, _), got in reversed(list(zip(g.size, g.padding, image.shape[2:], strict=True))) for p in (-lo, n + lo - got)]
        image = F.pad(image, pads)
        alpha = (vector * image).sum().item()
        image = image - alpha * vector - beta * before
        beta = image.norm().item()
        diagonal.append(alpha)
        off.append(beta)
        if step % 6 == 5 or step == steps - 1 or beta <= 1e-6 * diagonal[0]:
            bands = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            bands = bands + torch.diag(torch.tensor(off[:-1], dtype=torch.float64), -1)
            norm = math.sqrt(max(0.0, torch.linalg.eigvalsh(bands)[-1].item()))
            if norm >= enough or beta <= 1e-6 * diagonal[0]:
                break
        before, vector = vector, image / beta
    return norm


@dataclass(frozen=True)
class _Directions:
    """F, float64 ``[positions * side, r]``: up to ``error`` for its rounding, ``tau^2 - B'B + F F' >= tau^2 - proven_cut``."""

    columns: Tensor
    proven_cut: float
    error: float


def _directions(grams: Grams, channels: int, cut: float, room: float) -> _Directions | None:
    torus, waves, factors = grams.torus, [], []
    for part, gram in chunks(grams, torch.complex128):
        gram = gram if grams.of_outputs else gram.conj().resolve_conj()
        trace = gram.diagonal(dim1=1, dim2=2).real.sum(1).max().item()
        start = torch.randn(1, grams.side, generator=torch.Generator().manual_seed(1)).to(torch.complex64).expand(len(gram), -1)
        high = (top_eigenvalues(gram.to(torch.complex64), start, 20)[0] > 0.985 * cut).nonzero()[:, 0]
        gram.neg_().diagonal(dim1=1, dim2=2).add_(cut + room)
        for few in high.split(16):
            values, vectors = _top_space(gram[few].neg_(), cut, room)
            factor = vectors * (values - cut).clamp(min=0.0).sqrt()[:, None]
            gram[few] += factor @ factor.mH
            which, column = (values > cut).nonzero(as_tuple=True)
            waves.append(part[few[which]])
            factors.append(factor[which, :, column])
        # The trace bounds the Frobenius norms of the Gram matrix and, up to a factor, of what was added.
        error = grams.error + gamma(grams.side + 32) * (4.0 * trace + 4.0 * grams.side * cut)
        if sum(map(len, waves)) > _MOST_DIRECTIONS or not proves_semidefinite(gram, error).all():
            return None
    if not waves:
        return None
    at, factor = torch.cat(waves), torch.cat(factors)
    # Waves e^(2 pi i f . p) over the positions there are; of a real vector's square, the real and the imaginary part each take theirs.
    wave = torch.complex(*torus.waves(at, torus.positions(grams.of_outputs)))
    values = wave.T[:, None, :] * factor.T * (torus.multiplicity(at) / math.prod(torus.periods)).sqrt()
    columns = torch.cat([values.real, values.imag], 2) * torus.there(grams.of_outputs).repeat_interleave(channels, 1)[:, :, None]
    columns = columns.flatten(0, 1)
    columns = columns[:, columns.abs().amax(0) > 0].contiguous()
    frobenius = columns.norm().item() * (1.0 + gamma(columns.numel()))
    return _Directions(columns, (cut + room) * (1.0 + gamma(4)), 4.0 * gamma(64) * frobenius**2)


def _top_space(negative: Tensor, cut: float, room: float) -> tuple[Tensor, Tensor]:
    """Approximate eigenvalues and orthonormal vectors at the top of the spectrum of G, given ``G - (c^2 + room) I``."""
    m, top = negative.shape[-1], cut + room
    if m <= 64:
        values, vectors = torch.linalg.eigh(negative)
        return values + top, vectors
    single = negative.to(torch.complex64)
    basis = torch.randn(1, m, 20, generator=torch.Generator().manual_seed(2)).to(torch.complex64).expand(len(single), -1, -1)
    # Chebyshev polynomials are at most one on [0, 0.95 c^2] and grow fastest above.
    half = 0.5 * 0.95 * cut
    for _ in range(2):
        before, now = basis, (single @ basis) / half + (top / half - 1.0) * basis
        for _ in range(9):
            before, now = now, 2.0 * ((single @ now) / half + (top / half - 1.0) * now) - before
        basis = torch.linalg.qr(now).Q
    wide = torch.linalg.qr(basis.to(torch.complex128)).Q
    values, turn = torch.linalg.eigh(wide.mH @ (negative @ wide))
    return values + top, wide @ turn


def _solve(inner: _OnTorus, columns: Tensor, tau: float, least: float, most: int = 60) -> Tensor | None:
    """``Z`` with ``H Z = F`` about, by conjugate gradients in float32, until the residual is small beside the room there is."""
    f = columns.to(torch.float32)
    z, residual = torch.zeros_like(f), f.clone()
    direction, energy = residual.clone(), residual.square().sum(0)
    for step in range(most):
        image = tau * tau * direction - inner.gram(direction) + f @ (f.T @ direction)
        length = energy / (direction * image).sum(0).clamp(min=1e-30)
        z += length * direction
        residual -= length * image
        new = residual.square().sum(0)
        if step % 2 == 1:
            inside = f.T @ z + z.T @ residual
            room = 1.0 - torch.linalg.eigvalsh(0.5 * (inside + inside.T).double())[-1].item()
            if room <= 0.0:
                return None
            left = torch.linalg.matrix_norm((residual.T @ residual).double(), 2).item() / least
            if left < 0.4 * room:
                return z
        direction = residual + (new / energy.clamp(min=1e-30)) * direction
        energy = new
    return None


def _proves(inner: _OnTorus, rounding: float, f: Tensor, solved: Tensor, tau: float, least: float) -> bool:
    """Whether ``I - F'Z - Z'R - R'R / least`` is semidefinite, with every rounding accounted for."""
    z = solved.to(torch.float64)
    along = f.T @ z
    residual = f - tau * tau * z + inner.gram(z) - f @ along
    size, count = f.shape
    f_size, z_size, r_size = (t.norm().item() * (1.0 + gamma(t.numel())) for t in (f, z, residual))
    off = gamma(size + count + 16) * (f_size + (tau * tau + 2.0 * f_size**2) * z_size + r_size) + 2.0 * rounding * z_size
    inside = along + z.T @ residual
    share = 2.0**-10
    matrix = torch.eye(count, dtype=torch.float64) - 0.5 * (inside + inside.T) - (1.0 + share) / least * (residual.T @ residual)
    error = gamma(size + 8) * (z_size * (f_size + r_size) + 2.0 * r_size**2 / least + count) + z_size * off
    error += (1.0 + 1.0 / share) * off**2 / least * (1.0 + gamma(8))
    return bool(proves_semidefinite(matrix, error).item())
