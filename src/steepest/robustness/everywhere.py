"""The constant over all inputs that certification uses: as good as seems worth its time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.bounds import Product
from steepest.bracket import EFFORTS as BRACKET_EFFORTS
from steepest.bracket import Bracketing, Effort
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain
from steepest.robustness.attack import DeepFool, realise
from steepest.robustness.constant import GlobalConstant, body, head
from steepest.robustness.decisions import Decisions

_WORTH = 0.25
"""Share of the attack's distance that the product of norms must certify for a better constant over all inputs to be sought."""

_LOOK = 8
"""Inputs at which that is decided."""

_SHARE = 0.3
"""Part of a time limit that it may take."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant of the network up to a node, possibly infinite, and its certificate; the input itself needs none."""

    source: GlobalConstant
    certificate: dict[str, Any] | None


def find_constant(graph: Graph, x: Tensor, norm: float, seconds: float, stop: Deadline) -> Constant:
    """A constant of all but the last affine layers.

    The product of norms, and where it certifies at some inputs a good share of what attacks leave, the best that bounds find in the time.

    Args:
        graph: as ``scores`` gives it.
        x: ``[n, *input_shape]``, inputs at which it is tried.
        norm: 1, 2 or inf.
        seconds: for bounds that optimise.
        stop: ends them early.
    """
    node = head(graph)
    if node == 0:
        return Constant(GlobalConstant(0, 1.0, norm), None)
    part, everywhere = body(graph, node), Domain("all")
    record = part.record()
    upper = Product().bound(part, everywhere, norm)
    certificate = write_certificate(record, output=None, norm=norm, domain=everywhere, upper=upper, lower=None)
    bound = max(upper.value, check(certificate, record).upper)
    if not math.isfinite(bound):
        return Constant(GlobalConstant(node, bound, norm), None)
    found = GlobalConstant(node, bound, norm)
    certificate["upper"]["bound"] = bound
    if _worth(found, graph, x[:_LOOK]) and not stop.passed():
        like = min(BRACKET_EFFORTS.values(), key=lambda e: abs(e.upper_seconds - seconds))
        limit = seconds if stop.at == math.inf else min(seconds, _SHARE * stop.left())
        bracket = Bracketing(Effort(0.2, 2, limit, like.steps, like.exact), stop=stop).run(part, everywhere, norm)
        if bracket.upper < bound and bracket.certificate is not None:
            return Constant(GlobalConstant(node, bracket.upper, norm), dict(bracket.certificate))
    return Constant(found, certificate)


def _worth(source: GlobalConstant, graph: Graph, x: Tensor) -> bool:
    at = Decisions.of(graph, x)
    reach = (at.margins / source.slopes(at).clamp(min=1e-300)).amin(1)
    distance = realise(at, DeepFool(source.p).points(at)[:, None], source.p).distance
    return bool((reach > _WORTH * distance).double().mean() >= 0.5)
