"""Local l2 constants around many inputs: linear bounds of the values for all at once, then multipliers for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steepest.bounds.lipsdp.bound import LipSDP
from steepest.errors import UsageError
from steepest.graph import Graph, Node
from steepest.numerics.deadline import Deadline
from steepest.numerics.interval import Interval
from steepest.ops import Dense, Reshape
from steepest.ops.backward import BackwardBounds, tighten_ball
from steepest.ops.enclosures import Enclosures
from steepest.ops.lure import lure_system


def _quietly(done: int) -> None:
    pass


@dataclass(frozen=True)
class LocalLipSDP:
    """The least l2 constants over l2 balls that the slopes there prove, one multiplier per neuron of uncertain slope.

    Use it for the sensitivity of a network around many inputs. Over the ball around x the values of all neurons are enclosed by backward
    linear bounds, which leaves most of them one slope; those are linear, and LipSDP is solved in the coordinates of the input and of
    the others (``free_form``) by an interior point. Proven in floating point: ``|f(y) - f(z)|_2 <= L |y - z|_2`` for y, z in the ball, or
    of ``<row, f>`` for each row given. ``LipSDP.bound`` over one ball is the same with a certificate.

    Args:
        inner: how multipliers are found.
        bounds: of the values.
        together: inputs enclosed at once.
        seconds: for the multipliers of one constant, by the clock on the wall.
        progress: called with the number of inputs done.

    Source: Fazlyab et al. 2019 (LipSDP-Neuron) with slopes from Zhang et al. 2018 (CROWN).
    """

    inner: LipSDP = field(default_factory=lambda: LipSDP(deadline=Deadline(), steps=12, exact=1600, gap=1e-3))
    bounds: BackwardBounds = field(default_factory=BackwardBounds)
    together: int = 8
    seconds: float = math.inf
    progress: Callable[[int], None] = _quietly

    def constants(
        self,
        graph: Graph,
        x: Tensor,
        radius: float | Tensor,
        rows: Tensor | None = None,
        within: Interval | None = None,
        executor: Executor | None = None,
    ) -> Tensor:
        """Upper bounds of the constants around every input.

        Args:
            graph: the network.
            x: centres, ``[batch, *input_shape]``, taken as float64.
            radius: of all balls, or ``[batch]``.
            rows: ``[batch or 1, count, *shape]``: for each input the constants of the scalar maps ``<row, f>``, margins say.
            within: a box of one input's shape that holds all inputs spoken of.
            executor: parts of the batch are computed by it, otherwise here one after the other; it stays open.

        Returns:
            float64, ``[batch]``, or ``[batch, count]`` with rows; infinite where a node has no finite slope over a ball, is a product
            of branches, or where too many slopes are uncertain for a proof.

        Raises:
            UsageError: where shapes do not fit, or something is not finite, or a radius negative.
        """
        x = x.detach().double().cpu()
        radius = torch.as_tensor(radius, dtype=torch.float64)
        if x.shape[1:] != graph.input_shape or not bool(torch.isfinite(x).all()):
            raise UsageError(f"x is {list(x.shape)}: finite inputs of shape [batch, {', '.join(map(str, graph.input_shape))}] are expected")
        if radius.shape not in ((), x.shape[:1]) or not bool(((radius >= 0) & (radius < math.inf)).all()):
            raise UsageError(f"the radius is one finite number of at least 0, or one for each of the {len(x)} inputs")
        if rows is not None and (rows.ndim < 2 or rows.shape[2:] != graph.shape or rows.shape[0] not in (1, len(x))):
            raise UsageError(f"rows are {list(rows.shape)}: [{len(x)} or 1, count, {', '.join(map(str, graph.shape))}] is expected")
        radius = radius.expand(len(x))
        rows = None if rows is None else rows.detach().double().cpu().expand(len(x), *rows.shape[1:])
        parts = [slice(i, i + self.together) for i in range(0, len(x), self.together)]
        plain = replace(self, progress=_quietly)
        tasks = [(graph, x[p], radius[p], None if rows is None else rows[p], within) for p in parts]
        waiting = [executor.submit(plain._part, *task) for task in tasks] if executor is not None else []
        found, done = [], 0
        for i, task in enumerate(tasks):
            found.append(waiting[i].result() if waiting else plain._part(*task))
            done += len(task[1])
            self.progress(done)
        return torch.cat(found) if found else torch.zeros(0, *(() if rows is None else rows.shape[1:2]), dtype=torch.float64)

    def _part(self, graph: Graph, x: Tensor, radius: Tensor, rows: Tensor | None, within: Interval | None) -> Tensor:
        values = tighten_ball(graph, x, radius, 2.0, within, self.bounds)
        found = []
        for i in range(len(x)):
            known = Enclosures([v.map(lambda t, i=i: t[i]) for v in values])
            if rows is None:
                found.append(self._constant(graph, known))
            else:
                found.append([self._constant(headed, known.headed(headed)) for headed in (_with_row(graph, row) for row in rows[i])])
        return torch.tensor(found, dtype=torch.float64)

    def _constant(self, graph: Graph, known: Enclosures) -> float:
        system = lure_system(graph, known.values)
        if system is None:
            return math.inf
        deadline = self.inner.deadline.within(self.seconds) if self.seconds < math.inf else self.inner.deadline
        found = replace(self.inner, deadline=deadline).multipliers(system)
        return math.inf if found is None else found[0]


def _with_row(graph: Graph, row: Tensor) -> Graph:
    size, last = row.numel(), len(graph.nodes) - 1
    flat = Node("row", Reshape((graph.shape,), (size,)), (last,))
    return Graph(
        (*graph.nodes, flat, Node("row", Dense(((size,),), row.reshape(1, size), torch.zeros(1, dtype=torch.float64)), (last + 1,)))
    )
