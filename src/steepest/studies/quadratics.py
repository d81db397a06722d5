"""Descent on ``h x^2 / 2`` as a linear recursion: its exact rate, its floor under noise, the delay that it bears."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tuning:
    """The options of ``torch.optim.SGD``: ``v = momentum v + g`` and ``x -= rate v``, or ``x -= rate (g + momentum v)`` with Nesterov's."""

    rate: float
    momentum: float = 0.0
    nesterov: bool = False

    def transition(self, curvatures: Array) -> tuple[Array, Array]:
        """The recursion ``(x, v) -> A (x, v) + b n`` with gradient ``h x + n``: A ``[n, 2, 2]`` and b ``[n, 2]``."""
        h, b, r = np.asarray(curvatures, dtype=float), self.momentum, self.rate
        one = np.ones_like(h)
        # x moves by -rate (direct g + kept v).
        direct, kept = (1.0 + b, b * b) if self.nesterov else (1.0, b)
        matrix = np.stack([np.stack([1.0 - r * direct * h, -r * kept * one], -1), np.stack([h, b * one], -1)], -2)
        return matrix, np.stack([-r * direct * one, one], -1)

    def radius(self, curvatures: Array) -> float:
        """The factor that the distance to the minimum loses a step in the long run: the largest spectral radius over the curvatures."""
        return float(np.abs(np.linalg.eigvals(self.transition(curvatures)[0])).max())

    def moments(self, curvatures: Array, variance: float) -> Array:
        """``E (x, v)(x, v)'`` of the stationary law under noise of that variance, ``[n, 2, 2]``.

        The solution of ``S = A S A' + variance b b'``; only where ``radius`` is below 1.
        """
        matrix, entry = self.transition(curvatures)
        noise = variance * entry[:, :, None] * entry[:, None, :]
        # vec(A S A') = (A kron A) vec(S), by rows.
        lifted = np.einsum("nij,nkl->nikjl", matrix, matrix).reshape(len(matrix), 4, 4)
        return np.linalg.solve(np.eye(4) - lifted, noise.reshape(-1, 4, 1)).reshape(-1, 2, 2)

    def floor(self, curvatures: Array, variance: float = 1.0) -> float:
        """The expected loss ``sum h x^2 / 2`` in the long run; infinite where the recursion does not contract."""
        if self.radius(curvatures) >= 1.0:
            return math.inf
        return float(0.5 * np.sum(curvatures * self.moments(curvatures, variance)[:, 0, 0]))

    def expected_losses(self, curvatures: Array, start: Array, variance: float, steps: Iterable[int]) -> Array:
        """The expected loss after so many steps from ``start``, ``[n]``, without velocity: ``S_t = S + A^t (S_0 - S) A'^t``."""
        matrix, _ = self.transition(curvatures)
        final = self.moments(curvatures, variance)
        first = np.zeros_like(final)
        first[:, 0, 0] = np.asarray(start) ** 2
        found = []
        for t in steps:
            power = np.linalg.matrix_power(matrix, int(t))
            now = final + power @ (first - final) @ power.swapaxes(1, 2)
            found.append(0.5 * float(np.sum(curvatures * now[:, 0, 0])))
        return np.array(found)


def gradient_descent(most: float, least: float) -> Tuning:
    """Its fastest, of rate ``(k - 1) / (k + 1)`` for curvatures in ``[least, most]`` with ``k = most / least``."""
    return Tuning(2.0 / (most + least))


def heavy_ball(most: float, least: float) -> Tuning:
    """Its fastest, ``(sqrt k - 1) / (sqrt k + 1)`` (Polyak 1964)."""
    root = math.sqrt(most / least)
    return Tuning(4.0 / (math.sqrt(most) + math.sqrt(least)) ** 2, ((root - 1.0) / (root + 1.0)) ** 2)


def nesterov(most: float, least: float) -> Tuning:
    """As his theory sets it: ``1 - 1 / sqrt k``, a double root at the least curvature (Nesterov 2004, scheme 2.2.9)."""
    root = math.sqrt(most / least)
    return Tuning(1.0 / most, (root - 1.0) / (root + 1.0), nesterov=True)


def nesterov_fastest(most: float, least: float) -> Tuning:
    """Its fastest on quadratics, ``1 - 2 / sqrt(3 k + 1)`` (Lessard, Recht and Packard 2016, proposition 1)."""
    root = math.sqrt(3.0 * most / least + 1.0)
    return Tuning(4.0 / (3.0 * most + least), (root - 2.0) / (root + 2.0), nesterov=True)


def delayed_radius(step: float, delay: int, momentum: float = 0.0) -> float:
    """The rate of ``x_{t+1} = x_t + momentum (x_t - x_{t-1}) - step x_{t-delay}``, step being rate times curvature.

    The largest root of ``z^(d+2) - (1 + b) z^(d+1) + b z^d + step z``.
    """
    polynomial = np.zeros(delay + 3)
    polynomial[:3] = 1.0, -1.0 - momentum, momentum
    polynomial[delay + 1] += step
    return float(np.abs(np.roots(polynomial)).max())


def largest_stable_step(delay: int) -> float:
    """``2 sin(pi / (4 delay + 2))``: the step from which delayed descent no longer contracts.

    On the unit circle ``z^(d+1) - z^d = -step`` asks ``|z - 1| = step`` and, for z = e^(i w), ``w (d + 1/2) = pi / 2`` first; then
    ``step = 2 sin(w / 2)``.
    """
    return 2.0 * math.sin(math.pi / (4 * delay + 2))


def largest_stable_step_with(momentum: float, delay: int, tolerance: float = 1e-6) -> float:
    """The same with heavy ball's momentum, by halving between a step that contracts and one that does not."""
    low, high = 0.0, 2.0 + 2.0 * momentum + 1e-3
    while high - low > tolerance * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if delayed_radius(middle, delay, momentum) < 1.0 else (low, middle)
    return low
