"""The checker's own view of a convolution: on a circle in every axis, by frequencies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker.box import Array, slack
from steepest.proofs.checker.definite import definite

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """One axis: output i reads the padded input at ``stride i + dilation k``.

    Args:
        kernel: entries.
        stride: of outputs.
        dilation: of entries.
        padding: before and after; negative crops.
        wide: entries of the input.
        narrow: outputs.
        mode: what the padding holds.
    """

    kernel: int
    stride: int
    dilation: int
    padding: Pair
    wide: int
    narrow: int
    mode: str

    @property
    def copies(self) -> bool:
        """Whether entries are read that stand somewhere else."""
        return self.mode != "zeros" and self.padding != (0, 0)

    @property
    def round(self) -> bool:
        """Whether the axis is part of a circle."""
        return not self.copies or (self.mode == "circular" and self.wide % self.stride == 0 and self.narrow * self.stride <= self.wide)

    @property
    def positions(self) -> Array:
        """The entry of the input at every place of the padded one; -1 for a zero."""
        at = np.arange(-self.padding[0], self.wide + self.padding[1])
        n = self.wide
        if not self.copies:
            return np.where((at >= 0) & (at < n), at, -1)
        if self.mode == "circular":
            return np.mod(at, n)
        if self.mode == "replicate":
            return np.clip(at, 0, n - 1)
        if self.mode != "reflect" or max(self.padding) >= n:
            raise ValueError(f"the padding {self.mode!r} of {self.padding} is not known")
        at = np.abs(at)
        return np.where(at >= n, 2 * (n - 1) - at, at)

    @property
    def read(self) -> Array:
        """``[kernel, outputs, inputs]``: one where an output reads an input with a kernel entry."""
        places = self.positions[self.dilation * np.arange(self.kernel)[:, None] + self.stride * np.arange(self.narrow)]
        return (places[:, :, None] == np.arange(self.wide)).astype(np.float64)

    @property
    def steps(self) -> list[Pair]:
        """Per kernel entry the whole strides q and the rest r of where it reads."""
        return [divmod(self.dilation * k - self.padding[0], self.stride) for k in range(self.kernel)]

    @property
    def length(self) -> int:
        """Inputs of one rest."""
        return -(-self.wide // self.stride)

    @property
    def circle(self) -> int:
        """Positions of a circle on which no output reaches an input the long way round."""
        if self.copies:
            return self.length
        q = [s for s, _ in self.steps]
        return max(self.narrow + max(q), self.length - min(q), self.length, self.narrow, 1)


@dataclass(frozen=True)
class Circles:
    """A convolution of a kernel ``[groups, out, in, *kernel]`` on circles, what goes round turned by ``turn`` of a full turn.

    On a circle of N positions, ``N >= max(narrow + max q, ceil(wide / stride) - min q)``, the operator is a part of the circulant one,
    whose norm is the largest over frequencies of ``|sum_k K_k e^(i w q_k)|``, whatever the turn.
    """

    windows: tuple[Window, ...]
    kernel: Array
    turn: tuple[float, ...]

    @property
    def frequencies(self) -> Array:
        """Half of them: those of the first axis up to half a turn; a real kernel's others are conjugate. In half steps, ``[f, d]``."""
        axes = [2 * np.arange(w.circle) + round(2 * t) for w, t in zip(self.windows, self.turn, strict=True)]
        axes[0] = axes[0][axes[0] <= self.windows[0].circle]
        return np.array(list(itertools.product(*axes)), dtype=np.int64).reshape(-1, len(axes))

    def phase(self, frequencies: Array, places: Array) -> Array:
        """``e^(i w p)``, ``[frequencies, places]``."""
        angle = np.zeros((len(frequencies), len(places)))
        for a, w in enumerate(self.windows):
            turns = np.mod(frequencies[:, a, None] * places[None, :, a], 2 * w.circle)
            angle = angle + turns * (np.pi / w.circle)
        return np.exp(1j * angle)

    @property
    def taps(self) -> list[tuple[int, ...]]:
        """Kernel entries."""
        return list(itertools.product(*(range(w.kernel) for w in self.windows)))

    @property
    def shifts(self) -> Array:
        """Their whole strides, ``[taps, d]``."""
        return np.array([[w.steps[k][0] for w, k in zip(self.windows, t, strict=True)] for t in self.taps])

    @property
    def rests(self) -> list[tuple[int, ...]]:
        """Their rests."""
        return [tuple(w.steps[k][1] for w, k in zip(self.windows, t, strict=True)) for t in self.taps]

    @property
    def used(self) -> list[tuple[int, ...]]:
        """The rests that occur."""
        return sorted(set(self.rests))

    @property
    def mass(self) -> float:
        """Frobenius norm of ``sum_k |K_k|``, of the largest group: nothing here is larger."""
        k = np.abs(self.kernel.reshape(*self.kernel.shape[:3], -1)).sum(-1)
        return math.sqrt(float((k * k).sum((1, 2)).max())) * (1 + slack(self.kernel.size))

    @property
    def off(self) -> float:
        """Bound on what computed symbols are off by, in Frobenius norm."""
        return slack(64 * (len(self.taps) + 16 * len(self.windows))) * self.mass

    def symbols(self, frequencies: Array) -> Array:
        """``[f, groups, out, rests * in]``."""
        groups, out, inside = self.kernel.shape[:3]
        kernel, waves = self.kernel.reshape(groups, out, inside, -1), self.phase(frequencies, self.shifts)
        found = np.empty((len(frequencies), groups, out, len(self.used), inside), dtype=np.complex128)
        for r, rest in enumerate(self.used):
            mine = [t for t, other in enumerate(self.rests) if other == rest]
            flat = kernel[..., mine].reshape(-1, len(mine)).T
            part = waves[:, mine]
            found[:, :, :, r] = (np.real(part) @ flat + 1j * (np.imag(part) @ flat)).reshape(-1, groups, out, inside)
        return found.reshape(len(frequencies), groups, out, -1)

    def grams(self, frequencies: Array) -> tuple[Array, float]:
        """``S S^H``, or ``S^H S`` where that is smaller, ``[f * groups, m, m]``; and what it is off by."""
        s = self.symbols(frequencies)
        s = s.reshape(-1, *s.shape[2:])
        if self.flipped:
            s = np.ascontiguousarray(np.conj(s.swapaxes(1, 2)))
        # Rows of S, on the shorter side, times the conjugates of rows.
        gram = s @ np.conj(s.swapaxes(1, 2))
        return gram, slack(4 * s.shape[2] + 8) * self.mass**2 + (2 * self.mass + self.off) * self.off

    @property
    def flipped(self) -> bool:
        """Whether inputs are the shorter side."""
        _, out, inside = self.kernel.shape[:3]
        return inside * len(self.used) < out

    @property
    def side(self) -> int:
        """The shorter side."""
        _, out, inside = self.kernel.shape[:3]
        return min(out, inside * len(self.used))

    def chunks(self, entries: int = 2**23) -> list[Array]:
        """Frequencies, some at a time."""
        groups, out, inside = self.kernel.shape[:3]
        step = max(1, entries // (groups * (2 * out * inside * len(self.used) + 2 * self.side**2)))
        f = self.frequencies
        return [f[i : i + step] for i in range(0, len(f), step)]

    def estimate(self) -> float:
        """About the largest squared norm of a symbol, from below."""
        best = 0.0
        for part in self.chunks():
            s = self.symbols(part).astype(np.complex64)
            s = s.reshape(-1, *s.shape[2:])
            s = np.conj(s.swapaxes(1, 2)) if self.flipped else s
            gram = s @ np.conj(s.swapaxes(1, 2))
            top = np.argsort(tops(gram, 6))[-max(8, len(gram) // 12) :]
            best = max(best, float(tops(gram[top], 24).max(initial=0.0)))
        return best

    def at_most(self, claim: float) -> bool:
        """Whether every symbol has a norm of at most the claim."""
        tau = claim * claim * (1 - 2 * slack(2))
        for part in self.chunks():
            gram, off = self.grams(part)
            np.negative(gram, out=gram)
            gram[:, np.arange(self.side), np.arange(self.side)] += tau
            if not definite(gram, off + slack(4) * tau):
                return False
        return True


def tops(gram: Array, steps: int) -> Array:
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


def turned(windows: Sequence[Window], kernel: Array) -> list[Circles]:
    """The circles with every choice of half turns where there is one, of a kernel ``[groups, out, in, *kernel]``."""
    choices = [(0.0,) if w.copies else (0.0, 0.5) for w in windows]
    return [Circles(tuple(windows), kernel, turn) for turn in itertools.product(*choices)]
