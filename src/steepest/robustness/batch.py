"""Certified radii and attacks for a batch of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from steepest.errors import SoundnessError
from steepest.graph import Graph
from steepest.proofs.certificate import versions
from steepest.proofs.checker.radius import Claim, Constant, unproven
from steepest.results import NodeRecord
from steepest.results.certification import CertifiedInput
from steepest.results.domain import NORM_NAMES, array_to_json
from steepest.robustness.attack import Attacked, DeepFool, realise
from steepest.robustness.constant import GlobalConstant
from steepest.robustness.decisions import Decisions
from steepest.robustness.intervals import IntervalSlopes
from steepest.robustness.linear import LinearFloors
from steepest.robustness.pgd import ShrinkingPGD
from steepest.robustness.radii import Radii, RadiusSearch
from steepest.robustness.source import Source


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
    constant = None if batch.constant is None else Constant(batch.constant.node, batch.constant.bound)
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


def _agreed(nodes: Sequence[NodeRecord], claim: Claim, norm: float, constant: Constant | None) -> float:
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


def together(graph: Graph) -> int:
    """Inputs of a batch: few where the network is wide."""
    widest = max(math.prod(node.shape) for node in graph.nodes)
    return max(1, min(32, 2**21 // (8 * widest)))
