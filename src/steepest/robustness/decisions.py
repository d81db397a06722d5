"""The answers of a classifier at inputs, and the margins by which it gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steepest.errors import UsageError
from steepest.graph import Graph, Node
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import below
from steepest.ops import LogSoftmax, Reshape, Softmax


@dataclass(frozen=True, eq=False)
class Decisions:
    """Inputs, and what a classifier answers there: the position of the largest entry of its flattened output.

    Args:
        graph: the classifier without what keeps the order of its scores (``scores``).
        x: ``[n, *input_shape]``, float64.
        answer: ``[n]`` int64, c.
        others: ``[n, classes - 1]`` int64, the classes j other than c.
        rows: ``[n, classes - 1, *shape]``: ``e_c - e_j``.
        margins: ``[n, classes - 1]``, ``f_c(x) - f_j(x)``, rounded down; not above zero where the answer itself is in doubt.
    """

    graph: Graph
    x: Tensor
    answer: Tensor
    others: Tensor
    rows: Tensor
    margins: Tensor

    @staticmethod
    def of(graph: Graph, x: Tensor) -> Decisions:
        """The answers at a batch of inputs.

        Args:
            graph: as ``scores`` gives it.
            x: ``[n, *input_shape]``, float64.
        """
        n, classes = len(x), math.prod(graph.shape)
        answer = graph.evaluate(x).reshape(n, classes).argmax(1)
        every = torch.arange(classes).expand(n, classes)
        others = every[every != answer[:, None]].reshape(n, classes - 1)
        rows = torch.zeros(n, classes - 1, classes, dtype=torch.float64)
        rows[torch.arange(n), :, answer] = 1.0
        rows.scatter_(2, others[:, :, None], -1.0)
        at = graph.enclose(Interval.point(x))[-1].map(lambda t: t.reshape(n, classes))
        margins = below(at.lo.gather(1, answer[:, None]) - at.hi.gather(1, others))
        return Decisions(graph, x, answer, others, rows.reshape(n, classes - 1, *graph.shape), margins)

    def picked(self, which: Tensor) -> Decisions:
        """Some of the inputs, by a mask or their positions."""
        return replace(
            self,
            x=self.x[which],
            answer=self.answer[which],
            others=self.others[which],
            rows=self.rows[which],
            margins=self.margins[which],
        )


def scores(graph: Graph) -> Graph:
    """The classifier without a last softmax or log-softmax over all its classes, which changes the answer nowhere.

    Raises:
        UsageError: where it has less than two outputs.
    """
    if math.prod(graph.shape) < 2:
        raise UsageError(
            f"the network has {math.prod(graph.shape)} output, and an answer is the largest of at least two scores: "
            "for a single logit z, append a layer that gives (0, z)"
        )
    kept = len(graph.nodes)
    while kept > 1 and graph.nodes[kept - 1].inputs == (kept - 2,) and _keeps_order(graph.nodes[kept - 1]):
        kept -= 1
    return Graph(graph.nodes[:kept])


def _keeps_order(node: Node) -> bool:
    """Whether the flattened output has its entries in the same order of size as the flattened input, for every input."""
    if isinstance(node.op, Reshape):
        return True
    open_ = isinstance(node.op, LogSoftmax) or (isinstance(node.op, Softmax) and bool((node.op.allowed != 0).all()))
    return open_ and node.shape[-1] == math.prod(node.shape)
