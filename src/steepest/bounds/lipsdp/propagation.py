"""Covariance propagation: the multipliers' last Schur complement, signal by signal, with its gradient by hand.

With ``Cov(x) = I`` and multipliers ``1 / D``, a stage that reads v, ``u = radius v``, ``Q = Cov(u)``, needs ``D > Q``. It adds
``K (D - Q)^-1 K'`` to every covariance (``K = Cov(., u)``), and its ``w = z - middle v`` joins with covariance D, correlated with
nothing; ``rho = lambda_max(Cov(output))`` then is feasible for LipSDP with multipliers ``rho / D``. Any ``D > Q`` will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.bounds.lipsdp.plan import Known, Narrow, Wide, plan
from steepest.numerics.deadline import Deadline
from steepest.ops.lure import LureSystem, Stage
from steepest.ops.signals import Flow, unit_rows


class OutOfTime(Exception):
    """The deadline passed in the middle of a pass."""


class Infeasible(Exception):
    """A stage's ``D - Q`` is not positive definite, or a number is not finite."""


class Propagation:
    """One pass forwards gives rho, one backwards its gradient; the cost is that of factoring each stage's Q.

    Args:
        system: the network.
        dtype: float32 for speed, where the last value is proven in float64 elsewhere.
        chunk: rows that go through a map at once.
    """

    def __init__(self, system: LureSystem, dtype: torch.dtype = torch.float64, chunk: int = 1024) -> None:
        self.system, self.dtype, self.chunk = system, dtype, chunk
        self.plan = plan(system)
        self.flow = Flow(self.plan.signals)
        self.stages = [_Restriction(s, dtype) for s in system.stages]
        self.tops: dict[int, Tensor] = {}

    # Linear maps between members of the basis.

    def _image(self, target: int, source: int, basis: frozenset[int], rows: Tensor) -> Tensor:
        if len(rows) <= self.chunk:
            return self.flow.image(target, source, basis, rows)
        return torch.cat([self.flow.image(target, source, basis, part) for part in rows.split(self.chunk)])

    def _sandwich(self, target: int, other: int, source: int, basis: frozenset[int], diagonal: Tensor) -> Tensor:
        """``A diag(d) B'`` for the maps from an independent source."""
        size = self.plan.signals[target].size
        parts = []
        for k in range(0, size, self.chunk):
            eye = unit_rows(size, k, self.chunk, self.dtype)
            back = self.flow.pullback(target, basis, eye, source)[source]
            parts.append(self.flow.image(other, source, basis, back * diagonal))
        return torch.cat(parts)

    def _gram(self, stage: _Restriction, source: int, basis: frozenset[int], weight: Tensor) -> Tensor:
        """``A' diag(weight) A`` for the map from the source to the stage's v."""
        size = self.plan.signals[source].size
        parts = []
        for k in range(0, size, self.chunk):
            eye = unit_rows(size, k, self.chunk, self.dtype)
            there = self.flow.image(stage.v, source, basis, eye) * weight
            parts.append(self.flow.pullback(stage.v, basis, there, source)[source])
        return torch.cat(parts)

    # Forwards.

    def run(
        self, log_d: Sequence[Tensor], ratios: Sequence[float] | None, deadline: Deadline | None = None, trace: bool = True
    ) -> tuple[Tensor, list[Tensor], list[_Record]]:
        """One pass.

        Args:
            log_d: of every stage, one per multiplier.
            ratios: of every stage: ``D = (1 + ratio) lambda_max(e^-1/2 Q e^-1/2) e`` with ``e = exp log_d``; None: ``D = e``.
            deadline: looked at between steps.
            trace: keep what ``gradient`` needs.

        Returns:
            The output's covariance, D of every stage, and the records.

        Raises:
            OutOfTime, Infeasible
        """
        n = self.plan.signals[0].size
        cov: dict[tuple[int, int], Tensor] = {}
        loose: dict[int, Tensor] = {0: torch.ones(n, dtype=self.dtype)}
        basis: tuple[int, ...] = (0,)
        found: list[Tensor] = []
        records: list[_Record] = []
        for step in self.plan.steps:
            if deadline is not None and deadline.passed():
                raise OutOfTime
            cut = frozenset(basis)
            if isinstance(step, Known):
                cov, loose = self._known(step, cov, loose, cut)
                basis = (*step.kept, *step.new)
                records.append(_Record(step, cut, torch.zeros(0)))
                continue
            stage = self.stages[step.stage]
            e = torch.exp(log_d[step.stage]).to(self.dtype)
            if isinstance(step, Narrow):
                record = self._narrow(step, stage, cov, loose, cut, e, None if ratios is None else ratios[step.stage], trace)
                basis = (*step.kept, stage.z)
            else:
                record = self._wide(step, stage, cov, loose, cut, e, None if ratios is None else ratios[step.stage], trace)
                basis = (*basis, step.w)
            found.append(record.d)
            records.append(record)
        out = _get(cov, loose, self.system.output, self.system.output)
        assert out is not None
        if not torch.isfinite(out).all():
            raise Infeasible
        return out.double(), found, records

    def _known(
        self, step: Known, cov: dict[tuple[int, int], Tensor], loose: dict[int, Tensor], cut: frozenset[int]
    ) -> tuple[dict[tuple[int, int], Tensor], dict[int, Tensor]]:
        fresh: dict[tuple[int, int], Tensor] = {}
        for i, t in enumerate(step.new):
            halves: dict[int, Tensor] = {}
            sources = self.flow.sources(t, cut)
            for b in step.old:
                for s in sources:
                    c = _get(cov, loose, b, s) if b not in loose or b != s else None
                    if c is not None:
                        part = self._image(t, s, cut, c)
                        halves[b] = halves[b] + part if b in halves else part
                    elif b == s and b in loose and b in step.kept:
                        halves[b] = self._image(t, s, cut, torch.diag(loose[b]))
            for b in step.kept:
                if b in halves:
                    fresh[b, t] = halves[b]
            for other in step.new[: i + 1]:
                total: Tensor | None = None
                for s in self.flow.sources(other, cut):
                    if s in loose and s in sources:
                        part = self._sandwich(t, other, s, cut, loose[s])
                    elif s in halves and s not in loose:
                        part = self._image(other, s, cut, halves[s].mT.contiguous())
                    else:
                        continue
                    total = part if total is None else total + part
                if total is not None:
                    fresh[t, other] = 0.5 * (total + total.mT) if other == t else total
        for (a, b), c in cov.items():
            if a in step.kept and b in step.kept:
                fresh[a, b] = c
        return fresh, {k: d for k, d in loose.items() if k in step.kept}

    def _feasible(
        self,
        k: int,
        e: Tensor,
        ratio: float | None,
        root: Tensor,
        times: Callable[[Tensor], Tensor],
        slack: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, float, Tensor | None, Tensor]:
        """D, the eigenvalue and its vector it was scaled by, and the Cholesky factor of ``slack(D)``.

        Where the eigenvalue was found too small for the ratio, it is looked for longer.
        """
        for steps in (12, 100):
            top, vector = self._top(k, len(root), times, root, steps)
            d = e if ratio is None else (1.0 + ratio) * top * e
            factor, info = torch.linalg.cholesky_ex(slack(d))
            if info.item() == 0:
                return d, top, vector, factor
            if ratio is None:
                break
        raise Infeasible

    def _top(self, k: int, size: int, times: Callable[[Tensor], Tensor], root: Tensor, steps: int) -> tuple[float, Tensor]:
        """Largest eigenvalue of ``root Q root`` and its vector, by power iteration from where it was last."""
        v = self.tops.get(k)
        if v is None or len(v) != size:
            v = torch.randn(size, generator=torch.Generator("cpu").manual_seed(k), dtype=torch.float64, device="cpu").to(root)
            v, steps = v / torch.linalg.vector_norm(v), max(steps, 40)
        value = 0.0
        for _ in range(steps):
            moved = root * times(root * v)
            value = torch.linalg.vector_norm(moved).item()
            if not value > 1e-30:
                return 1.0, torch.zeros_like(v)
            v = moved / value
        self.tops[k] = v
        return value, v

    def _narrow(
        self,
        step: Narrow,
        stage: _Restriction,
        cov: dict[tuple[int, int], Tensor],
        loose: dict[int, Tensor],
        cut: frozenset[int],
        e: Tensor,
        ratio: float | None,
        trace: bool,
    ) -> _Record:
        own = _get(cov, loose, stage.v, stage.v)
        assert own is not None
        q = stage.radius[:, None] * own * stage.radius
        root = e[stage.v_of].rsqrt()

        def slack(d: Tensor) -> Tensor:
            inner = -q
            inner.diagonal().add_(d[stage.v_of])
            return inner

        d, top, vector, factor = self._feasible(step.stage, e, ratio, root, lambda x: q @ x, slack)
        crosses = {o: c * stage.radius[:, None] for o in step.kept if (c := _get(cov, loose, stage.v, o)) is not None}
        inverse = torch.cholesky_inverse(factor)
        record = _Record(step, cut, d, ratio, top, vector, root, inverse if trace else None, crosses if trace else {})
        moved = {o: inverse @ k for o, k in crosses.items()}
        for a in moved:
            if a in loose:
                cov[a, a] = torch.diag(loose.pop(a))
        names = list(moved)
        for i, a in enumerate(names):
            for b in names[: i + 1]:
                old = _get(cov, loose, a, b)
                change = crosses[a].mT @ moved[b]
                _put(cov, a, b, change if old is None else old + change)
        if stage.tied:
            loose[stage.z] = d[stage.z_of]
        else:
            dz = d[stage.z_of]
            inverse = inverse if not trace else inverse.clone()
            inverse.mul_(dz[:, None] * stage.lean[:, None]).mul_(dz * stage.lean)
            inverse.diagonal().add_(dz - dz * stage.lean.square())
            cov[stage.z, stage.z] = inverse
            for o, m in moved.items():
                cov[stage.z, o] = (dz * stage.lean)[:, None] * m
        for key in [key for key in cov if stage.v in key and stage.v not in step.kept]:
            del cov[key]
        return record

    def _wide(
        self,
        step: Wide,
        stage: _Restriction,
        cov: dict[tuple[int, int], Tensor],
        loose: dict[int, Tensor],
        cut: frozenset[int],
        e: Tensor,
        ratio: float | None,
        trace: bool,
    ) -> _Record:
        b = step.source
        unit = b in loose
        before = torch.diag(loose.pop(b)) if unit else cov[b, b]
        root = e[stage.v_of].rsqrt()

        def times(x: Tensor) -> Tensor:
            back = self.flow.pullback(stage.v, cut, (stage.radius * x)[None], b)[b]
            return stage.radius * self.flow.image(stage.v, b, cut, back @ before)[0]

        lower = None if unit else torch.linalg.cholesky_ex(before)[0]
        gram = torch.zeros(0)

        def slack(d: Tensor) -> Tensor:
            nonlocal gram
            gram = self._gram(stage, b, cut, stage.radius.square() / d[stage.v_of])
            inner = gram if lower is None else lower.mT @ gram @ lower
            inner = -0.5 * (inner + inner.mT)
            inner.diagonal().add_(1.0)
            return inner

        d, top, vector, factor = self._feasible(step.stage, e, ratio, root, times, slack)
        after = torch.cholesky_inverse(factor)
        after = after if lower is None else lower @ after @ lower.mT
        crosses = {o: c for o in step.kept if (c := _get(cov, loose, b, o)) is not None}
        if crosses:
            lift = gram + gram @ after @ gram
            for i, o in enumerate(crosses):
                for p in list(crosses)[: i + 1]:
                    old = _get(cov, loose, o, p)
                    assert old is not None
                    _put(cov, o, p, old + crosses[o].mT @ lift @ crosses[p])
            for o, c in crosses.items():
                _put(cov, b, o, c + before @ lift @ c)
        cov[b, b] = after
        loose[step.w] = d[stage.z_of]
        return _Record(
            step, cut, d, ratio, top, vector, root, after if trace else None, crosses if trace else {}, before if trace else None
        )

    # Backwards.

    def gradient(self, records: list[_Record], directions: Tensor, weights: Tensor) -> tuple[list[Tensor], list[float]]:
        """Derivatives of ``sum_k weights_k directions_k' Cov(output) directions_k`` by log_d and ratios.

        Args:
            records: of ``run``.
            directions: ``[count, outputs]``.
            weights: ``[count]``.
        """
        pulled: dict[int, Tensor] = {self.system.output: directions.to(self.dtype)}
        weights = weights.to(self.dtype)
        logs: dict[int, Tensor] = {}
        ratios: dict[int, float] = {}
        for record in reversed(records):
            step = record.step
            if isinstance(step, Known):
                for t in step.new:
                    if t in pulled:
                        for s, part in self.flow.pullback(t, record.cut, pulled.pop(t)).items():
                            pulled[s] = pulled[s] + part if s in pulled else part
                continue
            stage = self.stages[step.stage]
            inverse = record.inverse
            assert inverse is not None
            d = record.d[stage.v_of]
            if isinstance(step, Narrow):
                at_z = pulled.pop(stage.z, None)
                inner = torch.zeros(len(weights), len(d), dtype=self.dtype)
                for o, k in record.crosses.items():
                    if o in pulled:
                        inner = inner + pulled[o] @ k.mT
                at_u = torch.zeros((), dtype=self.dtype) if at_z is None or stage.tied else stage.lean * at_z
                both = (inner + d * at_u) @ inverse
                h = both - at_u
                at_v = both * stage.radius
                source = stage.v
            else:
                source = step.source
                # The flow has already carried what belongs to z to the source and to w.
                at_z = pulled.pop(step.w, None)
                assert record.before is not None
                inner = (
                    pulled[source] @ record.before if source in pulled else torch.zeros(len(weights), len(record.before), dtype=self.dtype)
                )
                for o, c in record.crosses.items():
                    if o in pulled:
                        inner = inner + pulled[o] @ c.mT
                g = stage.radius * self.flow.image(stage.v, source, record.cut, inner) / d
                back = self.flow.pullback(stage.v, record.cut, stage.radius * g, source)[source] @ inverse
                h = g + stage.radius * self.flow.image(stage.v, source, record.cut, back) / d
                at_v = stage.radius * h
            by_d = torch.zeros(len(record.d), dtype=self.dtype).index_add_(0, stage.v_of, -(weights @ h.square()))
            if at_z is not None:
                by_d.index_add_(0, stage.z_of, weights @ at_z.square())
            by_log = by_d * record.d
            whole = by_log.sum()
            extra: Tensor | None = None
            if record.ratio is not None:
                share = torch.zeros(len(record.d), dtype=self.dtype)
                assert record.vector is not None and record.root is not None
                share.index_add_(0, stage.v_of, record.vector.square())
                by_log = by_log - whole * share
                ratios[step.stage] = (whole / (1.0 + record.ratio)).item()
                extra = (record.root * record.vector * stage.radius)[None]
            logs[step.stage] = by_log.double()
            if isinstance(step, Wide):
                at_v = self.flow.pullback(stage.v, record.cut, at_v, source)[source]
                extra = None if extra is None else self.flow.pullback(stage.v, record.cut, extra, source)[source]
            pulled[source] = pulled[source] + at_v if source in pulled else at_v
            if extra is not None:
                for o in pulled:
                    pulled[o] = torch.cat([pulled[o], extra if o == source else pulled[o].new_zeros(1, pulled[o].shape[1])])
                weights = torch.cat([weights, (whole / record.top)[None]])
        zero = [torch.zeros(s.last - s.first, dtype=torch.float64) for s in self.system.stages]
        return [logs.get(k, z) for k, z in enumerate(zero)], [ratios.get(k, 0.0) for k in range(len(zero))]


class _Restriction:
    """A stage's numbers in the working precision; multipliers are counted from its first."""

    def __init__(self, stage: Stage, dtype: torch.dtype) -> None:
        self.v, self.z, self.tied = stage.v, stage.z, stage.tied
        self.radius = stage.radius.to(dtype)
        self.lean = (stage.middle / stage.radius).to(dtype)
        self.v_of, self.z_of = stage.v_of - stage.first, stage.z_of - stage.first


@dataclass(frozen=True, eq=False)
class _Record:
    """What going back needs of a step."""

    step: Known | Narrow | Wide
    cut: frozenset[int]
    d: Tensor
    ratio: float | None = None
    top: float = 1.0
    vector: Tensor | None = None
    root: Tensor | None = None
    inverse: Tensor | None = None
    crosses: dict[int, Tensor] = field(default_factory=dict)
    before: Tensor | None = None


def _get(cov: dict[tuple[int, int], Tensor], loose: dict[int, Tensor], a: int, b: int) -> Tensor | None:
    if a == b and a in loose:
        return torch.diag(loose[a])
    if (a, b) in cov:
        return cov[a, b]
    return cov[b, a].mT if (b, a) in cov else None


def _put(cov: dict[tuple[int, int], Tensor], a: int, b: int, value: Tensor) -> None:
    if (b, a) in cov and a != b:
        cov[b, a] = value.mT
    else:
        cov[a, b] = value
