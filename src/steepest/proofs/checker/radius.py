"""A classifier keeps its answer within a ball: every margin over another class stays positive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker.appended import with_rows
from steepest.proofs.checker.backward import WORK, tight_values
from steepest.proofs.checker.box import Array, Box, image, norm_above, point
from steepest.proofs.checker.linear import NodeLike, linear_part
from steepest.proofs.checker.pushed import row_length
from steepest.proofs.checker.walk import pulled_rows, values

METHODS = ("constant", "intervals", "linear", "slopes")
DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


@dataclass(frozen=True)
class Claim:
    """``|x' - x|_p <= radius`` implies the answer.

    Args:
        x: the input.
        answer: the position of the largest entry of the flattened output.
        radius: not negative.
        method: how it is proven: what comes before it in ``METHODS`` may help.
        work: for linear bounds, multiplications for the rows of one node.
    """

    x: Array
    answer: int
    radius: float
    method: str
    work: float = 0.0


@dataclass(frozen=True)
class Constant:
    """A proven constant in lp of the network up to a node, over all inputs."""

    node: int
    bound: float


def scores(nodes: Sequence[NodeLike]) -> list[NodeLike]:
    """Without a last softmax or log-softmax over all outputs, and reshapes: they keep the order of the entries."""
    kept = list(nodes)
    while len(kept) > 1 and kept[-1].inputs == (len(kept) - 2,) and _keeps_order(kept[-1]):
        kept.pop()
    return kept


def _keeps_order(node: NodeLike) -> bool:
    if node.op == "reshape":
        return True
    whole = len(node.shape) > 0 and node.shape[-1] == math.prod(node.shape)
    return whole and (node.op == "log_softmax" or (node.op == "softmax" and bool((node.arrays["allowed"] != 0).all())))


def unproven(nodes: Sequence[NodeLike], claim: Claim, p: float, constant: Constant | None) -> str:
    """What of a claim could not be proven, as a sentence; empty where all of it was.

    With c the answer and j any other class, ``m_j = f_c(x) - f_j(x)`` is bounded from below by intervals. Over the ball ``f_c - f_j`` is at
    least ``m_j - s_j radius``, s_j a constant of it: from that of the network up to a node and the rows of the affine ones after it;
    from the intervals around its gradient, or linear bounds of that; and it is at least what linear bounds say of its values. One of them
    must be positive for each j.

    Args:
        nodes: as ``scores`` gives them.
        claim: what is to be proven.
        p: 1, 2 or inf.
        constant: of the network up to a node, or None.
    """
    classes = math.prod(nodes[-1].shape)
    if classes < 2 or not 0 <= claim.answer < classes:
        return f"There is no class {claim.answer} among {classes}."
    others = [j for j in range(classes) if j != claim.answer]
    rows = np.zeros((classes - 1, classes))
    rows[:, claim.answer] = 1.0
    rows[np.arange(classes - 1), others] = -1.0
    headed = with_rows(nodes, rows)
    margins = values(headed, point(claim.x))[-1].lo
    left = ~(margins > 0)
    if left.any():
        return f"The answer at the input is not proven to be {claim.answer}."
    if claim.radius == 0:
        return ""
    left = np.ones(classes - 1, dtype=bool)
    if constant is not None:
        slopes = np.nextafter(_lengths(_pulled_to(nodes, rows, constant.node), p) * constant.bound, np.inf)
        left &= ~_outlasts(margins, slopes, claim.radius)
    if left.any() and claim.method != "constant":
        left = _locally(headed, claim, p, margins, left)
    return (
        f"Not every margin is proven positive within {claim.radius!r}: not over class {others[int(left.argmax())]}." if left.any() else ""
    )


def _locally(headed: Sequence[NodeLike], claim: Claim, p: float, margins: Array, left: Array) -> Array:
    """Which margins stay unproven when the network is followed over the ball."""
    box = Box(np.nextafter(claim.x - claim.radius, -np.inf), np.nextafter(claim.x + claim.radius, np.inf))
    # An l1 ball lies within the l2 ball of its radius; for linf the box is the ball.
    boxes = values(headed, box, None if p == math.inf else (claim.x, claim.radius))
    if claim.method in ("linear", "slopes"):
        if not 0 <= claim.work <= WORK:
            raise ValueError(f"more work is asked for than {WORK:g}, or less than none")
        boxes = tight_values(headed, boxes, None if p == math.inf else (claim.x, claim.radius, p), claim.work, last=True)
    left = left & ~(boxes[-1].lo > 0)
    if left.any():
        left &= ~_outlasts(margins, _lengths(pulled_rows(headed, boxes), p), claim.radius)
    if claim.method == "slopes":
        for j in np.flatnonzero(left):
            slope = np.array([row_length(headed, boxes, int(j), claim.work, DUAL[p])])
            left[j] = not _outlasts(margins[j : j + 1], slope, claim.radius)[0]
    return left


def _outlasts(margins: Array, slopes: Array, radius: float) -> Array:
    """Whether ``margin - slope radius > 0``."""
    return np.nextafter(slopes * radius, np.inf) < margins


def _lengths(rows: Box, p: float) -> Array:
    return np.array([norm_above(row, DUAL[p]) for row in rows.size.reshape(len(rows.lo), -1)])


def _pulled_to(nodes: Sequence[NodeLike], rows: Array, node: int) -> Box:
    """Rows of the output as rows of a node's value, through the affine maps between.

    Raises:
        ValueError: where there is anything else between.
    """
    found = point(rows.reshape(-1, *nodes[-1].shape))
    for k in range(len(nodes) - 1, node, -1):
        linear = linear_part(nodes[k], nodes[nodes[k].inputs[0]].shape)
        if linear is None or tuple(nodes[k].inputs) != (k - 1,):
            raise ValueError(f"node {k} after the constant's is not an affine map of the one before it")
        found = image(found, linear.transpose, lambda t, of=linear: of.transpose(t, absolute=True), linear.terms)
    return found
