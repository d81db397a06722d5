"""A convolution's norm below that of its circles: the directions in which the circles are too large are solved for and settled."""

from __future__ import annotations

import itertools
import math

import numpy as np

from steepest.proofs.checker.box import Array, slack
from steepest.proofs.checker.definite import definite
from steepest.proofs.checker.torus import Circles, tops

_SHARE = 0.01
_MOST = 1024


def _places(circles: Circles, outputs: bool) -> Array:
    """Positions on the circles, ``[count, d]``."""
    lengths = [w.narrow if outputs else w.length for w in circles.windows]
    return np.array(list(itertools.product(*(range(n) for n in lengths))), dtype=np.int64).reshape(-1, len(lengths))


def _mask(circles: Circles, outputs: bool) -> Array:
    """``[positions, channels of that side]``: which entries the operator has."""
    places = _places(circles, outputs)
    if outputs:
        return np.ones((len(places), circles.kernel.shape[1]))
    strides, sizes = np.array([w.stride for w in circles.windows]), np.array([w.wide for w in circles.windows])
    there = (places[:, None] * strides + np.array(circles.used) < sizes).all(-1)
    return np.repeat(there.astype(np.float64), circles.kernel.shape[2], 1)


class _Operator:
    """``B'B`` for the operator B or its adjoint, whichever starts on the shorter side; vectors are columns ``[positions * side, r]``."""

    def __init__(self, circles: Circles, single: bool) -> None:
        self.circles = circles
        f = circles.frequencies
        symbol = circles.symbols(f)[:, 0]
        self.symbol = symbol if circles.flipped else np.conj(symbol.swapaxes(1, 2))
        self.near, self.far = (self._waves(f, outputs) for outputs in (not circles.flipped, circles.flipped))
        self.here, self.there = (_mask(circles, outputs) for outputs in (not circles.flipped, circles.flipped))
        alone = (f[:, 0] == 0) | (f[:, 0] == circles.windows[0].circle)
        self.weight = np.where(alone, 1.0, 2.0) / math.prod(w.circle for w in circles.windows)
        if single:
            self.symbol = self.symbol.astype(np.complex64)
            self.near, self.far, self.here, self.there, self.weight = (
                x.astype(np.float32) for x in (self.near, self.far, self.here, self.there, self.weight)
            )

    def _waves(self, f: Array, outputs: bool) -> Array:
        waves = self.circles.phase(f, _places(self.circles, outputs))
        return np.concatenate([np.real(waves), -np.imag(waves)])

    def __call__(self, x: Array) -> Array:
        r, half = x.shape[1], len(self.symbol)
        waves = (self.near @ x.reshape(self.near.shape[1], -1)).reshape(2, half, -1, r)
        image = self.symbol @ (waves[0] + 1j * waves[1])
        y = self._back(self.far, np.real(image), np.imag(image), self.there, r)
        waves = (self.far @ y).reshape(2, half, -1, r)
        image = self.symbol.swapaxes(1, 2) @ (waves[0] - 1j * waves[1])
        return self._back(self.near, np.real(image), -np.imag(image), self.here, r).reshape(-1, r)

    def _back(self, waves: Array, real: Array, imaginary: Array, mask: Array, r: int) -> Array:
        parts = np.concatenate([real, imaginary]) * np.concatenate([self.weight, self.weight])[:, None, None]
        y = waves.T @ parts.reshape(len(parts), -1)
        return (y.reshape(*mask.shape, r) * mask[:, :, None]).reshape(len(y), -1)

    @property
    def off(self) -> float:
        """Bound of the error of ``B'B x`` in double precision per unit of ``|x|``: each of four passes sums at most N waves."""
        c = self.circles
        around = max(len(self.near), self.near.shape[1], self.far.shape[1])
        return 16 * slack(4 * around + 4 * max(self.symbol.shape[1:]) + len(c.taps) + 256) * around * c.mass**2


def settled_at_most(circles: Circles, claim: float) -> bool:
    """Whether a convolution of one group with zero padding has an l2 norm of at most the claim.

    With G(f) the Gram matrices on the circles, ``G - Y Y^H <= c^2`` for some Y and c below the claim tau, and F the waves Y on the
    operator's own positions: ``H = tau^2 - B'B + F F' >= tau^2 - c^2``. Then ``tau^2 - B'B`` is semidefinite if ``F' H^-1 F <= I``; and for
    any Z with the residual ``R = F - H Z``, ``F' H^-1 F <= F'Z + Z'R + R'R / (tau^2 - c^2)``.
    """
    tau = claim * claim * (1 - 2 * slack(4))
    cut, room = tau * (1 - _SHARE), 0.1 * _SHARE * tau
    found = _directions(circles, cut, room)
    if found is None:
        return False
    f, off = found
    least = (tau - cut - room) * (1 - slack(8)) - off
    if least <= 0:
        return False
    if f.shape[1] == 0:
        return True
    z = _solve(_Operator(circles, single=True), f, tau, least)
    return z is not None and _proves(_Operator(circles, single=False), f, z.astype(np.float64), tau, least)


def _directions(circles: Circles, cut: float, room: float) -> tuple[Array, float] | None:
    frequencies, factors = [], []
    for part in circles.chunks():
        gram, off = circles.grams(part)
        trace = float(np.real(np.trace(gram, axis1=1, axis2=2)).max())
        for i in np.flatnonzero(tops(gram, 20) > 0.985 * cut):
            values, vectors = _top_space(gram[i], cut)
            y = vectors[:, values > cut] * np.sqrt(values[values > cut] - cut)
            gram[i] -= y @ np.conj(y.T)
            frequencies += [part[i]] * y.shape[1]
            factors += list(y.T)
        if len(factors) > _MOST:
            return None
        np.negative(gram, out=gram)
        gram[:, np.arange(circles.side), np.arange(circles.side)] += cut + room
        if not definite(gram, off + slack(circles.side + 32) * 4 * (trace + circles.side * cut)):
            return None
    if not factors:
        return np.zeros((0, 0)), 0.0
    f, y = np.array(frequencies), np.array(factors)
    outputs = not circles.flipped
    waves = circles.phase(f, _places(circles, outputs))
    alone = (f[:, 0] == 0) | (f[:, 0] == circles.windows[0].circle)
    share = np.sqrt(np.where(alone, 1.0, 2.0) / math.prod(w.circle for w in circles.windows))
    values = waves.T[:, None, :] * y.T * share
    columns = np.concatenate([np.real(values), np.imag(values)], 2) * _mask(circles, outputs)[:, :, None]
    columns = columns.reshape(-1, columns.shape[2])
    columns = columns[:, np.abs(columns).max(0) > 0]
    return columns, 8 * slack(64) * float((columns**2).sum()) * (1 + slack(columns.size))


def _top_space(gram: Array, cut: float) -> tuple[Array, Array]:
    m = len(gram)
    if m <= 64:
        return np.linalg.eigh(gram)
    half, g = 0.475 * cut, gram.astype(np.complex64)
    x = np.random.default_rng(2).normal(size=(m, 20)).astype(np.complex64)
    for _ in range(2):
        before, now = x, g @ x / np.float32(half) - x
        for _ in range(9):
            before, now = now, 2 * (g @ now / np.float32(half) - now) - before
        x = np.linalg.qr(now)[0]
    x = np.linalg.qr(x.astype(np.complex128))[0]
    values, turn = np.linalg.eigh(np.conj(x.T) @ (gram @ x))
    return values, x @ turn


def _solve(operator: _Operator, columns: Array, tau: float, least: float) -> Array | None:
    """``Z`` with ``H Z`` about F, by conjugate gradients of all columns together, in the inner product ``X' H (H - least) Y``.

    It is that in which the sum to be proven, ``F'Z + Z'R + R'R / least``, falls the most at every step.
    """
    f = columns.astype(np.float32)

    def h(x: Array) -> Array:
        return np.float32(tau) * x - operator(x) + f @ (f.T @ x)

    low = np.float32(least)
    z, residual, direction, image = np.zeros_like(f), f.copy(), f, h(f)
    total, before = (f.T @ f).astype(np.float64) / least, math.inf
    for _ in range(40):
        size = (image.T @ image - low * (direction.T @ image)).astype(np.float64)
        scale = 1 / np.sqrt(np.maximum(np.diag(size), 1e-24 * max(size.max(), 1e-30)))
        values, vectors = np.linalg.eigh(scale[:, None] * (size + size.T) / 2 * scale)
        keep = values > 1e-6 * values[-1]
        vectors = scale[:, None] * vectors[:, keep]
        inverse = ((vectors / values[keep]) @ vectors.T).astype(np.float32)
        beside = image.T @ residual - low * (direction.T @ residual)
        along = inverse @ beside
        z += direction @ along
        total -= (beside.T @ along).astype(np.float64) / least
        top = float(np.linalg.eigvalsh((total + total.T) / 2)[-1]) if np.isfinite(total).all() else math.inf
        if top < 1 - 2e-4:
            return z
        if not top < 0.999 * before:
            return None
        before = top
        residual -= image @ along
        turned = h(residual)
        back = inverse @ (image.T @ turned - low * (direction.T @ turned))
        direction, image = residual - direction @ back, turned - image @ back
    return None


def _proves(operator: _Operator, f: Array, z: Array, tau: float, least: float) -> bool:
    along = f.T @ z
    residual = f - tau * z + operator(z) - f @ along
    size, count = f.shape
    nf, nz, nr = (float(np.linalg.norm(t)) * (1 + slack(t.size)) for t in (f, z, residual))
    off = 2 * slack(size + count + 16) * (nf + (tau + 2 * nf * nf) * nz + nr) + 2 * operator.off * nz
    inside = along + z.T @ residual
    share = 2.0**-10
    matrix = np.eye(count) - (inside + inside.T) / 2 - (1 + share) / least * (residual.T @ residual)
    error = 2 * slack(size + 8) * (nz * (nf + nr) + 2 * nr * nr / least + count) + nz * off
    error += (1 + 1 / share) * off * off / least * (1 + slack(8))
    return math.isfinite(error) and definite(matrix[None], error)
