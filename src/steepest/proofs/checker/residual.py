"""A convolution's norm below that of its circles: the directions in which the circles are too large are solved for and settled."""

from __future__ import annotations

import itertools
import math

import numpy as np

from steepest.proofs.checker.box import Array, slack
from steepest.proofs.checker.definite import definite
from steepest.proofs.checker.torus import Circles

_SHARE = 0.01
_MOST = 1024


class _Operator:
    """``B'B`` for the operator B or its adjoint, whichever starts on the shorter side; vectors are columns ``[positions * side, r]``."""

    def __init__(self, circles: Circles, single: bool) -> None:
        self.circles = circles
        f = circles.frequencies
        symbol = circles.symbols(f)[:, 0]
        self.symbol = symbol if circles.flipped else np.conj(symbol.swapaxes(1, 2))
        self.near, self.far = (self._waves(f, outputs) for outputs in (not circles.flipped, circles.flipped))
        self.here, self.there = (self.mask(outputs) for outputs in (not circles.flipped, circles.flipped))
        alone = (f[:, 0] == 0) | (f[:, 0] == circles.windows[0].circle)
        self.weight = np.where(alone, 1.0, 2.0) / math.prod(w.circle for w in circles.windows)
        if single:
            self.symbol = self.symbol.astype(np.complex64)
            self.near, self.far, self.here, self.there, self.weight = (
                x.astype(np.float32) for x in (self.near, self.far, self.here, self.there, self.weight)
            )

    def places(self, outputs: bool) -> Array:
        """Positions on the circles, ``[count, d]``."""
        lengths = [w.narrow if outputs else w.length for w in self.circles.windows]
        return np.array(list(itertools.product(*(range(n) for n in lengths))), dtype=np.int64).reshape(-1, len(lengths))

    def _waves(self, f: Array, outputs: bool) -> Array:
        waves = self.circles.phase(f, self.places(outputs))
        return np.concatenate([np.real(waves), -np.imag(waves)])

    def mask(self, outputs: bool) -> Array:
        """``[positions, channels of that side]``: which entries the operator has."""
        places, c = self.places(outputs), self.circles
        if outputs:
            return np.ones((len(places), c.kernel.shape[1]))
        strides, sizes = np.array([w.stride for w in c.windows]), np.array([w.wide for w in c.windows])
        there = (places[:, None] * strides + np.array(c.used) < sizes).all(-1)
        return np.repeat(there.astype(np.float64), c.kernel.shape[2], 1)

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
        for i in np.flatnonzero(_tops(gram) > 0.985 * cut):
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
    operator = _Operator(circles, single=True)
    outputs = not circles.flipped
    waves = circles.phase(f, operator.places(outputs))
    alone = (f[:, 0] == 0) | (f[:, 0] == circles.windows[0].circle)
    share = np.sqrt(np.where(alone, 1.0, 2.0) / math.prod(w.circle for w in circles.windows))
    values = waves.T[:, None, :] * y.T * share
    columns = np.concatenate([np.real(values), np.imag(values)], 2) * operator.mask(outputs)[:, :, None]
    columns = columns.reshape(-1, columns.shape[2])
    columns = columns[:, np.abs(columns).max(0) > 0]
    return columns, 8 * slack(64) * float((columns**2).sum()) * (1 + slack(columns.size))


def _tops(gram: Array, steps: int = 20) -> Array:
    """Estimates of the largest eigenvalues, by Lanczos' method."""
    g = gram.astype(np.complex64)
    v = np.repeat(np.random.default_rng(1).normal(size=(1, g.shape[1])).astype(np.complex64), len(g), 0)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    before, beta = np.zeros_like(v), np.zeros(len(g), dtype=np.float32)
    steps = min(steps, g.shape[1])
    bands = np.zeros((len(g), steps, steps))
    for k in range(steps):
        w = (g @ v[:, :, None])[:, :, 0]
        alpha = np.real((np.conj(v) * w).sum(1))
        w = w - alpha[:, None] * v - beta[:, None] * before
        beta, before = np.linalg.norm(w, axis=1), v
        v = w / (beta[:, None] + np.float32(1e-30))
        bands[:, k, k] = alpha
        if k + 1 < steps:
            bands[:, k + 1, k] = beta
    return np.linalg.eigvalsh(bands)[:, -1]


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
    """``Z`` with ``H Z`` about F, by conjugate gradients."""
    f = columns.astype(np.float32)
    z, residual = np.zeros_like(f), f.copy()
    direction, energy = residual.copy(), (residual**2).sum(0)
    for step in range(60):
        image = np.float32(tau) * direction - operator(direction) + f @ (f.T @ direction)
        length = energy / np.maximum((direction * image).sum(0), np.float32(1e-30))
        z += length * direction
        residual -= length * image
        new = (residual**2).sum(0)
        if step % 2 == 1:
            inside = (f.T @ z + z.T @ residual).astype(np.float64)
            room = 1 - np.linalg.eigvalsh((inside + inside.T) / 2)[-1]
            if room <= 0:
                return None
            if np.linalg.eigvalsh((residual.T @ residual).astype(np.float64))[-1] < 0.4 * room * least:
                return z
        direction = residual + new / np.maximum(energy, np.float32(1e-30)) * direction
        energy = new
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
