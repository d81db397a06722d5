"""Proven bound of a convolution's l2 norm by its symbols on a torus."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steepest.numerics.definite import proves_semidefinite
from steepest.numerics.rounding import gamma, up
from steepest.numerics.torus import ConvGeometry, Grams, Torus, least_periods

_PEAKS = 8
_ENTRIES = 2**25
_CHUNK = 2**21
_SINGLE_SIDE = 128


@dataclass(frozen=True)
class Laid:
    """A convolution on the torus chosen for it.

    Args:
        grams: the Gram matrices of its symbols, for the kernel divided by ``unit``.
        unit: a power of two, so that the division is exact and squares neither overflow nor vanish.
        norm: the largest norm of a symbol, estimated from below.
        tops: the largest eigenvalue of every Gram matrix and its vector, roughly, where signs have not been compared yet.
    """

    grams: Grams
    unit: float
    norm: float
    tops: tuple[Tensor, Tensor] | None = None


def lay(weight: Tensor, geometry: ConvGeometry, groups: int) -> Laid:
    """On the torus of the fewest frequencies; the norm by a few steps at each.

    Args:
        weight: ``[out, in / groups, *kernel]``, float64.
        geometry: every axis must lie ``on_torus``.
        groups: blocks of channels that do not mix.
    """
    periods, dims = least_periods(geometry), len(geometry.kernel)
    peak = weight.abs().max().item() if weight.numel() else 0.0
    unit = 2.0 ** math.floor(math.log2(peak)) if peak > 0 else 1.0
    twist = [0.0] * dims
    if 0 in _free(geometry) and periods[0] % 2 == 0:
        twist[0] = 0.5
    grams = Grams.of(Torus(geometry, periods, tuple(twist)), weight / unit, groups)
    if peak == 0.0 or not len(grams.torus.frequencies):
        return Laid(grams, unit, 0.0)
    generator, values, vectors = torch.Generator().manual_seed(0), [], []
    for _, gram in chunks(grams, torch.complex64, _CHUNK):
        start = torch.randn(1, grams.side, generator=generator).to(torch.complex64).expand(len(gram), -1)
        value, vector = top_eigenvalues(gram, start, 8)
        values.append(value)
        vectors.append(vector)
    value = torch.cat(values)
    return Laid(grams, unit, math.sqrt(max(value.max().item(), 0.0)) * unit, (value, torch.cat(vectors)))


def turned(laid: Laid) -> Laid:
    """With the signs of what goes round for which the largest symbol is least, by estimates near the peaks."""
    if laid.tops is None:
        return laid
    grams, geometry = laid.grams, laid.grams.torus.geometry
    value, peaks = _peaks(grams, *laid.tops)
    twists = []
    for signs in itertools.product((0.0, 0.5), repeat=len(_free(geometry))):
        twist = [0.0] * len(geometry.kernel)
        for a, t in zip(_free(geometry), signs, strict=True):
            twist[a] = t
        if tuple(twist) != grams.torus.twist:
            twists.append(tuple(twist))
    rough = _near(grams, twists, peaks, 5)
    least = min(range(len(twists)), key=rough.__getitem__, default=0)
    if twists and rough[least] < value:
        value = _near(grams, [twists[least]], peaks, 16)[0]
        grams = replace(grams, torus=Torus(geometry, grams.torus.periods, twists[least]))
    return Laid(grams, laid.unit, math.sqrt(max(value, 0.0)) * laid.unit)


def _free(geometry: ConvGeometry) -> list[int]:
    """Axes on which what goes round may change its sign."""
    return [a for a in range(len(geometry.kernel)) if geometry.mode(a) == "zeros" or geometry.padding[a] == (0, 0)]


def torus_norm_above(laid: Laid) -> float:
    """Upper bound of the operator norm from l2 to l2 of a convolution whose axes all lie on a torus.

    On a torus of period ``N >= max(out - 1 + q_max, phases - 1 - q_min) + 1`` no index wraps into the cropped support, so the
    operator is ``crop . circulant . embed`` and its norm is at most the largest norm of the symbol over the frequencies; multiplying
    what goes round by -1 in any axis keeps this true. Where the padding is circular the torus is the circle itself. Cholesky
    factorisations of ``tau^2 I - S S^H`` prove the bound at every frequency, in float32 where its rounding leaves room.

    Source: Sedghi, Gupta, Long 2019 for circular padding; here the zero-padded operator is embedded.
    """
    grams = laid.grams
    tau_sq = (laid.norm / laid.unit) ** 2 * (1.0 + 2e-5) + 2.0 * grams.error
    groups = grams.correlations.shape[1]
    for part, gram in chunks(grams, torch.complex128):
        open_ = (~_below(gram, tau_sq, grams.error)).nonzero()[:, 0]
        if len(open_):
            again = torch.unique(open_ // groups)
            tau_sq = max(tau_sq, _largest_eigenvalue_above(grams.at(part[again]), grams.error))
    return up(math.sqrt(tau_sq) * (1.0 + gamma(4))) * laid.unit


def torus_at_most(laid: Laid, tau: float) -> bool:
    """Whether no symbol's norm over ``laid.unit`` is above tau, proven, the highest first; it ends where one may be. One group."""
    grams, at = laid.grams, laid.grams.torus.frequencies
    at = at if laid.tops is None else at[laid.tops[0].argsort(descending=True)]
    parts = at.split(max(1, _CHUNK // (4 * grams.side**2)))
    return all(_below(grams.at(part), tau * tau, grams.error).all() for part in parts)


def chunks(grams: Grams, dtype: torch.dtype, entries: int = _ENTRIES) -> Iterator[tuple[Tensor, Tensor]]:
    """Frequencies, some at a time, and the Gram matrices there."""
    step = max(1, entries // (grams.correlations.shape[1] * grams.side**2))
    for part in grams.torus.frequencies.split(step):
        yield part, grams.at(part, dtype)


def top_eigenvalues(gram: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of each of a batch and its vector ``[batch, m]``, estimated from below by Lanczos' method."""
    vector, before, beta = start / (start.norm(dim=1, keepdim=True) + 1e-30), torch.zeros_like(start), torch.zeros(len(start))
    basis, diagonal, off = [], [], []
    for _ in range(min(steps, gram.shape[-1])):
        basis.append(vector)
        image = (gram @ vector[:, :, None])[:, :, 0]
        alpha = (vector.conj() * image).sum(1).real
        image = image - alpha[:, None] * vector - beta[:, None] * before
        beta, before = image.norm(dim=1), vector
        vector = image / (beta[:, None] + 1e-30)
        diagonal.append(alpha)
        off.append(beta)
    bands = torch.diag_embed(torch.stack(diagonal, 1)).double()
    if len(off) > 1:
        bands = bands + torch.diag_embed(torch.stack(off[:-1], 1).double(), -1)
    values, vectors = torch.linalg.eigh(bands)
    return values[:, -1], torch.einsum("sbm,bs->bm", torch.stack(basis), vectors[:, :, -1].to(start.dtype))


def _peaks(grams: Grams, rough: Tensor, begun: Tensor) -> tuple[float, list[tuple[Tensor, Tensor]]]:
    """The largest eigenvalue over the torus, estimated, and frequencies and vectors of the highest points, apart from each other."""
    groups, values, vectors = grams.correlations.shape[1], [], []
    top = rough.topk(min(len(rough), max(8, len(rough) // 16))).indices
    at = grams.torus.frequencies[top // groups]
    for part in torch.arange(len(top)).split(max(1, _CHUNK // (groups * grams.side**2))):
        gram = grams.at(at[part], torch.complex64).unflatten(0, (-1, groups))[torch.arange(len(part)), top[part] % groups]
        fine, found = top_eigenvalues(gram, begun[top[part]], 16)
        values.append(fine)
        vectors.append(found)
    value, vector = torch.cat(values), torch.cat(vectors)
    chosen: list[int] = []
    for k in value.argsort(descending=True).tolist():
        if all((at[k] - at[c]).abs().max() > 2 for c in chosen):
            chosen.append(k)
        if len(chosen) == _PEAKS:
            break
    return value.max().item(), [(at[k], vector[k]) for k in chosen]


def _near(grams: Grams, twists: list[tuple[float, ...]], peaks: list[tuple[Tensor, Tensor]], steps: int) -> list[float]:
    """For each of several twists the largest eigenvalue at the frequencies next to given peaks, estimated."""
    if not twists:
        return []
    groups, at, starts, counts = grams.correlations.shape[1], [], [], []
    for twist in twists:
        before = len(starts)
        for frequency, vector in peaks:
            turns = zip(frequency.tolist(), twist, grams.torus.twist, strict=True)
            near = list(itertools.product(*((f,) if t == own else (f - 1, f + 1) for f, t, own in turns)))
            at += near
            starts += [vector] * (len(near) * groups)
        counts.append(len(starts) - before)
    gram = grams.at(torch.tensor(at), torch.complex64)
    values = top_eigenvalues(gram, torch.stack(starts), steps)[0]
    return [v.max().item() for v in values.split(counts)]


def _below(gram: Tensor, tau_sq: float, error: float) -> Tensor:
    """Where ``tau^2 I - G`` is proven semidefinite; the Gram matrices are overwritten by it."""
    n, error = gram.shape[-1], error + gamma(4) * tau_sq
    trace = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    gram.neg_().diagonal(dim1=-2, dim2=-1).add_(tau_sq)
    if n > _SINGLE_SIDE or len(gram) <= 8:
        return proves_semidefinite(gram, error)
    # A product of complex numbers is within sqrt(2) gamma(2) and a sum within u (Higham 2002, lemma 3.5), so the backward error of a
    # factorisation in complex64 is at most gamma(n + 8) |L| |L^H|, whose norm is at most gamma(n + 8) / (1 - gamma(n + 8)) tr A;
    # writing A in single precision moves it by u |A|_F <= u (tau^2 sqrt(n) + tr G).
    shift = 1.5 * 2.0**-24 * ((n + 8) * (n * tau_sq - trace).abs() + 2.0 * (n * tau_sq + trace)) + error + 2.0**-60
    single = gram.to(torch.complex64)
    single.diagonal(dim1=-2, dim2=-1).sub_(shift[:, None])
    _, info = torch.linalg.cholesky_ex(single)
    proven = (info == 0) & torch.isfinite(trace)
    rest = ~proven
    if rest.any():
        proven[rest] = proves_semidefinite(gram[rest], error)
    return proven


def _largest_eigenvalue_above(gram: Tensor, error: float) -> float:
    """Upper bound of the largest eigenvalue of matrices each within ``error`` of what is given."""
    largest = torch.linalg.eigvalsh(gram)[:, -1].max().item()
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
    for growth in (1e-9, 1e-7, 1e-5, 1e-3):
        guess = largest * (1.0 + growth) + 4.0 * error
        if proves_semidefinite(guess * eye - gram, error + gamma(4) * guess).all():
            return guess
    return torch.linalg.matrix_norm(gram).max().item() * (1.0 + gamma(gram.shape[-1] ** 2)) + error
