"""A convolution's l2 norm below what its torus shows: the few directions in which the torus is too large are settled in the operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.numerics.definite import proves_semidefinite
from steepest.numerics.normal_operator import Direct, OnTorus
from steepest.numerics.rounding import gamma
from steepest.numerics.torus import Grams
from steepest.numerics.torus_norm import Laid, torus_at_most, torus_norm_above, turned

_PRECISION = 9.7e-4
_MOST_DIRECTIONS = 1024
_FEW = 24
_ENTRIES = 2**26
_CHUNK = 2**20
_SETTLED = 0.9
_LANES = 12


def deflated_norm_above(weight: Tensor, laid: Laid) -> float | None:
    """Upper bound of the operator norm of a zero-padded convolution, within about 1e-3 of it, or None where only the torus shows one.

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
        laid: the convolution on its torus, which is zero padding's in all axes.
    """
    last = 0.0
    direct = Direct(weight / laid.unit, laid.grams.torus, laid.grams.of_outputs)
    for growth in (1.5e-4, 0.0):
        norm = _norm_estimate(direct.single(), growth)
        # More steps only where they show that there were too few.
        if not norm > last * (1.0 + 1e-4):
            return None
        tau, last = norm * (1.0 + _PRECISION), norm
        if laid.norm / laid.unit < tau and torus_at_most(laid, tau):
            # It may be closer than that.
            return min(tau * laid.unit * (1.0 + gamma(4)), torus_norm_above(turned(laid)))
        if _at_most(weight, laid, direct, tau):
            return tau * laid.unit * (1.0 + gamma(4))
    return None


def _at_most(weight: Tensor, laid: Laid, direct: Direct, tau: float) -> bool:
    """Whether the norm over ``laid.unit`` is proven to be at most tau."""
    # The further c is below tau, the fewer steps for each direction and the more directions.
    share = min(0.01, max(0.004, 2.0 * (laid.norm / laid.unit / tau - 1.0)))
    found = _directions(laid, len(weight) if direct.of_outputs else weight.shape[1], tau * tau * (1.0 - share), 0.1 * share * tau * tau)
    if found is None:
        return False
    least = (tau * tau - found.proven_cut) * (1.0 - gamma(4)) - found.error
    if least <= 0.0 or not found.columns.shape[1]:
        return least > 0.0
    terms = 3 * len(direct.torus.frequencies) * len(weight) * len(direct.torus.phases) * weight.shape[1]
    few = found.columns.shape[1] <= _FEW or terms > _ENTRIES
    exact = direct if few else OnTorus.of(direct.torus, direct.weight, direct.of_outputs)
    singles = direct.single(), exact.single()
    solved = _solve(lambda x: singles[x.shape[1] > _FEW].gram(x), found.columns, tau, least)
    return solved is not None and _proves(exact, exact.rounding(found.most), found.columns, solved, tau, least)


def _norm_estimate(inner: Direct, growth: float, most: int = 60) -> float:
    """The operator norm from below, by Lanczos' method in float32, until four steps make it larger by no more than a share."""
    outputs = inner.of_outputs
    there = inner.torus.there(outputs).repeat_interleave(inner.weight.shape[0 if outputs else 1], 1).to(torch.float32).reshape(-1, 1)
    vector = torch.randn(there.shape, generator=torch.Generator().manual_seed(0)) * there
    vector, before, beta, diagonal, off = vector / vector.norm(), torch.zeros_like(vector), 0.0, [], []
    norm = last = 0.0
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
            if norm <= last * (1.0 + growth) or ended:
                break
            last = norm
        before, vector = vector, image / beta
    return norm


@dataclass(frozen=True)
class _Directions:
    """F, float64 ``[positions * side, r]``: up to ``error`` for its rounding, ``tau^2 - B'B + F F' >= tau^2 - proven_cut``.

    ``most`` is a bound of ``|B|``.
    """

    columns: Tensor
    proven_cut: float
    error: float
    most: float


def _directions(laid: Laid, channels: int, cut: float, room: float) -> _Directions | None:
    grams, at, factors, done, above = laid.grams, [], [], 0, 0.0
    for part in grams.torus.frequencies.split(max(1, _CHUNK // grams.side**2)):
        high = torch.ones(len(part), dtype=torch.bool) if laid.tops is None else laid.tops[0][done : done + len(part)] > 0.97 * cut
        done += len(part)
        found = _deflated(grams, part, high, cut, room)
        if found is None:
            return None
        above = max(above, found.abs().square().sum((1, 2)).max().item())
        which, column = found.abs().amax(1).nonzero(as_tuple=True)
        at.append(part[which])
        factors.append(found[which, :, column])
        if sum(map(len, at)) > _MOST_DIRECTIONS:
            return None
    columns = _real(grams, channels, torch.cat(at), torch.cat(factors))
    size = columns.norm().item() * (1.0 + gamma(columns.numel()))
    error, proven_cut = 4.0 * gamma(64) * size**2, (cut + room) * (1.0 + gamma(4))
    return _Directions(columns, proven_cut, error, math.sqrt(proven_cut + above) * (1.0 + gamma(grams.side + 16)))


def _real(grams: Grams, channels: int, at: Tensor, factors: Tensor) -> Tensor:
    """Waves ``e^(2 pi i f . p)`` over the positions there are; of the square of a real vector either part takes its own."""
    torus = grams.torus
    share = (torus.multiplicity(at) / math.prod(torus.periods)).sqrt()
    cosine, sine = ((share[:, None] * wave).T[:, None] for wave in torus.waves(at, torus.positions(grams.of_outputs)))
    real, imaginary = factors.real.T, factors.imag.T
    columns = torch.cat([cosine * real - sine * imaginary, cosine * imaginary + sine * real], 2)
    there = torus.there(grams.of_outputs)
    if not there.all():
        columns *= there.repeat_interleave(channels, 1)[:, :, None]
    return columns.flatten(0, 1)


def _deflated(grams: Grams, at: Tensor, high: Tensor, cut: float, room: float, exactly: bool = False) -> Tensor | None:
    """``Y`` with ``G - Y Y^H <= cut + room``, proven for some frequencies; columns of zeros where less is needed.

    Args:
        grams: of the torus.
        at: ``[count, d]``, frequencies.
        high: at which there seem to be eigenvalues above the cut; what is not proven shows where there are more.
        cut: Y is what eigenvalues have above it.
        room: for their errors.
        exactly: whether to find all eigenvalues, by which it ends.
    """
    gram = grams.at(at)
    gram = gram if grams.of_outputs else gram.conj().resolve_conj()
    trace = gram.diagonal(dim1=1, dim2=2).real.sum(1).max().item()
    factor = gram.new_zeros(*gram.shape[:2], 0)
    if high.any():
        some = gram if high.all() else gram[high]
        values, vectors = torch.linalg.eigh(some) if exactly else _top_space(some.to(torch.complex64), cut)
        excess = _excess(values, vectors, cut)
        factor = gram.new_zeros(*gram.shape[:2], excess.shape[2])
        factor[high] = excess.to(gram.dtype)
    gram = gram.baddbmm_(factor, factor.mH, beta=-1.0)
    gram.diagonal(dim1=1, dim2=2).add_(cut + room)
    # The trace bounds the Frobenius norm of the Gram matrix, the sum of its squares that of what is taken away.
    size = trace + factor.abs().square().sum((1, 2)).max().item() + grams.side * (cut + room)
    left = ~proves_semidefinite(gram, grams.error + 4.0 * gamma(grams.side + 32) * size)
    if not left.any():
        return factor
    if exactly:
        return None
    again = _deflated(grams, at[left], left[left], cut, room, bool((left & high).any()))
    if again is None:
        return None
    columns = max(factor.shape[2], again.shape[2])
    factor = F.pad(factor, (0, columns - factor.shape[2]))
    factor[left] = F.pad(again, (0, columns - again.shape[2]))
    return factor


def _excess(values: Tensor, vectors: Tensor, cut: float) -> Tensor:
    """Y with ``Y Y^H`` what eigenvalues have above the cut, without the columns that are zero throughout a batch."""
    factor = vectors * (values - cut).clamp(min=0.0).sqrt()[:, None]
    return factor[:, :, (values > cut).any(0)]


def _top_space(gram: Tensor, cut: float, width: int = 8, steps: int = 16) -> tuple[Tensor, Tensor]:
    """Approximate eigenvalues above the cut or near it, and orthonormal vectors, in complex64; values in increasing order."""
    m = gram.shape[-1]
    if m <= 3 * width:
        return torch.linalg.eigh(gram)
    basis = torch.randn(1, m, width, generator=torch.Generator().manual_seed(2)).to(torch.complex64).expand(len(gram), -1, -1)
    # Chebyshev polynomials are at most one on [0, 0.95 c^2] and grow fastest above.
    half = 0.5 * 0.95 * cut
    before, now = basis, torch.baddbmm(basis, gram, basis, beta=-1.0, alpha=1.0 / half)
    for _ in range(steps - 1):
        before, now = now, torch.baddbmm(before, gram, now, beta=-1.0, alpha=2.0 / half).sub_(now, alpha=2.0)
    basis = torch.linalg.qr(now).Q
    values, turn = torch.linalg.eigh(basis.mH @ (gram @ basis))
    # A third of the space in hand, or there may be more.
    if (values[:, width // 3] > cut).any():
        return _top_space(gram, cut, 3 * width, steps)
    return values, basis @ turn


def _solve(gram: Callable[[Tensor], Tensor], columns: Tensor, tau: float, least: float, most: int = 30) -> Tensor | None:
    """``Z`` with ``H Z = F`` about, in float32, until ``T = F'Z + Z'R + R'R / least <= I``; ``gram`` applies ``B'B``.

    T is ``F' H^-1 F`` and the square of the error of Z in the inner product ``<X, Y> = X' H (H / least - I) Y``. Block conjugate
    gradients in this inner product make it least over a block Krylov space; each step takes from T what it takes from the error.
    Only combinations of columns on which T is still large are gone on with: most are settled by the first steps, and H is applied
    to ever fewer.
    """
    f = columns.to(torch.float32)

    def h(x: Tensor) -> Tensor:
        return gram(x).neg_().add_(x, alpha=tau * tau).addmm_(f, f.T @ x)

    z, residual, total, before = torch.zeros_like(f), f.clone(), (f.T @ f).double() / least, math.inf
    direction = image = ahead = inverse = f[:, :0]
    for _ in range(most):
        top = torch.linalg.eigvalsh(0.5 * (total + total.T))[-1].item() if total.isfinite().all() else math.inf
        if top < 1.0 - 5e-4:
            return z
        if not top < 0.999 * before:
            return None
        before = top
        left = residual @ _large(total)
        turned = h(left)
        if ahead.shape[1]:
            back = inverse @ (ahead.T @ turned)
            left.addmm_(direction, back, alpha=-1.0)
            turned.addmm_(image, back, alpha=-1.0)
        direction, image = left, turned
        # Times least: <D, D> and <D, Z - Z*>, of which only D, H D and the residual are known.
        ahead = torch.sub(image, direction, alpha=least)
        inverse = _pseudo_inverse(ahead.T @ image)
        beside = ahead.T @ residual
        along = inverse @ beside
        z.addmm_(direction, along)
        residual.addmm_(image, along, alpha=-1.0)
        total -= (beside.T @ along).double() / least
    return None


def _large(total: Tensor) -> Tensor:
    """Eigenvectors of T on which it is above ``_SETTLED``, in float32."""
    values, vectors = torch.linalg.eigh(0.5 * (total + total.T))
    count = int((values > _SETTLED).sum())
    return vectors[:, len(values) - _rounded(count, len(values)) :].to(torch.float32)


def _rounded(count: int, most: int) -> int:
    """A number of columns that fills the lanes of a matrix product, which takes no longer for it."""
    return min(most, -(-count // _LANES) * _LANES) if count > _FEW else count


def _pseudo_inverse(matrix: Tensor) -> Tensor:
    """Of a semidefinite matrix in float32, scaled to a diagonal of ones."""
    wide = 0.5 * (matrix + matrix.T).double()
    # Columns that are nothing beside the others are left out.
    scale = wide.diagonal().clamp(min=1e-24 * max(wide.diagonal().amax().item(), 1e-30)).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * wide * scale)
    inverse = torch.where(values > 1e-6 * values[-1], 1.0 / values, 0.0)
    vectors = scale[:, None] * vectors
    return ((vectors * inverse) @ vectors.T).to(matrix.dtype)


def _proves(inner: OnTorus | Direct, rounding: float, f: Tensor, solved: Tensor, tau: float, least: float) -> bool:
    """Whether ``I - F'Z - Z'R - R'R / least`` is semidefinite, with every rounding accounted for."""
    z = solved.to(torch.float64)
    along = f.T @ z
    residual = inner.gram(z).sub_(z, alpha=tau * tau).addmm_(f, along, alpha=-1.0).add_(f)
    size, count = f.shape
    f_size, z_size, r_size = (t.norm().item() * (1.0 + gamma(t.numel())) for t in (f, z, residual))
    off = gamma(size + count + 16) * (f_size + (tau * tau + 2.0 * f_size**2) * z_size + r_size) + 2.0 * rounding * z_size
    inside = along + z.T @ residual
    share = 2.0**-16
    matrix = torch.eye(count, dtype=torch.float64) - 0.5 * (inside + inside.T) - (1.0 + share) / least * (residual.T @ residual)
    error = gamma(size + 8) * (z_size * (f_size + r_size) + 2.0 * r_size**2 / least + count) + z_size * off
    error += (1.0 + 1.0 / share) * off**2 / least * (1.0 + gamma(8))
    return bool(proves_semidefinite(matrix, error).item())
