"""A Lur'e system over a small region, in the coordinates of the input and of the few entries whose slopes are uncertain."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from steepest.ops.lure import LureSystem
from steepest.ops.signals import Flow, LinearMap, Signal


@dataclass(frozen=True, eq=False)
class Matrix(LinearMap):
    """``v -> B' v`` for a dense B, ``[entries read, entries given]``."""

    block: Tensor

    def apply(self, rows: Tensor) -> Tensor:
        """Rows times B."""
        return rows @ self.block.to(rows.dtype)

    def transpose(self, rows: Tensor) -> Tensor:
        """Rows times B'."""
        return rows @ self.block.mT.to(rows.dtype)


def entries(system: LureSystem) -> int:
    """How many numbers its maps hold, multiplied out."""
    flow, basis = Flow(system.signals), frozenset(system.variables)
    targets = (*(stage.v for stage in system.stages), system.output)
    return sum(system.signals[t].size * system.signals[i].size for t in targets for i in flow.sources(t, basis))


def free_form(system: LureSystem) -> LureSystem:
    """The same system with all linear maps between its variables multiplied out.

    What every nonlinearity reads becomes one dense linear map of the input and of earlier nonlinearities' outputs, so that layers, and
    entries whose slope is one number, are no longer seen. Where few entries are uncertain the signals in between would be far larger than
    what is left: of thousands of neurons around an input, dozens or hundreds.

    Args:
        system: of ``lure_system``; stages, multipliers and their order stay as they are.
    """
    signals, place = [system.signals[0]], {0: 0}

    def written(target: int) -> int:
        blocks = system.matrices(target)
        signals.append(Signal(system.signals[target].shape, tuple((Matrix(b), place[i]) for i, b in sorted(blocks.items()))))
        return len(signals) - 1

    stages = []
    for stage in system.stages:
        v = written(stage.v)
        signals.append(Signal(system.signals[stage.z].shape))
        place[stage.z] = len(signals) - 1
        stages.append(replace(stage, v=v, z=place[stage.z]))
    output = written(system.output)
    return LureSystem(tuple(signals), tuple(stages), output, system.parts)
