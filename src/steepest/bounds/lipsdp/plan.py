"""Which signals covariance propagation knows by themselves, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from steepest.ops.lure import LureSystem
from steepest.ops.signals import Flow, Scaled, Signal


@dataclass(frozen=True)
class Known:
    """From here on the ``new`` signals are known by themselves; of the old ones, those in ``kept``."""

    new: tuple[int, ...]
    old: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Narrow:
    """The stage's v is in the basis; its z takes v's place unless v is kept."""

    stage: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Wide:
    """The stage's v has more entries than the one signal it comes from, which stays; w joins, independent of all."""

    stage: int
    source: int
    w: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What to do in which order.

    Args:
        signals: those of the system; a wide stage's z is written out in its w.
        steps: in order.
        largest: side of the largest dense covariance.
    """

    signals: tuple[Signal, ...]
    steps: tuple[Known | Narrow | Wide, ...]
    largest: int


def plan(system: LureSystem, wide: bool = True) -> Plan:
    """Choose which signals to know: as few entries as possible, skip branches at the resolution at which they are used."""
    signals = list(system.signals)
    flow = Flow(signals)
    basis: list[int] = [0]
    steps: list[Known | Narrow | Wide] = []
    # The input's entries have covariance one and are correlated with nothing, so it need not be dense.
    independent: set[int] = {0}
    largest = 1
    stages = system.stages

    def needed(targets: Sequence[int], members: Sequence[int]) -> set[int]:
        cut = frozenset(members)
        return {s for t in targets for s in flow.sources(t, cut)}

    def known(v: int, targets: Sequence[int]) -> None:
        """Make v known, and with it whatever lets larger signals go."""
        nonlocal basis, largest
        new = [v] if v not in basis else []
        while True:
            members = [*basis, *new]
            still = needed(targets, members)
            for b in sorted(still - set(new) - {v}):
                readers = _readers(flow, signals, b, targets, members)
                if readers and all(set(flow.sources(r, frozenset(members))) <= set(basis) for r in readers):
                    gone = sum(signals[r].size for r in readers)
                    if b in independent or gone <= signals[b].size:
                        new += readers
                        break
            else:
                break
        kept = [b for b in basis if b in still or b == v]
        if new:
            steps.append(Known(tuple(new), tuple(basis), tuple(kept)))
        elif kept != basis:
            steps.append(Known((), tuple(basis), tuple(kept)))
        basis = [*kept, *new]
        independent.intersection_update(kept)
        largest = max([largest, *(signals[b].size for b in basis if b not in independent)])

    for k, s in enumerate(stages):
        later = [t.v for t in stages[k + 1 :]] + [system.output]
        sources = flow.sources(s.v, frozenset(basis))
        source = sources[0]
        if wide and _worth_it(system, signals, flow, basis, independent, k, sources):
            w = len(signals)
            signals.append(Signal(signals[s.z].shape))
            signals[s.z] = Signal(signals[s.z].shape, ((Scaled(s.middle), s.v), (Scaled(torch.ones((), dtype=torch.float64)), w)))
            flow = Flow(signals)
            steps.append(Wide(k, source, w, tuple(b for b in basis if b != source)))
            basis = [*basis, w]
            independent = {w}
            largest = max(largest, signals[source].size)
            continue
        known(s.v, later)
        kept = [b for b in basis if b != s.v or b in needed(later, [*basis, s.z])]
        # What is kept beside a stage is correlated with it.
        independent -= {*kept}
        largest = max([largest, *(signals[b].size for b in kept)])
        steps.append(Narrow(k, tuple(kept)))
        basis = [*kept, s.z]
        if s.tied:
            independent.add(s.z)
    known(system.output, [])
    return Plan(tuple(signals), tuple(steps), largest)


def _readers(flow: Flow, signals: Sequence[Signal], b: int, targets: Sequence[int], members: Sequence[int]) -> list[int]:
    """The signals through which the targets depend on b, each as far on as it does not grow and nothing else joins."""
    cut = frozenset(members)
    seen: set[int] = set()
    todo = [t for t in targets if t not in cut]
    needed_by: dict[int, set[int]] = {}
    while todo:
        i = todo.pop()
        if i in seen or i in cut:
            continue
        seen.add(i)
        for _, j in signals[i].terms:
            needed_by.setdefault(j, set()).add(i)
            todo.append(j)
    readers = set()
    for r in needed_by.get(b, ()):
        best = here = r
        while here not in targets and len(needed_by.get(here, ())) == 1:
            (here,) = needed_by[here]
            if not set(flow.sources(here, cut)) <= {b}:
                break
            if signals[here].size <= signals[best].size:
                best = here
        readers.add(best)
    return sorted(readers)


def _worth_it(
    system: LureSystem, signals: list[Signal], flow: Flow, basis: list[int], independent: set[int], k: int, sources: tuple[int, ...]
) -> bool:
    s = system.stages[k]
    if s.tied or len(sources) != 1 or independent - {0} or s.v in basis or signals[s.v].size <= signals[sources[0]].size:
        return False
    # What reads z must be no larger than what is known already, so that w can go with the next step.
    later = [t.v for t in system.stages[k + 1 :]] + [system.output]
    readers = _readers(flow, signals, s.z, later, [*basis, s.z])
    return (
        bool(readers)
        and sum(signals[r].size for r in readers) < signals[s.v].size
        and all(set(flow.sources(r, frozenset([*basis, s.z]))) <= {*basis, s.z} for r in readers)
    )
