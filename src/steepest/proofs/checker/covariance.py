"""LipSDP on a torus: covariances carried from the input to the output, every rounding error added to them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker.box import Array, Box, slack
from steepest.proofs.checker.definite import definite
from steepest.proofs.checker.fields import Map, Signal, Stage, Stride, Torus
from steepest.proofs.checker.linear import NodeLike

_ENTRIES = 2**25
"""Numbers in the covariances of all live fields that are held at once, where several coarse frequencies fit."""

_MOST = 2**29
"""Numbers in the covariances of one coarse frequency, beyond which a network is refused."""

_CEILING = 2.0**200
"""Weights, multipliers, and variances beyond it are refused, and multipliers below one over it."""

_FLOOR = 2.0**-600
"""Added to every variance after every step: more than the products that underflow (2^-1074 each) add up to below the ceiling."""


def channels_prove(nodes: Sequence[NodeLike], boxes: Sequence[Box], steps: Mapping[int, Array]) -> float:
    """The l2 bound that one multiplier per channel proves over the boxes' region.

    For a pair of inputs the amplitudes s of the live signals obey ``sum over frequencies of s* C^-1 s <= |x|^2``, where the covariance C is
    one matrix for each frequency: the identity for the input; ``A C A*`` after linear maps A, summed over the frequencies that a
    stride, or a vector, does not tell apart; and after ``z = c v + w``, with ``sum |w|^2 <= sum |r v|^2`` in each channel of
    multiplier t and ``D = 1 / t > r C_vv r = Q``, ``C + K (D - Q)^-1 K*`` for ``K = C_.v r`` and D for w (Parseval makes one sum over
    positions one over frequencies). The bound is the root of the largest eigenvalue of the output's covariance. Any larger C makes
    a weaker, true statement, so to every matrix a diagonal is added that is above all its rounding errors: where entries are off
    by at most ``e g_i g_j``, that is ``e n g_i^2``.

    Raises:
        ValueError: where the network or the multipliers do not fit, or some ``D - Q`` is not proven positive definite.
    """
    torus = Torus(nodes, boxes, steps)
    output = torus.lay_out()
    turns = _ordered(torus, output)
    spatial = [t for t in turns if t.spatial]
    rest = turns[len(spatial) :]
    if any(t.spatial for t in rest):
        raise ValueError("a field is read after a vector has been restricted")
    coarse = tuple(n // math.lcm(*(s.stride[a] for s in torus.signals if s.stride is not None)) for a, n in enumerate(torus.period))
    state = _State(torus.signals, torus.period, coarse, np.zeros((1, len(coarse))), np.ones(1))
    joint: dict[tuple[int, int], Array] = {}
    for index, weight in _chunks(torus, coarse, spatial):
        part = _State(torus.signals, torus.period, coarse, index, weight)
        channels = torus.signals[0].channels
        part.cov[0, 0] = np.broadcast_to(
            np.eye(channels, dtype=np.complex128), (*part.batch((1,) * len(coarse)), channels, channels)
        ).copy()
        part.follow(spatial, torus.stages)
        for pair, c in part.cov.items():
            joint[pair] = joint[pair] + c if pair in joint else c
    state.cov = joint
    state.widen({b: slack(2 * math.prod(coarse) + 8) * state.spread(b) ** 2 for b in state.live})
    state.follow(rest, torus.stages)
    return _root_above(state.cov[output, output][0, 0])


@dataclass(frozen=True)
class _Turn:
    """Know a signal; take a stage first, where there is one; then forget others."""

    signal: int
    stage: int | None
    forgotten: tuple[int, ...]
    spatial: bool


def _ordered(torus: Torus, output: int) -> list[_Turn]:
    """Fields first; linear signals as soon as they can be had; signals forgotten when nobody reads them any more."""
    signals = torus.signals
    by_z = {s.z: i for i, s in enumerate(torus.stages)}
    reads = {t: [torus.stages[by_z[t]].v] if t in by_z else [s for _, s in signals[t].terms] for t in range(1, len(signals))}
    needed = {output}
    for t in range(output, 0, -1):
        if t in needed:
            needed.update(reads[t])
    waiting, turns = sorted(needed - {0}), list[_Turn]()
    known, live = {0}, {0}
    while waiting:
        able = [t for t in waiting if all(s in known for s in reads[t])]
        if not able:
            raise ValueError("the network's signals have no order")

        def rank(t: int) -> tuple[bool, bool, int, int]:
            spatial = any(signals[s].stride is not None for s in reads[t])
            return not spatial, t in by_z, min(reads[t]) if t not in by_z else t, t

        t = min(able, key=rank)
        waiting.remove(t)
        known.add(t)
        gone = tuple(b for b in live if b != output and not any(b in reads[r] for r in waiting))
        live = (live - {*gone}) | {t}
        stage = by_z.get(t)
        if stage is not None and any(signals[b].stride != signals[reads[t][0]].stride for b in live - {t}):
            raise ValueError("a nonlinearity would correlate frequencies of a field at another resolution")
        turns.append(_Turn(t, stage, gone, not rank(t)[0]))
    return turns


def _chunks(torus: Torus, coarse: tuple[int, ...], turns: Sequence[_Turn]) -> Iterator[tuple[Array, Array]]:
    """Coarse frequencies, one of each conjugate pair, and how many each stands for; a few at a time."""
    grid = np.array(list(itertools.product(*(range(n) for n in coarse))), dtype=np.int64).reshape(-1, len(coarse))
    place = np.array([math.prod(coarse[a + 1 :]) for a in range(len(coarse))])
    own, other = grid @ place, np.mod(-grid, coarse) @ place
    index, weight = grid[own <= other], np.where(own == other, 1.0, 2.0)[own <= other]
    live, most = {0}, 1
    for turn in turns:
        live.add(turn.signal)
        vectors = sum(torus.signals[b].channels for b in live if torus.signals[b].stride is None)
        sizes = {}
        for b in live:
            stride = torus.signals[b].stride
            if stride is not None:
                sizes[stride] = sizes.get(stride, 0) + torus.signals[b].channels
        for stride, channels in sizes.items():
            aliases = math.prod(n // s // c for n, s, c in zip(torus.period, stride, coarse, strict=True))
            most = max(most, aliases * (channels**2 + 2 * channels * vectors))
        live -= {*turn.forgotten}
    if most > _MOST:
        raise ValueError(f"the covariances of one frequency hold more than {_MOST} numbers")
    step = max(1, _ENTRIES // most)
    for i in range(0, len(index), step):
        yield index[i : i + step], weight[i : i + step]


class _State:
    """Covariances of live signals at some frequencies: ``cov[a, b]`` is ``[frequencies, aliases of the finer, channels, channels]``."""

    def __init__(self, signals: Sequence[Signal], period: tuple[int, ...], coarse: tuple[int, ...], index: Array, weight: Array) -> None:
        self.signals, self.period, self.coarse, self.index, self.weight = signals, period, coarse, index, weight
        self.cov: dict[tuple[int, int], Array] = {}

    @property
    def live(self) -> list[int]:
        return sorted({i for pair in self.cov for i in pair})

    def aliases(self, stride: Stride) -> tuple[int, ...]:
        return () if stride is None else tuple(n // s // c for n, s, c in zip(self.period, stride, self.coarse, strict=True))

    def batch(self, stride: Stride) -> tuple[int, int]:
        return (1, 1) if stride is None else (len(self.index), math.prod(self.aliases(stride)))

    def between(self, a: int, b: int) -> Array | None:
        if (a, b) in self.cov:
            return self.cov[a, b]
        return _star(self.cov[b, a]) if (b, a) in self.cov else None

    def spread(self, a: int) -> Array:
        """Root of the diagonal, ``[frequencies, aliases, channels]``: no covariance is above the product of two of these."""
        return np.sqrt(np.maximum(np.real(np.diagonal(self.cov[a, a], axis1=-2, axis2=-1)), 0.0)) * (1 + 2.0**-50)

    def widen(self, by: Mapping[int, Array]) -> None:
        """Add to diagonals, rounded up: so much times the number of all entries that are off."""
        count = sum(c.shape[-1] for c in by.values())
        for b, more in by.items():
            n = more.shape[-1]
            diagonal = self.cov[b, b][..., range(n), range(n)]
            self.cov[b, b][..., range(n), range(n)] = np.real(diagonal) * (1 + 2.0**-50) + count * more * (1 + slack(8)) + _FLOOR

    def follow(self, turns: Sequence[_Turn], stages: Sequence[Stage]) -> None:
        for turn in turns:
            if turn.stage is None:
                self._know(turn.signal)
            else:
                self._take(stages[turn.stage], turn.forgotten)
            for b in self.live:
                if not float(np.abs(np.diagonal(self.cov[b, b], axis1=-2, axis2=-1)).max(initial=0.0)) < _CEILING:
                    raise ValueError("a signal's covariance is too large")
            self.cov = {p: c for p, c in self.cov.items() if p[0] not in turn.forgotten and p[1] not in turn.forgotten}

    # Linear maps.

    def _symbol(self, m: Map, stride: Stride) -> tuple[Array, Array, int]:
        """What a map does to each frequency, off by at most ``slack(terms) most``; most is ``[out, in]``."""
        most = m.most.sum(-1) * (1 + slack(m.most.shape[-1]))
        if stride is None:
            return m.weight.sum(-1)[None, None], most, m.terms + 4
        size = np.array([n // s for n, s in zip(self.period, stride, strict=True)])
        shifts = np.array(list(itertools.product(*(c * np.arange(a) for c, a in zip(self.coarse, self.aliases(stride), strict=True)))))
        index = (self.index[:, None] + shifts.reshape(-1, len(size))).astype(np.int64)
        # Reduced in integers, an angle is off by a few units in the last place of a full turn.
        turns = (np.mod(index[:, :, None] * m.places, size) / size).sum(-1)
        angle = 2 * np.pi * (turns - np.round(turns))
        shrink = 1 / math.sqrt(math.prod(m.step) if m.step is not None else math.prod(size))
        flat = m.weight.reshape(-1, m.weight.shape[-1]).T * shrink
        symbol = np.cos(angle) @ flat + 1j * (np.sin(angle) @ flat)
        return symbol.reshape(*index.shape[:2], *m.weight.shape[:2]), most * shrink * (1 + slack(4)), m.terms + len(m.places) + 128

    def _level(self, x: Array, coarse: Stride, fine: Stride) -> Array:
        """The same at every alias."""
        if coarse == fine or fine is None:
            return x
        if coarse is None:
            return np.broadcast_to(x, (*self.batch(fine), *x.shape[2:]))
        few = self.aliases(coarse)
        times = [a // b for a, b in zip(self.aliases(fine), few, strict=True)]
        x = x.reshape(len(x), *few, *x.shape[2:])
        return np.tile(x, (1, *times, *[1] * (x.ndim - 1 - len(few)))).reshape(len(x), -1, *x.shape[1 + len(few) :])

    def _sum(self, x: Array, fine: Stride, coarse: Stride) -> Array:
        """Summed over what the coarse one does not tell apart; conjugate frequencies add up to twice the real part."""
        if fine == coarse:
            return x
        if coarse is None:
            return np.tensordot(self.weight, np.real(x.sum(1)), 1)[None, None]
        many, few = self.aliases(fine), self.aliases(coarse)
        split = [n for a, b in zip(many, few, strict=True) for n in (a // b, b)]
        x = x.reshape(len(x), *split, *x.shape[2:]).sum(tuple(range(1, 2 * len(many), 2)))
        return x.reshape(len(x), -1, *x.shape[1 + len(few) :])

    def _know(self, t: int) -> None:
        own, terms = self.signals[t].stride, self.signals[t].terms
        at = self.signals[terms[0][1]].stride
        if any(self.signals[s].stride != at for _, s in terms):
            raise ValueError("fields of several resolutions are added")
        symbols = [(*self._symbol(m, at), s) for m, s in terms]
        if not all(float(most.max(initial=0.0)) < _CEILING for _, most, _, _ in symbols):
            raise ValueError("weights are too large")
        halves: dict[int, Array] = {}
        for b in self.live:
            level = _finer(at, self.signals[b].stride)
            for a, _, _, s in symbols:
                c = self.between(s, b)
                if c is not None:
                    part = self._level(a, at, level) @ c
                    halves[b] = halves[b] + part if b in halves else part
        total = np.sum([self._sum(halves[s] @ _star(a), at, own) for a, _, _, s in symbols], 0)
        inner = sum(m.shape[1] for _, m, _, _ in symbols)
        reach = np.sum([(self.spread(s)[..., None, :] @ most.T)[..., 0, :] for _, most, _, s in symbols], 0) * (1 + slack(2 * inner))
        for b, half in halves.items():
            stride = self.signals[b].stride
            self.cov[t, b] = self._sum(half, _finer(at, stride), _finer(own, stride))
        self.cov[t, t] = (total + _star(total)) / 2
        folds = math.prod(self.period)
        off = slack(2 * max(n for _, _, n, _ in symbols) + 8 * inner + 4 * len(symbols) + 2 * folds + 16)
        # In each pair with another signal half of its error falls to either, counted by its own channels.
        for b in [*halves, t]:
            n = self.signals[b].channels
            size = self._sum(reach**2, at, own) * (1 + slack(folds)) * (1 + len(halves)) if b == t else self.spread(b) ** 2
            diagonal = self.cov[b, b][..., range(n), range(n)]
            self.cov[b, b][..., range(n), range(n)] = np.real(diagonal) * (1 + 2.0**-50) + off * n * size * (1 + slack(8)) + _FLOOR

    # Nonlinearities.

    def _take(self, stage: Stage, forgotten: Sequence[int]) -> None:
        v, n = stage.v, len(stage.radius)
        if not all(((1 / _CEILING < t) & (t < _CEILING)).all() for t in (stage.t_v, stage.t_z)) or not float(stage.radius.max()) < _CEILING:
            raise ValueError("multipliers or slopes are too large or too small")
        root = np.sqrt(1 / stage.t_v)
        lean = stage.middle / stage.radius
        scale = stage.radius / root
        p = scale[:, None] * self.cov[v, v] * scale
        p = (p + _star(p)) / 2
        inverse = _inverse_above(p)
        kept = [b for b in self.live if b not in forgotten]
        crosses = {b: c * scale for b in kept if (c := self.between(b, v)) is not None}
        peak = np.sqrt(np.real(np.diagonal(inverse, axis1=-2, axis2=-1))) * (1 + 2.0**-50)
        spreads = {b: self.spread(b) for b in kept}
        moved = {b: k @ inverse for b, k in crosses.items()}
        for i, a in enumerate(crosses):
            for b in list(crosses)[: i + 1]:
                change, old = moved[a] @ _star(crosses[b]), self.between(a, b)
                if (b, a) in self.cov and a != b:
                    self.cov[b, a] = self.cov[b, a] + _star(change)
                else:
                    self.cov[a, b] = change if old is None else old + change
        off = slack(2 * 4 * n + 64)
        errors = {b: off * ((np.abs(k) @ peak[..., None])[..., 0] * (1 + slack(n)) + spreads[b]) ** 2 for b, k in crosses.items()}
        z, root_z = stage.z, np.sqrt(1 / stage.t_z)
        complex_too = self.signals[z].stride is not None
        if stage.together or not lean.any():
            diagonal = np.diag(root_z**2).astype(np.complex128 if complex_too else np.float64)
            self.cov[z, z] = np.broadcast_to(diagonal, (*self.batch(self.signals[z].stride), *diagonal.shape)).copy()
            errors[z] = np.broadcast_to(off * root_z**2, (*self.batch(self.signals[z].stride), len(root_z)))
        else:
            tilt = root_z * lean
            own = tilt[:, None] * inverse * tilt
            own[..., range(n), range(n)] += root_z**2 - tilt**2
            self.cov[z, z] = own
            for b, m in moved.items():
                self.cov[z, b] = tilt[:, None] * _star(m)
            errors[z] = off * (root_z * (np.abs(lean) * (peak + 1) + 1)) ** 2
        for b in errors:
            self.cov[b, b] = (self.cov[b, b] + _star(self.cov[b, b])) / 2
        self.widen(errors)


def _finer(a: Stride, b: Stride) -> Stride:
    if a is None or b is None:
        return a if b is None else b
    if any(p % q for p, q in zip(a, b, strict=True)) and any(q % p for p, q in zip(a, b, strict=True)):
        raise ValueError("fields of resolutions that do not divide one another are live together")
    return a if math.prod(a) <= math.prod(b) else b


def _star(x: Array) -> Array:
    return np.conj(x.swapaxes(-1, -2))


def _norms(x: Array) -> Array:
    """Frobenius norms of a batch, rounded up."""
    return np.sqrt((np.abs(x) ** 2).sum((-2, -1))) * (1 + slack(2 * x.shape[-1] ** 2))


def _inverse_above(p: Array) -> Array:
    """Matrices that are above ``(I - P)^-1`` for every P whose entries are within a few roundings of the given ones.

    With ``I - P >= m I`` proven, an approximate inverse R is off by at most ``|I - (I - P) R| / m``, which is added to its diagonal.

    Raises:
        ValueError: where ``I - P`` is not proven positive definite.
    """
    n = p.shape[-1]
    x = np.ones((*p.shape[:-1], 1), dtype=p.dtype)
    for _ in range(12):
        x = p @ x
        x = x / (np.sqrt((np.abs(x) ** 2).sum((-2, -1), keepdims=True)) + 1e-300)
    top = float(np.sqrt((np.abs(p @ x) ** 2).sum((-2, -1))).max())
    margin = (1 - top) / 2
    # P's diagonal is below one, its entries below the products of their roots.
    rounding = slack(16) * n
    while not (margin > 0 and definite((1 - margin) * np.eye(n) - p, rounding)):
        margin /= 4
        if not margin > 1e-9:
            raise ValueError("the multipliers of a nonlinearity are too large for what it reads")
    inner = np.eye(n) - p
    inverse = np.linalg.inv(inner)
    inverse = (inverse + _star(inverse)) / 2
    size = _norms(inverse)
    left = _norms(np.eye(n) - inner @ inverse) + slack(4 * n + 16) * _norms(inner) * size + rounding * size
    inverse[..., range(n), range(n)] += (left * (1 + slack(8)) / margin)[..., None]
    return inverse


def _root_above(matrix: Array) -> float:
    """Upper bound of the root of the largest eigenvalue of a symmetric matrix."""
    matrix = (matrix + matrix.T) / 2
    if not np.isfinite(matrix).all():
        return math.inf
    unit = 2.0 ** math.floor(math.log2(max(float(np.abs(matrix).max(initial=0.0)), 2.0**-900)))
    scaled = matrix / unit
    top = max(float(np.linalg.eigvalsh(scaled)[-1]), 0.0)
    for more in (1e-12, 1e-10, 1e-8, 1e-6, 1e-3):
        tau = top * (1 + more) + more * 2.0**-20
        if definite(tau * np.eye(len(scaled)) - scaled, slack(4) * (tau + float(np.abs(scaled).sum()))):
            return math.sqrt(tau * unit) * (1 + slack(4))
    return math.inf
