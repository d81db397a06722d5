"""Multipliers in closed form: LipLT's, one per layer, and ECLipsE-Fast's ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from steepest.bounds.lipsdp.plan import Known
from steepest.bounds.lipsdp.propagation import Infeasible, OutOfTime, Propagation
from steepest.numerics.deadline import Deadline
from steepest.ops.kinds import count
from steepest.ops.lure import LureSystem, Stage
from steepest.ops.signals import Flow, Scaled, Signal
from steepest.results import UpperBound

ECLIPSE_FAST = 1.0
"""``D = (1 + ratio) lambda_max(Q)``: with slopes [0, 1] this ratio is ECLipsE-Fast on a chain, and its form on any graph."""

EVEN = math.log(2.0)
"""A ratio that is better than ECLipsE-Fast's on all networks that were tried, and on deep ones by far."""

SHARE = 0.2
"""Of the time left, at most so much goes into a start."""

DEEP = 8
"""Stages up to which LipLT is tried: its norms take time with the square of the depth, and on deep networks it is seldom the better."""


class HasStages(Protocol):
    """A network with slope restrictions."""

    @property
    def stages(self) -> Sequence[Stage]:
        """Each with its multipliers."""
        ...


@dataclass(frozen=True, eq=False)
class Start:
    """Where the first-order method begins: ``D = (1 + ratio) lambda_max(e^-1/2 Q e^-1/2) e``, ``e = exp log``, for every stage."""

    logs: tuple[Tensor, ...]
    ratios: tuple[float, ...]


def even(system: HasStages, ratio: float = EVEN) -> Start:
    """One ratio for all stages, and D alike within a stage: ECLipsE-Fast and what lies near it.

    Source: Xu and Sivaranjani 2024 (ECLipsE-Fast).
    """
    return Start(tuple(torch.zeros(s.last - s.first, dtype=torch.float64) for s in system.stages), (ratio,) * len(system.stages))


def closed_form(propagation: Propagation, deadline: Deadline) -> Start:
    """The better of an even ratio and LipLT's multipliers, one pass each; the former where time is short."""
    system = propagation.system
    first = even(system)
    if not 0 < len(system.stages) <= DEEP:
        return first
    soon = deadline.share(SHARE)
    try:
        before, _, _ = propagation.run(first.logs, first.ratios, soon, trace=False)
        other = liplt(system, soon)
        if other is None:
            return first
        after, start = absolute(propagation, other.d, soon)
    except (OutOfTime, Infeasible):
        return first
    return start if torch.linalg.eigvalsh(after)[-1] < torch.linalg.eigvalsh(before)[-1] else first


def absolute(propagation: Propagation, d: Sequence[Tensor], deadline: Deadline) -> tuple[Tensor, Start]:
    """The output's covariance for D as it is, and the start that gives the same.

    Raises:
        OutOfTime, Infeasible
    """
    logs = tuple(x.log() for x in d)
    out, _, records = propagation.run(logs, None, deadline, trace=False)
    # The eigenvalue of what e = D scales is below one, and would be one over one plus the ratio.
    ratios = {r.step.stage: max(1.0 / r.top - 1.0, 1e-3) for r in records if not isinstance(r.step, Known)}
    return out, Start(logs, tuple(ratios[k] for k in range(len(logs))))


def by_neuron(system: LureSystem, channels: UpperBound) -> list[Tensor] | None:
    """D of every stage from the multipliers of ``ChannelLipSDP``, the same at all positions; None where they are not laid out alike."""
    found = {step.node: torch.as_tensor(step.values["multipliers"], dtype=torch.float64) for step in channels.steps}
    t = torch.zeros(system.multipliers, dtype=torch.float64)
    for part in system.parts:
        own = found.get(part.node)
        if own is None:
            return None
        if own.numel() != count(part.shape):
            # Channels are the axis after the sample's; before it come the pairs of a maximum.
            lead = len(part.shape) - (own.ndim - 1) - 2
            if lead < 1 or part.shape[: own.ndim - 1] != own.shape[:-1] or part.shape[own.ndim] != own.shape[-1]:
                return None
            own = own.reshape(*own.shape[:-1], 1, own.shape[-1], *[1] * lead).expand(part.shape)
        t[part.first : part.last] = own.flatten()[part.free]
    return [1.0 / t[s.first : s.last] for s in system.stages]


@dataclass(frozen=True, eq=False)
class LipLT:
    """The loop-transformed bound, up to how far its norms are estimated.

    Args:
        value: an estimate; no bound, since power iteration finds norms from below.
        d: of every stage, with which covariance propagation gives at most about ``value^2``.
    """

    value: float
    d: tuple[Tensor, ...]


def liplt(system: LureSystem, deadline: Deadline, iterations: int = 30) -> LipLT | None:
    """LipLT and its multipliers, or None where the time does not suffice or a norm is zero or not finite.

    With ``z = c v + w`` and u = r v, every ``|w_k| <= |u_k|``, and ``u_k`` and y are linear in x and the w before. With the norms b_kj
    and a_j of these maps, ``|u_k| <= L_k |x|`` for ``L_k = b_k0 + sum_{j < k} b_kj L_j``, and ``|y| <= L |x|`` for
    ``L = a_0 + sum_k a_k L_k``. By Cauchy and Schwarz ``|u_k|^2 <= L_k (b_k0 |x|^2 + sum_j b_kj |w_j|^2 / L_j)``, and likewise for y. So
    with ``s_k = L a_k + sum_{m > k} s_m b_mk`` the multipliers ``t_k = s_k / L_k`` of ``|w_k|^2 <= |u_k|^2`` prove
    ``rho = L a_0 + sum_k s_k b_k0 = L^2``: LipSDP with one multiplier per layer is never above LipLT.

    Source: Fazlyab et al. 2023, theorem 1.
    """
    layers = len(system.stages)
    norms = _norms(system, deadline, iterations)
    if norms is None:
        return None
    b, a = norms[:-1], norms[-1]
    reach = torch.ones(layers + 1, dtype=torch.float64)
    for k in range(layers):
        reach[k + 1] = b[k, : k + 1] @ reach[: k + 1]
    value = (a @ reach).item()
    s = torch.zeros(layers, dtype=torch.float64)
    for k in reversed(range(layers)):
        s[k] = value * a[k + 1] + s[k + 1 :] @ b[k + 1 :, k + 1]
    # Covariance propagation has t = rho / D.
    d = value**2 * reach[1:] / s
    if not (torch.isfinite(d).all() and (d > 0).all() and math.isfinite(value)):
        return None
    return LipLT(value, tuple(x.expand(t.last - t.first).clone() for x, t in zip(d, system.stages, strict=True)))


def _norms(system: LureSystem, deadline: Deadline, iterations: int) -> Tensor | None:
    """Norms of the maps from x and every w (columns) to every u and to y (rows), from below, by power iteration."""
    signals = list(system.signals)
    sources = [0]
    for s in system.stages:
        sources.append(len(signals))
        signals.append(Signal(signals[s.z].shape))
        one = torch.ones((), dtype=torch.float64)
        signals[s.z] = Signal(
            signals[s.z].shape, ((Scaled(s.middle), s.v), (Scaled(one), sources[-1])) if not s.tied else ((Scaled(one), sources[-1]),)
        )
    flow, basis = Flow(signals), frozenset(sources)
    targets = [*(s.v for s in system.stages), system.output]
    weights = [*(s.radius for s in system.stages), torch.ones((), dtype=torch.float64)]
    norms = torch.zeros(len(targets), len(sources), dtype=torch.float64)
    for i, source in enumerate(sources):
        rows = [k for k in range(i, len(targets)) if source in flow.sources(targets[k], basis)]
        generator = torch.Generator("cpu").manual_seed(i)
        v = torch.randn(len(rows), signals[source].size, generator=generator, dtype=torch.float64, device="cpu").to(weights[0])
        for _ in range(iterations):
            if deadline.passed():
                return None
            v = v / v.norm(dim=1, keepdim=True).clamp(min=1e-300)
            v = _back_and_forth(flow, basis, source, [targets[k] for k in rows], [weights[k] for k in rows], v)
        norms[:, i].index_copy_(0, torch.tensor(rows), v.norm(dim=1).sqrt())
    return norms


def _back_and_forth(flow: Flow, basis: frozenset[int], source: int, targets: list[int], weights: list[Tensor], rows: Tensor) -> Tensor:
    """``A_k' A_k v_k`` for the map ``A_k`` from one source to each target, weighted, in one walk there and one back."""
    between = sorted({i for t in targets for i in flow.path(t, source, basis)} | {t for t in targets if t == source})
    values = {source: rows}
    for i in between:
        if i != source:
            parts = [m.apply(values[j]) for m, j in flow.signals[i].terms if j in values]
            values[i] = sum(parts[1:], parts[0])
    pulled: dict[int, Tensor] = {}
    for k, (target, weight) in enumerate(zip(targets, weights, strict=True)):
        if target not in pulled:
            pulled[target] = torch.zeros_like(values[target])
        pulled[target][k] = values[target][k] * weight.square()
    for i in reversed(between):
        if i == source or i not in pulled:
            continue
        value = pulled.pop(i)
        for m, j in flow.signals[i].terms:
            if j in values:
                part = m.transpose(value)
                pulled[j] = pulled[j] + part if j in pulled else part
    return pulled[source]
