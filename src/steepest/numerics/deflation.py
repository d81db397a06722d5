"""A convolution's l2 norm below what its torus shows: the few directions in which the torus is too large are settled in the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.numerics.definite import proves_semidefinite
from steepest.numerics.rounding import gamma
from steepest.numerics.torus import ConvGeometry, Grams, Torus, symbols
from steepest.numerics.torus_norm import Laid, chunks

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_PRECISION = 9.7e-4
_MOST_DIRECTIONS = 1024
_FEW = 24
_ENTRIES = 2**27
_SETTLED = 0.5


@dataclass(frozen=True)
class _OnTorus:
    """``B'B`` for a convolution B of one group or its adjoint, whichever starts on the torus's smaller side, through its symbols.

    Vectors are real columns ``[positions * side, count]``; ``side`` is the channels, of every phase where these are inputs. Half of the
    frequencies are kept, so twice the real part of each is taken but of those that are their own opposite.

    Args:
        symbol: ``[frequencies, other side, side]``, complex.
        into: ``[2, frequencies, positions]``, cosine and minus sine of each frequency.
        across: ``[2, frequencies, other positions]``, the same of the other side.
        weights: ``[frequencies, 1]``: of each frequency over their number.
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
        found = symbols(torus, weight / laid.unit, torus.frequencies)[:, 0]
        found = found.mH.resolve_conj() if of_outputs else found
        sides = []
        for outputs in (of_outputs, not of_outputs):
            cosine, sine = torus.waves(torus.frequencies, torus.positions(outputs))
            channels = len(weight) if outputs else weight.shape[1]
            sides.append((torch.stack([cosine, -sine]), torus.there(outputs).repeat_interleave(channels, 1)))
        weights = (torus.multiplicity(torus.frequencies) / math.prod(torus.periods))[:, None]
        return _OnTorus(found, sides[0][0], sides[1][0], weights, sides[0][1], sides[1][1])

    @property
    def size(self) -> int:
        """Entries of a column."""
        return self.there.numel()

    def single(self) -> _OnTorus:
        """The same in float32."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return _OnTorus(**{k: t.to(torch.complex64 if t.is_complex() else torch.float32) for k, t in parts.items()})

    def gram(self, x: Tensor) -> Tensor:
        """``B'B x``."""
        found = self._pass(self.into, self.symbol, self.across, self.opposite, x)
        # S^H y is the conjugate of S' applied to that of y: nothing is copied.
        return self._pass(_conjugate(self.across), self.symbol.mT, _conjugate(self.into), self.there, found)

    def _pass(self, into: Tensor, symbol: Tensor, back: Tensor, there: Tensor, x: Tensor) -> Tensor:
        """To frequencies, through the symbols and back to positions, of which those outside the operator become zero."""
        columns = x.shape[1]
        real, imaginary = into @ x.reshape(into.shape[2], -1)
        image = symbol @ torch.complex(real, imaginary).reshape(len(symbol), -1, columns)
        found = torch.view_as_real(image).movedim(-1, 0).reshape(2 * len(symbol), -1)
        found = (self.weights * back).flatten(0, 1).T @ found
        if not there.all():
            found = found.reshape(*there.shape, columns) * there[:, :, None]
        return found.reshape(-1, columns)

    def rounding(self, weight: Tensor) -> float:
        """Bound of what ``gram`` in float64 is off by, per unit of the Frobenius norm of x.

        With N positions on the torus and M the Frobenius norm of ``sum_k |K_k|``: waves are within ``gamma N |x|``, images within
        ``gamma N M |x|``, and sums of at most 2 / N times those over N frequencies within ``4 gamma N M |x|``; B itself is at most M.
        """
        around = max(2 * self.into.shape[1], self.into.shape[2], self.across.shape[2])
        terms = 4 * around + 8 * max(self.symbol.shape[1:]) + weight[0, 0].numel() + 256
        return 16.0 * gamma(terms) * around * _mass(weight) ** 2


@dataclass(frozen=True)
class _Direct:
    """The same by convolutions, which take less for few columns.

    Args:
        weight: the kernel.
        torus: which orders the entries of a column.
        of_outputs: whether columns are outputs.
    """

    weight: Tensor
    torus: Torus
    of_outputs: bool

    def single(self) -> _Direct:
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

    def rounding(self, weight: Tensor) -> float:
        """Bound of what ``gram`` in float64 is off by, per unit of the Frobenius norm of x.

        Each pass sums products, so it is within ``gamma |B| |x|`` entry by entry, and the norm of ``|B|`` is at most M.
        """
        return 4.0 * gamma(weight[0, 0].numel() * max(weight.shape[:2]) + 16) * _mass(weight) ** 2


def _conjugate(waves: Tensor) -> Tensor:
    return torch.stack([waves[0], -waves[1]])


def _mass(weight: Tensor) -> float:
    """Frobenius norm of ``sum_k |K_k|``, which no norm of the convolution exceeds."""
    return weight.abs().flatten(2).sum(2).norm().item() * (1.0 + gamma(weight.numel()))


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
    direct = _Direct(weight / laid.unit, laid.grams.torus, laid.grams.of_outputs)
    tau = _norm_estimate(direct.single(), torus / (1.0 + _PRECISION)) * (1.0 + _PRECISION)
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
    if not found.columns.shape[1]:
        return tau * laid.unit * (1.0 + gamma(4))
    torus_entries = 4 * len(laid.grams.torus.frequencies) * len(weight) * len(laid.grams.torus.phases) * weight.shape[1]
    exact = direct if found.columns.shape[1] <= _FEW or torus_entries > _ENTRIES else _OnTorus.of(laid, weight)
    solved = _solve(exact.single(), found.columns, tau, least)
    if solved is None or not _proves(exact, exact.rounding(weight / laid.unit), found.columns, solved, tau, least):
        return None
    return tau * laid.unit * (1.0 + gamma(4))


def _norm_estimate(inner: _Direct, enough: float, most: int = 60) -> float:
    """From below, by Lanczos' method in float32; it stops where ``enough`` is reached."""
    outputs = inner.of_outputs
    there = inner.torus.there(outputs).repeat_interleave(inner.weight.shape[0 if outputs else 1], 1).to(torch.float32).reshape(-1, 1)
    vector = torch.randn(there.shape, generator=torch.Generator().manual_seed(0)) * there
    vector, before, beta, diagonal, off = vector / vector.norm(), torch.zeros_like(vector), 0.0, [], []
    norm = 0.0
    for step in range(min(most, vector.numel())):
        image = inner.gram(vector)
        alpha = (vector * image).sum().item()
        image = image - alpha * vector - beta * before
        beta = image.norm().item()
        diagonal.append(alpha)
        off.append(beta)
        ended = beta <= 1e-6 * diagonal[0]
        if step % 4 == 3 or step == most - 1 or ended:
            bands = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            bands = bands + torch.diag(torch.tensor(off[:-1], dtype=torch.float64), -1)
            norm = math.sqrt(max(0.0, torch.linalg.eigvalsh(bands)[-1].item()))
            if norm >= enough or ended:
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
        gram.neg_().diagonal(dim1=1, dim2=2).add_(cut + room)
        single = gram.to(torch.complex64)
        single.diagonal(dim1=1, dim2=2).sub_(0.5 * room)
        high = (torch.linalg.cholesky_ex(single)[1] != 0).nonzero()[:, 0]
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


def _top_space(negative: Tensor, cut: float, room: float, width: int = 12) -> tuple[Tensor, Tensor]:
    """Approximate eigenvalues and orthonormal vectors at the top of the spectrum of G, given ``G - (c^2 + room) I``."""
    m, top = negative.shape[-1], cut + room
    if m <= max(64, 2 * width):
        values, vectors = torch.linalg.eigh(negative)
        return values + top, vectors
    single = negative.to(torch.complex64)
    basis = torch.randn(1, m, width, generator=torch.Generator().manual_seed(2)).to(torch.complex64).expand(len(single), -1, -1)
    # Chebyshev polynomials are at most one on [0, 0.95 c^2] and grow fastest above.
    half = 0.5 * 0.95 * cut
    single = single / half
    single.diagonal(dim1=1, dim2=2).add_(top / half - 1.0)
    for _ in range(2):
        before, now = basis, single @ basis
        for _ in range(9):
            before, now = now, torch.baddbmm(before, single, now, beta=-1.0, alpha=2.0)
        basis = torch.linalg.qr(now).Q
    wide = torch.linalg.qr(basis.to(torch.complex128)).Q
    values, turn = torch.linalg.eigh(wide.mH @ (negative @ wide))
    values = values + top
    # A third of the space in hand, or there may be more.
    if (values[:, width // 3] > cut).any():
        return _top_space(negative, cut, room, 3 * width)
    return values, wide @ turn


def _solve(inner: _OnTorus | _Direct, columns: Tensor, tau: float, least: float, most: int = 30) -> Tensor | None:
    """``Z`` with ``H Z = F`` about, in float32, until ``T = F'Z + Z'R + R'R / least <= I``.

    T is ``F' H^-1 F`` and the square of the error of Z in the inner product ``<X, Y> = X' H (H / least - I) Y``. Block conjugate
    gradients in this inner product make it least over a block Krylov space; each step takes from T what it takes from the error.
    Only combinations of columns on which T is still large are gone on with: most are settled by the first steps, and H is applied
    to ever fewer.
    """
    f = columns.to(torch.float32)

    def h(x: Tensor) -> Tensor:
        return torch.add(inner.gram(x).neg_().add_(x, alpha=tau * tau), f @ (f.T @ x))

    z, residual, total, before = torch.zeros_like(f), f.clone(), (f.T @ f).double() / least, math.inf
    direction = f @ _large(total)
    image = h(direction)
    for _ in range(most):
        # Times least: <D, D> and <D, Z - Z*>, of which only D, H D and the residual are known.
        inverse = _pseudo_inverse(image.T @ image - least * (direction.T @ image))
        beside = image.T @ residual - least * (direction.T @ residual)
        along = inverse @ beside
        z.addmm_(direction, along)
        total -= (beside.T @ along).double() / least
        top = torch.linalg.eigvalsh(0.5 * (total + total.T))[-1].item() if total.isfinite().all() else math.inf
        if top < 1.0 - 5e-4:
            return z
        if not top < 0.999 * before:
            return None
        before = top
        residual.addmm_(image, along, alpha=-1.0)
        left = residual @ _large(total)
        turned = h(left)
        back = inverse @ (image.T @ turned - least * (direction.T @ turned))
        direction, image = left.addmm_(direction, back, alpha=-1.0), turned.addmm_(image, back, alpha=-1.0)
    return None


def _large(total: Tensor) -> Tensor:
    """Eigenvectors of T on which it is above ``_SETTLED``, in float32."""
    values, vectors = torch.linalg.eigh(0.5 * (total + total.T))
    return vectors[:, values > _SETTLED].to(torch.float32)


def _pseudo_inverse(matrix: Tensor) -> Tensor:
    """Of a semidefinite matrix in float32, scaled to a diagonal of ones."""
    wide = 0.5 * (matrix + matrix.T).double()
    # Columns that are nothing beside the others are left out.
    scale = wide.diagonal().clamp(min=1e-24 * max(wide.diagonal().amax().item(), 1e-30)).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * wide * scale)
    inverse = torch.where(values > 1e-6 * values[-1], 1.0 / values, 0.0)
    vectors = scale[:, None] * vectors
    return ((vectors * inverse) @ vectors.T).to(matrix.dtype)


def _proves(inner: _OnTorus | _Direct, rounding: float, f: Tensor, solved: Tensor, tau: float, least: float) -> bool:
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
