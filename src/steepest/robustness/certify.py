"""Certified radii and attacks for many inputs, batch by batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.bounds import Product
from steepest.bracket import EFFORTS as BRACKET_EFFORTS
from steepest.bracket import Bracketing, Effort
from steepest.errors import SoundnessError
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.proofs.certificate import RadiusClaim, versions, write_certificate, write_radii
from steepest.proofs.check import check
from steepest.proofs.checker.radius import Claim, unproven
from steepest.proofs.checker.radius import Constant as ProvenConstant
from steepest.results import Domain, NodeRecord
from steepest.results.certification import Certification, CertifiedInput
from steepest.results.domain import NORM_NAMES, array_to_json
from steepest.robustness.attack import Attacked, DeepFool, realise
from steepest.robustness.constant import GlobalConstant, body, head
from steepest.robustness.decisions import Decisions, scores
from steepest.robustness.intervals import IntervalSlopes
from steepest.robustness.linear import LinearFloors
from steepest.robustness.pgd import ShrinkingPGD
from steepest.robustness.radii import Radii, RadiusSearch
from steepest.robustness.source import Source

Progress = Callable[[str, float | None], None]
"""Called with a phrase and the fraction done."""


@dataclass(frozen=True)
class RadiusEffort:
    """How long to look for each input, from both sides.

    Args:
        tries: balls tried for each source.
        work: multiplications for the rows of one node and input, in linear bounds.
        gradients: whether gradients are propagated by linear bounds too.
        starts, steps: of the attack.
        constant: seconds for the constant over all inputs, where one is worth it.
    """

    tries: int
    work: float
    gradients: bool
    starts: int
    steps: int
    constant: float


EFFORTS: dict[str, RadiusEffort] = {
    "fast": RadiusEffort(3, 3e8, False, 2, 30, 3.0),
    "normal": RadiusEffort(5, 1e9, False, 5, 60, 25.0),
    "high": RadiusEffort(10, 1e10, True, 12, 200, 240.0),
}
"""What ``--effort`` means."""

NONE = "none"
"""What proved a radius of zero."""

_WORTH = 0.25
"""Share of the attack's distance that the product of norms must certify for a better constant over all inputs to be sought."""

_LOOK = 8
"""Inputs at which that is decided."""


@dataclass(frozen=True, eq=False)
class Constant:
    """An upper bound of the constant of the network up to a node, over all inputs, with its certificate; none is needed at the input."""

    source: GlobalConstant
    certificate: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs that are certified together; all a worker needs.

    Args:
        graph: as ``scores`` gives it.
        x: ``[n, *input_shape]``, float64.
        first: the position of the first in the data.
        labels: one for each, or None.
        norm: 1, 2 or inf.
        effort: how long to look.
        seed: of the attack.
        constant: for all inputs, or None.
    """

    graph: Graph
    x: Tensor
    first: int
    labels: tuple[int, ...] | None
    norm: float
    effort: RadiusEffort
    seed: int
    constant: GlobalConstant | None


def certify_batch(batch: Batch) -> tuple[CertifiedInput, ...]:
    """The radii of a batch, from both sides.

    Raises:
        SoundnessError: where an attack contradicts a radius.
    """
    at = Decisions.of(batch.graph, batch.x)
    attacked = attack(at, batch.norm, batch.effort, batch.seed)
    sources = make_sources(batch.norm, batch.effort, batch.constant)
    radii = RadiusSearch(batch.norm, batch.effort.tries).search(at, sources, attacked.distance)
    _require_sound(at, radii, attacked, batch)
    margins, nodes = at.margins.amin(1), batch.graph.record().nodes
    constant = None if batch.constant is None else ProvenConstant(batch.constant.node, batch.constant.bound)
    found = []
    for i in range(len(batch.x)):
        source = sources[int(radii.source[i])].name if radii.source[i] >= 0 else NONE
        claim = Claim(batch.x[i].numpy(), int(at.answer[i]), radii.radius[i].item(), source, batch.effort.work)
        radius = 0.0 if source == NONE else _agreed(nodes, claim, batch.norm, constant)
        found.append(
            CertifiedInput(
                batch.first + i,
                None if batch.labels is None else batch.labels[i],
                claim.answer,
                margins[i].item(),
                radius,
                source if radius > 0 else NONE,
                attacked.distance[i].item(),
            )
        )
    return tuple(found)


def _agreed(nodes: Sequence[NodeRecord], claim: Claim, norm: float, constant: ProvenConstant | None) -> float:
    """The radius, or what little less the checker proves by its own means; zero where it is much less."""
    with np.errstate(all="ignore"):
        for less in (0.0, 2.0**-30, 2.0**-20, 2.0**-10, 2.0**-5):
            radius = claim.radius * (1.0 - less)
            if not unproven(nodes, replace(claim, radius=radius), norm, constant):
                return radius
    return 0.0


def make_sources(norm: float, effort: RadiusEffort, constant: GlobalConstant | None) -> list[Source]:
    """What proves radii, the cheap ones first."""
    found: list[Source] = [] if constant is None else [constant]
    found += [IntervalSlopes(norm), LinearFloors(norm, effort.work)]
    return [*found, LinearFloors(norm, effort.work, True, name="slopes")] if effort.gradients else found


def attack(at: Decisions, norm: float, effort: RadiusEffort, seed: int) -> Attacked:
    """The nearest point with another answer that DeepFool and descent find."""
    first = realise(at, DeepFool(norm).points(at)[:, None], norm)
    scale = torch.where(torch.isfinite(first.distance), first.distance, 1.0 + at.x.abs().flatten(1).amax(1)).clamp(min=1e-12)
    found = ShrinkingPGD(norm, effort.starts, effort.steps, seed).points(at, first.point, scale)
    second = realise(at, found, norm)
    better = second.distance < first.distance
    return Attacked(
        torch.where(better, second.distance, first.distance),
        torch.where(better.reshape(-1, *[1] * (at.x.ndim - 1)), second.point, first.point),
    )


def _require_sound(at: Decisions, radii: Radii, attacked: Attacked, batch: Batch) -> None:
    wrong = (attacked.distance <= radii.radius) & (radii.radius > 0)
    if not bool(wrong.any()):
        return
    i = int(wrong.nonzero()[0])
    raise SoundnessError(
        f"input {batch.first + i} changes its answer at distance {attacked.distance[i].item()!r}, within its certified radius "
        f"{radii.radius[i].item()!r}: a bug in steepest",
        replay={
            "format": "steepest-soundness/1",
            "network": batch.graph.record().outline(),
            "norm": NORM_NAMES[batch.norm],
            "input": array_to_json(at.x[i].numpy()),
            "attack": array_to_json(attacked.point[i].numpy()),
            "radius": radii.radius[i].item(),
            "versions": versions(),
        },
    )


@dataclass(frozen=True)
class Certifying:
    """Certifies a classifier at inputs.

    Args:
        norm: 1, 2 or inf, of perturbations.
        effort: its name in ``EFFORTS``.
        seed: of the attacks.
        inputs: how many are done, from the first; None: all.
        time_limit: seconds for the whole, or None; inputs that are not reached are left out.
        progress: told of each stage.
        stop: once asked, the run ends with the inputs that are done.
    """

    norm: float = 2.0
    effort: str = "normal"
    seed: int = 0
    inputs: int | None = None
    time_limit: float | None = None
    progress: Progress = lambda stage, fraction: None
    stop: Deadline = field(default_factory=Deadline)

    def run(self, graph: Graph, x: Tensor, y: Tensor | None, radius: float | None, name: str, data: str) -> Certification:
        """Certify a classifier.

        Args:
            graph: its answer is the position of the largest entry of its flattened output.
            x: ``[n, *input_shape]``, float64.
            y: ``[n]`` int64, labels, or None.
            radius: at which accuracies are told; None takes a round number near the median certified radius.
            name: what people call the network.
            data: what people call the data.

        Raises:
            UsageError: for a network with a single output.
            SoundnessError: where an attack contradicts a radius.
        """
        started = time.perf_counter()
        stop = self.stop if self.time_limit is None else self.stop.within(self.time_limit)
        effort, kept = EFFORTS[self.effort], scores(graph)
        x = x[: self.inputs]
        self.progress("a constant over all inputs", None)
        constant = self._constant(kept, x, effort, stop)
        step = together(kept)
        done: list[CertifiedInput] = []
        for first in range(0, len(x), step):
            if stop.passed():
                break
            self.progress(f"certified radii, {len(done)} of {len(x)}", len(done) / len(x))
            labels = None if y is None else tuple(y[first : first + step].tolist())
            source = None if constant is None else constant.source
            done += certify_batch(Batch(kept, x[first : first + step], first, labels, self.norm, effort, self.seed, source))
        record = graph.record()
        claims = [RadiusClaim(i.index, x[i.index].numpy(), i.answer, i.radius, i.source, effort.work) for i in done if i.source != NONE]
        proof = None if constant is None else (constant.source.node, constant.certificate)
        return Certification(
            name=name,
            digest=record.digest,
            norm=NORM_NAMES[self.norm],
            radius=_round_radius(done) if radius is None else radius,
            inputs=tuple(done),
            asked=len(x),
            constant=None if constant is None else constant.source.bound,
            data=data,
            effort=self.effort,
            seconds=time.perf_counter() - started,
            versions=versions(),
            certificate=write_radii(record, self.norm, claims, proof),
        )

    def _constant(self, graph: Graph, x: Tensor, effort: RadiusEffort, stop: Deadline) -> Constant | None:
        """A constant over all inputs, as good as seems worth it."""
        node = head(graph)
        if node == 0:
            return Constant(GlobalConstant(0, 1.0, self.norm), None)
        part, everywhere = body(graph, node), Domain("all")
        record = part.record()
        upper = Product().bound(part, everywhere, self.norm)
        certificate = write_certificate(record, output=None, norm=self.norm, domain=everywhere, upper=upper, lower=None)
        bound = max(upper.value, check(certificate, record).upper)
        if not math.isfinite(bound):
            return None
        found = GlobalConstant(node, bound, self.norm)
        certificate["upper"]["bound"] = bound
        if self._worth(found, graph, x[:_LOOK]) and not stop.passed():
            seconds = effort.constant if stop.at == math.inf else min(effort.constant, 0.3 * stop.left())
            name = min(BRACKET_EFFORTS, key=lambda n: abs(BRACKET_EFFORTS[n].upper_seconds - effort.constant))
            like = BRACKET_EFFORTS[name]
            bracketing = Bracketing(Effort(0.2, 2, seconds, like.steps, like.exact), stop=self.stop)
            bracket = bracketing.run(part, everywhere, self.norm)
            if bracket.upper < bound and bracket.certificate is not None:
                return Constant(GlobalConstant(node, bracket.upper, self.norm), dict(bracket.certificate))
        return Constant(found, certificate)

    def _worth(self, source: GlobalConstant, graph: Graph, x: Tensor) -> bool:
        at = Decisions.of(graph, x)
        reach = (at.margins / source.slopes(at).clamp(min=1e-300)).amin(1)
        distance = realise(at, DeepFool(self.norm).points(at)[:, None], self.norm).distance
        return bool((reach > _WORTH * distance).double().mean() >= 0.5)


def together(graph: Graph) -> int:
    """Inputs of a batch: few where the network is wide."""
    widest = max(math.prod(node.shape) for node in graph.nodes)
    return max(1, min(64, 2**21 // (8 * widest)))


def _round_radius(done: list[CertifiedInput]) -> float:
    """A round number near the median certified radius; zero where half of the inputs have none."""
    ordered = sorted(i.radius for i in done)
    return float(f"{ordered[(len(ordered) - 1) // 2]:.1g}") if ordered else 0.0
