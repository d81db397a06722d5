"""The checker: proves a certificate's claims anew from the network's own weights; needs numpy alone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from steepest.proofs.checker.appended import with_rows
from steepest.proofs.checker.backward import WORK, tight_values
from steepest.proofs.checker.box import Array, Box, norm_above, norm_below, point, widen
from steepest.proofs.checker.covariance import channels_prove
from steepest.proofs.checker.cover import cover_proves
from steepest.proofs.checker.linear import NodeLike
from steepest.proofs.checker.pushed import linear_jacobian_constant, row_length
from steepest.proofs.checker.radius import Constant, scores, unproven
from steepest.proofs.checker.signs import patterns_prove
from steepest.proofs.checker.slopes import slopes_prove
from steepest.proofs.checker.statement import RADII_FORMAT, Malformed, Region, Statement, digest, read, read_radii
from steepest.proofs.checker.walk import OPERATORS, jacobian_constant, product_constant, value_of, values


class NetworkLike(Protocol):
    """A network written down."""

    @property
    def nodes(self) -> Sequence[NodeLike]:
        """In topological order; node 0 is the input, the last the output."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What the checker found.

    Args:
        holds: whether everything the certificate claims was proven.
        upper: the upper bound the checker itself proves by the stated method; infinite where it proves none.
        lower: the lower bound it proves from the witness; zero where it proves none.
        reasons: sentences on what does not hold.
        seconds: wall time.
        radii: of a certificate of radii, for how many inputs the radius was proven.
    """

    holds: bool
    upper: float
    lower: float
    reasons: tuple[str, ...]
    seconds: float
    radii: int = 0


def check(certificate: Any, network: NetworkLike) -> Verdict:
    """Verify a certificate against a network.

    It proves, for the network as a map of real numbers with its float64 weights taken exactly: ``|f(x) - f(y)| <= bound |x - y|``
    for all x, y in the domain, by the stated method with rounding accounted for; and that the witness lies in the domain and its
    secant is at least as steep as the lower bound. Of a certificate of radii: that every x' with ``|x' - x| <= radius`` has the stated
    answer, for every input x in it.

    Args:
        certificate: parsed JSON, not trusted: whatever it is, the answer is a verdict.
        network: operators, wiring and weights of the model in hand.
    """
    started = time.perf_counter()
    nodes = list(network.nodes)
    reasons: list[str] = []
    upper, lower, radii = math.inf, 0.0, 0
    try:
        strange = next((n for n in nodes[1:] if n.op not in OPERATORS), None)
        if strange is not None:
            raise Malformed(f"The operator {strange.op!r} of node {strange.name!r} is not known to the checker.")
        if isinstance(certificate, Mapping) and certificate.get("format") == RADII_FORMAT:
            with np.errstate(all="ignore"):
                radii = _radii(nodes, certificate, reasons)
            return Verdict(not reasons, upper, lower, tuple(reasons), time.perf_counter() - started, radii)
        statement = read(certificate, nodes[0].shape, math.prod(nodes[-1].shape))
        if statement.digest != digest(nodes):
            raise Malformed("The certificate speaks of another network: the digests of operators and weights differ.")
        with np.errstate(all="ignore"):
            headed = [*nodes, *_head(nodes, statement.output)]
            upper = _upper(headed, statement, reasons)
            if statement.pair is not None:
                lower = _lower(headed, statement, statement.pair, reasons)
    except Malformed as error:
        reasons.append(str(error))
    return Verdict(not reasons, upper, lower, tuple(reasons), time.perf_counter() - started)


def _radii(nodes: Sequence[NodeLike], certificate: Any, reasons: list[str]) -> int:
    """How many radii are proven; what is not is among the reasons."""
    stated = read_radii(certificate, nodes[0].shape, len(nodes))
    if stated.digest != digest(nodes):
        raise Malformed("The certificate speaks of another network: the digests of operators and weights differ.")
    kept, proven = scores(nodes), 0
    if stated.constant is not None and stated.constant[0] >= len(kept):
        raise Malformed("constant.node lies behind the scores that are compared.")
    constant = None if stated.constant is None else _constant(nodes, *stated.constant, stated.norm, reasons)
    for i, claim in enumerate(stated.claims):
        try:
            reason = unproven(kept, claim, stated.norm, constant)
        except ValueError as error:
            reason = f"{str(error).rstrip('.')}."
        except MemoryError:
            reason = "The memory does not suffice to follow the argument."
        if reason:
            reasons.append(f"Input {i}: {reason}")
        else:
            proven += 1
    return proven


def _constant(nodes: Sequence[NodeLike], node: int, certificate: Any, norm: float, reasons: list[str]) -> Constant | None:
    """The constant over all inputs that a certificate of the network up to a node proves."""
    if node == 0:
        return Constant(0, 1.0)
    part = list(nodes[: node + 1])
    statement = read(certificate, part[0].shape, math.prod(part[-1].shape))
    everywhere = bool((statement.region.box.lo == -np.inf).all() and (statement.region.box.hi == np.inf).all())
    if statement.digest != digest(part) or statement.norm != norm or statement.output is not None or not everywhere:
        raise Malformed("The constant is not one of the network up to its node, over all inputs, in the norm of the radii.")
    before = len(reasons)
    proven = _upper(part, statement, reasons)
    return Constant(node, proven) if len(reasons) == before and math.isfinite(proven) else None


def _head(nodes: Sequence[NodeLike], output: tuple[int, ...] | None) -> list[NodeLike]:
    if output is None:
        return []
    row = np.zeros((1, math.prod(nodes[-1].shape)))
    row[0, output[0]] = 1.0
    if len(output) == 2:
        row[0, output[1]] = -1.0
    return with_rows(nodes, row)[len(nodes) :]


def _upper(nodes: Sequence[NodeLike], statement: Statement, reasons: list[str]) -> float:
    if any(not 0 < k < len(nodes) for k in (*statement.claims, *statement.multipliers)):
        reasons.append("A step speaks of a node that is not there.")
        return math.inf
    region = statement.region
    # An l1 ball lies within the l2 ball of its radius; for linf the box is the ball.
    ball = (region.centre, region.radius) if region.centre is not None and region.norm != math.inf else None
    boxes = values(nodes, region.box, ball)
    whole = None if ball is None else (*ball, region.norm)
    try:
        if statement.work is not None:
            boxes = _tightened(nodes, statement, boxes, whole, statement.work)
        if statement.method == "product":
            proven = product_constant(nodes, statement.norm, boxes, statement.claims)
        elif statement.cover is not None:
            proven = cover_proves(nodes, region.box, boxes, statement.cover, statement.norm, statement.bound, ball)
        elif statement.patterns is not None:
            proven = patterns_prove(nodes, region.box, boxes, statement.patterns, statement.norm, statement.bound)
        elif statement.method == "jacobian":
            proven = jacobian_constant(nodes, statement.norm, boxes)
        elif statement.method in ("linear-jacobian", "rowwise"):
            work = max(statement.claims.values(), default=WORK)
            boxes = _tightened(nodes, statement, boxes, whole, work)
            if statement.rows is None:
                proven = linear_jacobian_constant(nodes, statement.norm, boxes, work)
            else:
                proven = _by_rows(nodes, statement, boxes, work)
        elif statement.norm != 2.0:
            raise ValueError("Slope restrictions bound the l2 norm alone.")
        elif statement.method == "lipsdp-channel":
            proven = channels_prove(nodes, boxes, statement.multipliers)
        else:
            proven = statement.bound if slopes_prove(nodes, boxes, statement.multipliers, statement.bound) else math.inf
    except ValueError as error:
        reasons.append(str(error))
        return math.inf
    except MemoryError:
        reasons.append("The memory does not suffice to follow the argument.")
        return math.inf
    if not proven <= statement.bound:
        reasons.append(f"The upper bound {statement.bound!r} is not proven: the checker proves {proven!r}.")
    return proven


def _tightened(
    nodes: Sequence[NodeLike], statement: Statement, boxes: list[Box], ball: tuple[Array, float, float] | None, work: float
) -> list[Box]:
    box = statement.region.box
    if not (np.isfinite(box.lo).all() and np.isfinite(box.hi).all()):
        raise ValueError("Linear bounds need a bounded domain.")
    if not 0 <= work <= WORK:
        raise ValueError(f"more work is asked for than {WORK:g}, or less than none")
    return tight_values(nodes, boxes, ball, work)


def _by_rows(nodes: Sequence[NodeLike], statement: Statement, boxes: list[Box], work: float) -> float:
    """The largest of the rows' linf constants, each by linear bounds or by multipliers with weights of the inputs.

    The weights add up to one at most, so that ``(f_i(x) - f_i(y))^2 <= bound^2 sum_j w_j (x_j - y_j)^2 <= bound^2 |x - y|_inf^2``.
    """
    count, proven = math.prod(nodes[-1].shape), 0.0
    if statement.norm != math.inf or statement.rows is None or len(statement.rows) != count:
        raise ValueError(f"An argument by rows bounds the linf norm, and needs one for each of the {count} rows.")
    for i, given in enumerate(statement.rows):
        if not given:
            proven = max(proven, row_length(nodes, boxes, i, work))
            continue
        headed = [*nodes, *_head(nodes, (i,))]
        multipliers = dict(given)
        weights = multipliers.pop(0, None)
        if weights is None or weights.shape != nodes[0].shape or not (weights > 0).all() or not norm_above(weights, 1.0) <= 1.0:
            raise ValueError(f"The weights of row {i} are not positive numbers that add up to one at most.")
        if any(not 0 < k < len(headed) for k in multipliers):
            raise ValueError(f"Row {i} speaks of a node that is not there.")
        if not slopes_prove(headed, _headed(headed, boxes), multipliers, statement.bound, weights):
            raise ValueError(f"The multipliers of row {i} do not prove {statement.bound!r}.")
        proven = max(proven, statement.bound)
    return proven


def _headed(nodes: Sequence[NodeLike], boxes: list[Box]) -> list[Box]:
    boxes = list(boxes)
    for node in nodes[len(boxes) :]:
        boxes.append(value_of(nodes, node, [boxes[i] for i in node.inputs]))
    return boxes


def _lower(nodes: Sequence[NodeLike], statement: Statement, pair: tuple[Array, Array], reasons: list[str]) -> float:
    x, y = pair
    for name, z in (("x", x), ("y", y)):
        if not _inside(statement.region, z):
            reasons.append(f"The witness {name} is not proven to lie in the domain.")
            return 0.0
    fx, fy = (values(nodes, point(z))[-1] for z in (x, y))
    change = widen(fx.lo - fy.hi, fx.hi - fy.lo)
    distance = widen(x - y, x - y)
    length = norm_above(distance.size, statement.norm)
    if not 0 < length < math.inf:
        reasons.append("The two points of the witness do not differ, or are not finite.")
        return 0.0
    least = np.where((change.lo <= 0) & (change.hi >= 0), 0.0, np.minimum(np.abs(change.lo), np.abs(change.hi)))
    proven = 0.0
    if np.isfinite(least).all():
        proven = max(0.0, math.nextafter(norm_below(least, statement.norm) / length, 0.0))
    if not statement.lower <= proven:
        reasons.append(f"The lower bound {statement.lower!r} is not proven: the checker proves {proven!r} from the witness.")
    return proven


def _inside(region: Region, z: Array) -> bool:
    if not np.isfinite(z).all():
        return False
    if region.centre is None:
        return bool((region.box.lo <= z).all() and (z <= region.box.hi).all())
    apart: Box = widen(z - region.centre, z - region.centre)
    return norm_above(apart.size, region.norm) <= region.radius
