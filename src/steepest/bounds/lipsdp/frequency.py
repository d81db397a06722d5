"""Covariance propagation on a torus: a matrix per frequency, one multiplier per channel, with its gradient by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.bounds.lipsdp.propagation import Infeasible, OutOfTime
from steepest.numerics.deadline import Deadline
from steepest.ops.lure import Stage
from steepest.ops.torus import TorusSystem, Unfit
from steepest.ops.torus_maps import Stride

Covariances = dict[tuple[int, int], Tensor]
"""Of pairs of live signals, ``[R, aliases of the finer one, channels, channels]``; absent where zero."""


@dataclass(frozen=True)
class Turn:
    """One thing to do: know a signal by its terms, or take a stage; then forget what nobody reads any more.

    Args:
        signal: to know, or
        stage: to take, or -1.
        forgotten: signals.
    """

    signal: int
    stage: int
    forgotten: tuple[int, ...]


def schedule(system: TorusSystem) -> list[Turn]:
    """Linear signals as soon as what they read is known, so that skip branches are at the resolution at which they are used.

    Raises:
        Unfit: where a stage meets live signals of another resolution, which it would correlate across frequencies.
    """
    readers: dict[int, set[int]] = {}
    needed, todo = {system.output}, [system.output]
    stage_of = {s.z: k for k, s in enumerate(system.stages)}
    while todo:
        t = todo.pop()
        reads = [system.stages[stage_of[t]].v] if t in stage_of else [s for _, s in system.signals[t].terms]
        for s in reads:
            readers.setdefault(s, set()).add(t)
            if s not in needed:
                needed.add(s)
                todo.append(s)
    known, live, turns = {0}, {0}, list[Turn]()
    waiting = sorted(needed - {0})
    while waiting:
        ready = [t for t in waiting if t not in stage_of and all(s in known for _, s in system.signals[t].terms)]
        if ready:
            # Those that read what is known longest first: it may be the finest.
            t = min(ready, key=lambda t: (min(s for _, s in system.signals[t].terms), t))
            stage = -1
        else:
            t = next(t for t in waiting if t in stage_of and system.stages[stage_of[t]].v in known)
            stage = stage_of[t]
        waiting.remove(t)
        known.add(t)
        gone = tuple(b for b in live if b != system.output and not any(r in waiting for r in readers.get(b, ())))
        live = (live - {*gone}) | {t}
        if stage >= 0:
            own = system.signals[system.stages[stage].v].stride
            if any(system.signals[b].stride != own for b in live - {t}):
                raise Unfit("a skip branch stays at another resolution than a nonlinearity beside it")
        turns.append(Turn(t, stage, gone))
    return turns


def finer(a: Stride, b: Stride) -> Stride:
    """The stride of the finer of two fields; a vector is coarser than any."""
    if a is None or b is None:
        return b if a is None else a
    if any(p % q for p, q in zip(a, b, strict=True)) and any(q % p for p, q in zip(a, b, strict=True)):
        raise Unfit("fields of resolutions that do not divide one another are live together")
    return a if math.prod(a) <= math.prod(b) else b


@dataclass(frozen=True, eq=False)
class _Record:
    """What going back needs of a turn."""

    turn: Turn
    d: Tensor | None = None
    ratio: float | None = None
    top: float = 1.0
    where: int = 0
    row: Tensor | None = None
    inverse: Tensor | None = None
    crosses: Mapping[int, Tensor] = field(default_factory=dict)


class TorusPropagation:
    """One pass forwards gives rho, one backwards its gradient, as ``Propagation`` does without a torus.

    Args:
        system: the network.
        dtype: float32 for speed, where the last value is taken in float64.
        entries: most numbers that symbols of maps are kept with; beyond, they are made anew each time.

    Raises:
        Unfit: see ``schedule``.
    """

    def __init__(self, system: TorusSystem, dtype: torch.dtype = torch.float64, entries: int = 2**28) -> None:
        self.system, self.dtype = system, dtype
        self.complex = torch.complex64 if dtype == torch.float32 else torch.complex128
        self.turns = schedule(system)
        self.frequencies = system.frequencies
        self.strides = [s.stride for s in system.signals]
        self.tops: dict[int, Tensor] = {}
        self._symbols: dict[tuple[int, int], Tensor] = {}
        self._room = entries

    def _symbol(self, t: int, i: int) -> Tensor:
        """Of the i-th term of a signal, at the frequencies of what it reads."""
        found = self._symbols.get((t, i))
        if found is None:
            m, s = self.system.signals[t].terms[i]
            found = m.symbol(self.frequencies, self.strides[s])
            found = found.to(self.complex if found.is_complex() else self.dtype)
            if found.numel() <= self._room:
                self._room -= found.numel()
                self._symbols[t, i] = found
        return found

    # Forwards.

    def run(
        self, log_d: Sequence[Tensor], ratios: Sequence[float] | None, deadline: Deadline | None = None, trace: bool = True
    ) -> tuple[Tensor, list[Tensor], list[_Record]]:
        """One pass; see ``Propagation.run``.

        Raises:
            OutOfTime, Infeasible
        """
        n = self.system.signals[0].channels
        cov: Covariances = {(0, 0): torch.eye(n, dtype=self.complex).expand(*self._batch(self.strides[0]), n, n)}
        found: dict[int, Tensor] = {}
        records: list[_Record] = []
        for turn in self.turns:
            if deadline is not None and deadline.passed():
                raise OutOfTime
            if turn.stage < 0:
                self._linear(turn.signal, cov)
                records.append(_Record(turn))
            else:
                k = turn.stage
                e = torch.exp(log_d[k]).to(self.dtype)
                record = self._stage(turn, self.system.stages[k], cov, e, None if ratios is None else ratios[k], trace)
                assert record.d is not None
                found[k] = record.d
                records.append(record)
            for key in [key for key in cov if key[0] in turn.forgotten or key[1] in turn.forgotten]:
                del cov[key]
        out = cov[self.system.output, self.system.output][0, 0]
        if not torch.isfinite(out).all():
            raise Infeasible
        return out.double(), [found[k] for k in range(len(found))], records

    def _batch(self, stride: Stride) -> tuple[int, int]:
        return (1, 1) if stride is None else (len(self.frequencies.weight), math.prod(self.frequencies.aliases(stride)))

    def _linear(self, t: int, cov: Covariances) -> None:
        terms, own = self.system.signals[t].terms, self.strides[t]
        live = sorted({i for pair in cov for i in pair})
        at = self.strides[terms[0][1]]
        halves: dict[int, Tensor] = {}
        for b in live:
            level = finer(at, self.strides[b])
            for i, (_, s) in enumerate(terms):
                c = _get(cov, s, b)
                if c is not None:
                    part = _times(self._spread(self._symbol(t, i), at, level), c)
                    halves[b] = halves[b] + part if b in halves else part
        total = None
        for i, (_, s) in enumerate(terms):
            if s in halves:
                part = self.frequencies.fold(_times_star(halves[s], self._symbol(t, i)), at, own)
                total = part if total is None else total + part
        assert total is not None
        for b, half in halves.items():
            cov[t, b] = self.frequencies.fold(half, finer(at, self.strides[b]), finer(own, self.strides[b]))
        cov[t, t] = 0.5 * (total + total.mH)

    def _stage(self, turn: Turn, stage: Stage, cov: Covariances, e: Tensor, ratio: float | None, trace: bool) -> _Record:
        k, v, z = turn.stage, stage.v, stage.z
        radius, lean = stage.radius.to(self.dtype), (stage.middle / stage.radius).to(self.dtype)
        v_of, z_of = stage.v_of - stage.first, stage.z_of - stage.first
        q = radius[:, None] * cov[v, v] * radius
        root = e[v_of].rsqrt()
        scaled = root[:, None] * q * root
        top, where, vector = 1.0, 0, None
        factor = None
        for steps in (12, 100):
            if ratio is not None:
                top, where, vector = self._top(k, scaled, steps)
                d = (1.0 + ratio) * top * e
            else:
                d = e
            inner = -q
            inner.diagonal(dim1=-2, dim2=-1).add_(d[v_of])
            factor, info = torch.linalg.cholesky_ex(inner)
            if not info.any():
                break
            if ratio is None or steps == 100:
                raise Infeasible
        del inner, scaled
        assert factor is not None
        inverse = torch.cholesky_inverse(factor)
        del factor
        kept = [b for b in sorted({i for pair in cov for i in pair}) if b not in turn.forgotten]
        crosses = {b: radius[:, None] * c for b in kept if (c := _get(cov, v, b)) is not None}
        moved = {b: inverse @ c for b, c in crosses.items()}
        for i, a in enumerate(moved):
            for b in list(moved)[: i + 1]:
                change, old = crosses[a].mH @ moved[b], _get(cov, a, b)
                _put(cov, a, b, change if old is None else old + change)
        dz = d[z_of]
        if stage.tied or not lean.any():
            cov[z, z] = (
                torch.diag(dz)
                .to(self.dtype if self.strides[z] is None else self.complex)
                .expand(*self._batch(self.strides[z]), len(dz), len(dz))
            )
        else:
            full = (dz * lean)[:, None] * inverse * (dz * lean)
            full.diagonal(dim1=-2, dim2=-1).add_(dz - dz * lean.square())
            cov[z, z] = full
            for b, m in moved.items():
                cov[z, b] = (dz * lean)[:, None] * m
        row = None if vector is None else (vector.conj() * root * radius)
        return _Record(turn, d, ratio, top, where, row, inverse if trace else None, crosses if trace else {})

    def _top(self, k: int, matrices: Tensor, steps: int) -> tuple[float, int, Tensor]:
        """Largest eigenvalue over all frequencies, which one, and its vector, by power iteration from where it was last."""
        v = self.tops.get(k)
        if v is None:
            generator = torch.Generator("cpu").manual_seed(k)
            v = torch.randn(*matrices.shape[:-1], 1, generator=generator, dtype=torch.float64, device="cpu").to(matrices)
            steps = max(steps, 40)
        size = v.new_zeros(1).real
        for _ in range(steps):
            moved = matrices @ v
            size = torch.linalg.vector_norm(moved, dim=-2, keepdim=True)
            v = moved / (size + 1e-30)
        self.tops[k] = v
        where = int(size.flatten().argmax())
        top = size.flatten()[where].item()
        if not 1e-30 < top < math.inf:
            raise Infeasible
        return top, where, v.flatten(0, 1)[where, :, 0]

    def _spread(self, symbol: Tensor, coarse: Stride, fine: Stride) -> Tensor:
        return symbol if symbol.ndim == 3 else self.frequencies.spread(symbol, coarse, fine)

    # Backwards.

    def gradient(self, records: list[_Record], directions: Tensor, weights: Tensor) -> tuple[list[Tensor], list[float]]:
        """Derivatives of ``sum_k weights_k directions_k' Cov(output) directions_k`` by log_d and ratios; see ``Propagation.gradient``."""
        every = _Beam(None, {self.system.output: directions.to(self.dtype)[None, None]}, weights.to(self.dtype))
        # Eigenvectors that D was scaled by live at one coarse frequency each.
        single = _Beam(torch.zeros(0, dtype=torch.int64), {}, torch.zeros(0, dtype=self.dtype))
        logs: dict[int, Tensor] = {}
        ratios: dict[int, float] = {}
        for record in reversed(records):
            t = record.turn.signal
            if record.turn.stage < 0:
                for beam in (every, single):
                    self._pull(beam, t)
                continue
            self._pull_stage(record, every, single, logs, ratios)
        zero = [torch.zeros(s.last - s.first, dtype=torch.float64) for s in self.system.stages]
        return [logs.get(k, z) for k, z in enumerate(zero)], [ratios.get(k, 0.0) for k in range(len(zero))]

    def _pull(self, beam: _Beam, t: int) -> None:
        rows = beam.rows.pop(t, None)
        if rows is None:
            return
        for i, (_, s) in enumerate(self.system.signals[t].terms):
            symbol = self._symbol(t, i)
            rows_s = self.frequencies.spread(rows, self.strides[t], self.strides[s])
            part = rows_s * symbol[:, :, None] if symbol.ndim == 3 else _times(rows_s, beam.at(symbol))
            beam.rows[s] = beam.rows[s] + part if s in beam.rows else part

    def _pull_stage(self, record: _Record, every: _Beam, single: _Beam, logs: dict[int, Tensor], ratios: dict[int, float]) -> None:
        k = record.turn.stage
        stage = self.system.stages[k]
        assert record.d is not None and record.inverse is not None
        radius, lean = stage.radius.to(self.dtype), (stage.middle / stage.radius).to(self.dtype)
        v_of, z_of = stage.v_of - stage.first, stage.z_of - stage.first
        d = record.d[v_of]
        loose = stage.tied or not lean.any()
        by_d = torch.zeros(len(record.d), dtype=self.dtype)
        for beam in (every, single):
            if not beam.rows:
                continue
            at_z = beam.rows.pop(stage.z, None)
            inner = None if at_z is None or loose else d * lean * at_z
            for b, c in record.crosses.items():
                if b in beam.rows:
                    part = beam.rows[b] @ beam.at(c).mH
                    inner = part if inner is None else inner + part
            if at_z is not None:
                by_d.index_add_(0, z_of, self._sum(beam, at_z, self.strides[stage.z]))
            if inner is None:
                continue
            both = inner @ beam.at(record.inverse)
            h = both if at_z is None or loose else both - lean * at_z
            by_d.index_add_(0, v_of, -self._sum(beam, h, self.strides[stage.v]))
            part = both * radius
            beam.rows[stage.v] = beam.rows[stage.v] + part if stage.v in beam.rows else part
        by_log = by_d * record.d
        if record.ratio is not None:
            whole = by_log.sum()
            assert record.row is not None
            # root radius v is the row; its share in the eigenvalue is the vector's own square.
            share = torch.zeros(len(record.d), dtype=self.dtype)
            share.index_add_(0, v_of, (record.row.abs() / radius).square() * (record.d[v_of] / ((1.0 + record.ratio) * record.top)))
            by_log = by_log - whole * share
            ratios[k] = (whole / (1.0 + record.ratio)).item()
            weight = (whole / record.top)[None]
            if self.strides[stage.v] is None:
                every.append(stage.v, record.row[None, None, None], weight)
            else:
                aliases = self._batch(self.strides[stage.v])[1]
                rows = torch.zeros(1, aliases, 1, len(record.row), dtype=self.complex)
                rows[0, record.where % aliases, 0] = record.row
                single.add(stage.v, rows, weight, record.where // aliases)
        logs[k] = by_log.double()

    def _sum(self, beam: _Beam, rows: Tensor, stride: Stride) -> Tensor:
        """Squares over all directions and frequencies."""
        squares = rows.abs().square()
        if beam.index is not None:
            return torch.tensordot(beam.weights, squares.sum((1, 2)), 1)
        shares = beam.weights if stride is None else self.frequencies.weight.to(self.dtype)[:, None, None] * beam.weights
        return (shares.expand(squares.shape[:-1])[..., None] * squares).sum((0, 1, 2))


class _Beam:
    """Directions on their way back, per signal ``[R, aliases, count, channels]``.

    Args:
        index: the coarse frequency of each, where every one lives at one alone; then ``[count, aliases, 1, channels]``.
        rows: per signal.
        weights: of the directions.
    """

    def __init__(self, index: Tensor | None, rows: dict[int, Tensor], weights: Tensor) -> None:
        self.index, self.rows, self.weights = index, rows, weights

    def at(self, matrices: Tensor) -> Tensor:
        """The matrices that its directions meet."""
        return matrices if self.index is None else matrices[self.index]

    def append(self, signal: int, rows: Tensor, weight: Tensor) -> None:
        """One more direction among vectors."""
        self.weights = torch.cat([self.weights, weight])
        self.rows.setdefault(signal, rows.new_zeros(1, 1, len(self.weights) - 1, rows.shape[-1]))
        for s, old in self.rows.items():
            self.rows[s] = torch.cat([old, rows if s == signal else old.new_zeros(1, 1, 1, old.shape[-1])], 2)

    def add(self, signal: int, rows: Tensor, weight: Tensor, where: int) -> None:
        """One more direction at a coarse frequency."""
        assert self.index is not None
        self.rows.setdefault(signal, rows.new_zeros(len(self.weights), *rows.shape[1:]))
        self.weights, self.index = torch.cat([self.weights, weight]), torch.cat([self.index, torch.tensor([where])])
        for s, old in self.rows.items():
            self.rows[s] = torch.cat([old, rows if s == signal else old.new_zeros(1, *old.shape[1:])])


def _times_star(a: Tensor, symbol: Tensor) -> Tensor:
    """``A S*`` for a symbol S, which may be a diagonal."""
    return a * symbol[:, :, None] if symbol.ndim == 3 else _times(a, symbol.mH)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """A product of batches of matrices, one of which may be real, the first a diagonal."""
    if a.ndim == 3:
        return a[..., None] * b
    if a.is_complex() != b.is_complex():
        a, b = (x if x.is_complex() else x.to((b if b.is_complex() else a).dtype) for x in (a, b))
    return a @ b


def _get(cov: Covariances, a: int, b: int) -> Tensor | None:
    if (a, b) in cov:
        return cov[a, b]
    return cov[b, a].mH if (b, a) in cov else None


def _put(cov: Covariances, a: int, b: int, value: Tensor) -> None:
    if (b, a) in cov and a != b:
        cov[b, a] = value.mH
    else:
        cov[a, b] = value
