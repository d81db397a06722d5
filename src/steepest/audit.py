"""The main job: how steep a network is, globally and at inputs, and what that proves about its answers."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from steepest.bounds.product import node_constants
from steepest.bracket import EFFORTS, Bracketing, Effort
from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.ops.kinds import Elementwise, Rearrangement
from steepest.ops.region import enclose_ball, enclose_domain
from steepest.proofs.certificate import versions
from steepest.results import Bracket, Domain
from steepest.results.certification import CertifiedInput
from steepest.results.domain import NORM_NAMES, array_to_json, number_to_json
from steepest.robustness.batch import EFFORTS as RADIUS_EFFORTS
from steepest.robustness.batch import Batch, certify_batch, together
from steepest.robustness.decisions import scores

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of the whole that lies behind."""

_SHOWN_INPUTS = 6

_RADIUS_WORK = 4e7
"""Multiplications for the linear bounds of one node and input, for each second of the bounds' time."""


@dataclass(frozen=True, eq=False)
class AuditResult:
    """An audit's JSON and the certificate of its global bracket."""

    json: dict[str, Any]
    certificate: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is audited.

    Args:
        graph: the network.
        name: what people call it.
        source: where it came from.
        x: inputs ``[n, *input_shape]``, float64, or None.
        y: labels ``[n]``, or None.
        data_name: what people call the data.
        training: facts about how it was trained, for the page.
    """

    graph: Graph
    name: str
    source: str
    x: Tensor | None = None
    y: Tensor | None = None
    data_name: str = "data"
    training: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Auditing:
    """Brackets the Lipschitz constant over all inputs and around some of them, and certifies radii.

    Args:
        norm: 1, 2 or inf, of perturbations and of outputs.
        inputs: how many inputs are certified, from the first.
        radius: of the balls for local brackets; None takes the median certified radius.
        effort: of the search for the global witness; the local ones get a tenth of it each.
        seed: of the searches.
        progress: told of each stage.
    """

    norm: float = 2.0
    inputs: int = 100
    radius: float | None = None
    effort: Effort = EFFORTS["normal"]
    seed: int = 0
    progress: Progress = lambda stage, fraction: None

    def run(self, subject: Subject) -> AuditResult:
        """Audit a network.

        Raises:
            SoundnessError: where a witness or an attack contradicts a bound.
        """
        started = time.perf_counter()
        graph, x = subject.graph, subject.x
        record = graph.record()
        whole = Domain("all")
        bracketing = Bracketing(effort=self.effort, seed=self.seed, progress=lambda stage: self.progress(f"all inputs: {stage}", 0.0))
        found = bracketing.run(graph, whole, self.norm, data=x)

        chosen = None if x is None else x[: self.inputs]
        classes = math.prod(graph.shape)
        radii, local_radius, brackets = None, self.radius, []
        if chosen is not None:
            if classes >= 2:
                radii = self._radii(subject, chosen)
                local_radius = self.radius or _median_radius(radii)
            local_radius = local_radius or 0.01 * max(chosen.abs().max().item(), 1e-6)
            brackets = self._local(graph, chosen, local_radius)
        report = {
            "format": "steepest-audit/1",
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "versions": versions(),
            "seed": self.seed,
            "norm": NORM_NAMES[self.norm],
            "model": {
                "name": subject.name,
                "source": subject.source,
                "digest": record.digest,
                "input_shape": list(graph.input_shape),
                "output_shape": list(graph.shape),
                "nodes": len(graph.nodes),
                "parameters": sum(a.size for node in record.nodes for a in node.arrays.values() if a.dtype.kind == "f"),
            },
            "training": None if subject.training is None else dict(subject.training),
            "data": None if chosen is None else _data_json(subject, chosen),
            "global": _without_certificate(found),
            "local": self._local_json(subject, brackets, local_radius, graph, chosen),
            "layers": self._layers(graph, chosen, local_radius),
            "radii": None if radii is None else self._radii_json(graph, radii, found.upper),
            "witness": None if found.witness is None else {"slope": found.lower, "image_shape": image_shape(graph.input_shape)},
            "inputs": None if radii is None or chosen is None else _pictures(chosen, radii, graph),
            "proven": _proven(self.norm, found, radii),
            "estimated": _estimated(found, radii),
            "assumptions": list(found.certificate["assumptions"]) if found.certificate else [],
            "notes": list(found.notes),
            "certificate": "certificate.json",
            "seconds": time.perf_counter() - started,
        }
        assert found.certificate is not None
        self.progress("done", 1.0)
        return AuditResult(report, dict(found.certificate))

    def _radii(self, subject: Subject, x: Tensor) -> list[CertifiedInput]:
        kept, done = scores(subject.graph), []
        step = together(kept)
        for first in range(0, len(x), step):
            self.progress("certified radii and attacks", 0.4 + 0.3 * first / len(x))
            labels = None if subject.y is None else tuple(subject.y[first : min(first + step, len(x))].tolist())
            effort = replace(RADIUS_EFFORTS["fast"], work=_RADIUS_WORK * self.effort.upper_seconds)
            done += certify_batch(Batch(kept, x[first : first + step], first, labels, self.norm, effort, self.seed, None))
        return done

    def _local(self, graph: Graph, x: Tensor, radius: float) -> list[Bracket]:
        shown = x[:_SHOWN_INPUTS]
        effort = Effort(self.effort.seconds / 10.0, max(4, self.effort.starts // 4), self.effort.upper_seconds / 10.0)
        brackets = []
        for i, centre in enumerate(shown):
            self.progress(f"local bracket at input {i}", 0.75 + 0.2 * i / len(shown))
            domain = Domain("ball", centre=centre.numpy(), radius=radius, norm=self.norm)
            brackets.append(Bracketing(effort=effort, seed=self.seed).run(graph, domain, self.norm, data=centre[None]))
        return brackets

    def _local_json(
        self, subject: Subject, brackets: list[Bracket], radius: float | None, graph: Graph, x: Tensor | None
    ) -> dict[str, Any] | None:
        if x is None:
            return None
        predicted = graph.evaluate(x[: len(brackets)]).flatten(1).argmax(1).tolist()
        labels = [None] * len(brackets) if subject.y is None else subject.y[: len(brackets)].tolist()
        return {
            "radius": radius,
            "norm": NORM_NAMES[self.norm],
            "brackets": [
                {**_without_certificate(b), "index": i, "label": labels[i], "predicted": predicted[i]} for i, b in enumerate(brackets)
            ],
        }

    def _radii_json(self, graph: Graph, radii: list[CertifiedInput], upper: float) -> dict[str, Any]:
        # |f_c - f_j| changes by at most 2^(1 - 1/p) L |x - y|_p: the dual norm of e_c - e_j. Margins are those of the scores.
        spread = {1.0: 1.0, 2.0: math.sqrt(2.0), math.inf: 2.0}[self.norm] * (1 + 1e-12)
        speaks = len(scores(graph).nodes) == len(graph.nodes) and 0 < upper < math.inf
        return {
            "norm": NORM_NAMES[self.norm],
            "inputs": [
                {
                    "index": i.index,
                    "label": i.label,
                    "predicted": i.answer,
                    "margin": number_to_json(i.margin),
                    "radius": i.radius,
                    "radius_global": max(0.0, i.margin / (spread * upper)) if speaks else None,
                    "source": i.source,
                    "attack": i.attack if math.isfinite(i.attack) else None,
                }
                for i in radii
            ],
        }

    def _layers(self, graph: Graph, x: Tensor | None, radius: float | None) -> list[dict[str, Any]]:
        constants = node_constants(graph, enclose_domain(graph, Domain("all")), self.norm)
        path = {len(graph.nodes) - 1}
        at = len(graph.nodes) - 1
        while at != 0:
            at = max(graph.nodes[at].inputs, key=lambda i: constants[i])
            path.add(at)
        total = math.log(constants[-1]) if 0.0 < constants[-1] < math.inf else 0.0
        uses = {} if x is None or radius is None else _slope_use(graph, x[:_SHOWN_INPUTS], radius, self.norm)
        layers = []
        for i, node in enumerate(graph.nodes[1:], start=1):
            below = max(constants[j] for j in node.inputs)
            gain = math.inf if constants[i] == math.inf else (constants[i] / below if below > 0 else 0.0)
            if isinstance(node.op, Rearrangement) and gain == 1.0:
                continue
            on_path = i in path and total != 0.0 and 0.0 < gain < math.inf
            layers.append(
                {
                    "node": i,
                    "name": node.name,
                    "op": node.op.code,
                    "gain": number_to_json(gain),
                    "share": math.log(gain) / total if on_path else None,
                    "slopes": uses.get(i),
                }
            )
        return layers


def image_shape(shape: tuple[int, ...]) -> list[int] | None:
    """``[C, H, W]`` where an input looks like one image of one or three channels, else None."""
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 2:
        shape = (1, *shape)
    return list(shape) if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 4 else None


def _slope_use(graph: Graph, x: Tensor, radius: float, norm: float) -> dict[int, dict[str, float]]:
    """Over balls at inputs: the fraction of each activation's entries with the largest slope, the least, or undecided."""
    xs = enclose_ball(graph, x, torch.full((len(x),), radius, dtype=torch.float64), norm)
    uses = {}
    for i, node in enumerate(graph.nodes):
        if not isinstance(node.op, Elementwise):
            continue
        everywhere = node.op.slopes(Interval.whole(node.shape))
        here = node.op.slopes(xs[node.inputs[0]])
        on = (here.lo >= everywhere.hi).double().mean().item()
        off = (here.hi <= everywhere.lo).double().mean().item()
        if on + off > 0:
            uses[i] = {"on": on, "off": off, "mixed": max(0.0, 1.0 - on - off)}
    return uses


def _median_radius(radii: list[CertifiedInput]) -> float | None:
    """A round number near the median certified radius; None where nothing is certified."""
    median = statistics.median_low(i.radius for i in radii)
    return float(f"{median:.1g}") if median > 0 else None


def _without_certificate(bracket: Bracket) -> dict[str, Any]:
    return {**bracket.to_json(), "certificate": None}


def _data_json(subject: Subject, x: Tensor) -> dict[str, Any]:
    accuracy = None
    if subject.y is not None and math.prod(subject.graph.shape) >= 2:
        predicted = subject.graph.evaluate(x).flatten(1).argmax(1)
        accuracy = (predicted == subject.y[: len(x)]).double().mean().item()
    return {"name": subject.data_name, "count": len(x), "accuracy": accuracy}


def _pictures(x: Tensor, radii: list[CertifiedInput], graph: Graph) -> dict[str, Any] | None:
    """The inputs with the smallest and largest certified radii, as images."""
    shape = image_shape(graph.input_shape)
    if shape is None:
        return None
    order = sorted(range(len(radii)), key=lambda i: radii[i].radius)
    chosen = dict.fromkeys([*order[:_SHOWN_INPUTS], *order[-_SHOWN_INPUTS:], *range(min(_SHOWN_INPUTS, len(order)))])
    return {"image_shape": shape, "arrays": {str(i): array_to_json(x[i].numpy()) for i in chosen}}


def _proven(norm: float, found: Bracket, radii: list[CertifiedInput] | None) -> list[str]:
    name = f"l{NORM_NAMES[norm]}"
    sentences = [f"The lower end: two inputs were found between which the network is this steep, in {name}."]
    if math.isfinite(found.upper):
        sentences.append(f"The upper end: no two inputs have a steeper secant, in {name}; the certificate lets anybody check it.")
    sentences.append("Local brackets: the same, for all pairs of inputs within each ball; each was checked independently in this run.")
    if radii is not None:
        sentences.append("Certified radii: no perturbation up to the radius changes the answer at that input.")
    return sentences


def _estimated(found: Bracket, radii: list[CertifiedInput] | None) -> list[str]:
    sentences = [
        "Where the true constant lies within a bracket is not known.",
        "Slope use and layer shares describe the bound, not the network's behaviour.",
    ]
    if found.estimates:
        names = ", ".join(e.method for e in found.estimates)
        sentences.append(f"Beside the bounds ({names}): values for comparison; nothing proves them, and the bracket does not use them.")
    if radii is not None:
        sentences.append("Attack distances are the shortest found; shorter ones may exist, down to the certified radius.")
    return sentences
