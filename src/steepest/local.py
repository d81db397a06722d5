"""Upper bounds of the constants around many inputs at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steepest.bounds import LinearJacobian, LocalLipSDP
from steepest.graph import Graph
from steepest.numerics.threads import threads, worthwhile_threads
from steepest.ops.backward import tighten_ball


def _quietly(done: int) -> None:
    pass


@dataclass(frozen=True)
class LocalConstants:
    """The least bound of the constant around each of many inputs that is quick to find.

    In every norm the linear bounds of the Clarke Jacobian (``LinearJacobian``), all inputs of a part together; in l2 the multipliers of
    ``LocalLipSDP`` as well. Proven in floating point, with rounding accounted for; for a certificate, a lower end and more effort run
    ``Bracketing`` over one ball.

    Args:
        norm: 1, 2 or inf, of inputs, outputs and balls.
        linear: bounds of the Jacobian.
        multipliers: in l2.
        together: inputs of one part.
        progress: called with the number of inputs done.
    """

    norm: float = 2.0
    linear: LinearJacobian = field(default_factory=lambda: LinearJacobian(work=2e9))
    multipliers: LocalLipSDP = field(default_factory=LocalLipSDP)
    together: int = 8
    progress: Callable[[int], None] = _quietly

    def run(self, graph: Graph, x: Tensor, radius: Tensor, executor: Executor | None = None) -> Tensor:
        """Bound ``|f(y) - f(z)| <= L_i |y - z|`` for y, z with ``|y - x_i| <= radius_i`` and ``|z - x_i| <= radius_i``.

        Args:
            graph: the network.
            x: ``[batch, *input_shape]``, float64.
            radius: ``[batch]``, finite and non-negative.
            executor: parts of the batch are computed by it, otherwise here one after the other; it stays open.

        Returns:
            ``[batch]``, float64; infinite where a derivative is unbounded over a ball.
        """
        parts = [(x[i : i + self.together], radius[i : i + self.together]) for i in range(0, len(x), self.together)]
        plain = replace(self, progress=_quietly)
        waiting = [] if executor is None else [executor.submit(plain.part, graph, *part) for part in parts]
        found, done = [torch.zeros(0, dtype=torch.float64)], 0
        with threads(worthwhile_threads(graph.entries)):
            for i, part in enumerate(parts):
                found.append(waiting[i].result() if waiting else plain.part(graph, *part))
                done += len(part[0])
                self.progress(done)
        return torch.cat(found)

    def part(self, graph: Graph, x: Tensor, radius: Tensor) -> Tensor:
        """The same for inputs that are enclosed together."""
        values = tighten_ball(graph, x, radius, self.norm)
        best = self.linear.over(graph, values, self.norm)
        if self.norm == 2.0:
            best = torch.minimum(best, self.multipliers.constants(graph, x, radius))
        return best
