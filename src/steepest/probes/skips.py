"""Are the residual branches used?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest.measures.budget import Budget
from steepest.measures.skips import Join, residual_use
from steepest.probes.events import Forward
from steepest.probes.probe import Probe


@dataclass(frozen=True)
class SkipRecord:
    """Residual joins at the first and the last measurement.

    Args:
        first, last: in the order of execution.
    """

    first: tuple[Join, ...]
    last: tuple[Join, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"first": [j.to_json() for j in self.first], "last": [j.to_json() for j in self.last]}


class Skips(Probe):
    """How much each residual branch adds to its skip.

    The model is applied once more to the same inputs, which a forward method with a state of its own would notice: ask for this probe where
    you know that there is none. Cost: one forward pass in a sampled window, within ``share`` of the run's time.

    Args:
        share: of the run's time.
    """

    def __init__(self, share: float = 0.03) -> None:
        self.budget = Budget(share, windows=1.0)
        self.found: list[tuple[Join, ...]] = []

    def on_forward(self, event: Forward) -> None:
        """Apply the model again, where the budget allows."""
        if not event.grad or not event.training:
            return
        self.budget.tick()
        if event.sampled and self.budget.allows():
            with self.budget.spending():
                inputs = event.kwargs if event.kwargs and not event.args else event.args
                if all(isinstance(t, Tensor) for t in (inputs.values() if isinstance(inputs, dict) else inputs)):
                    self.found.append(residual_use(event.module, inputs))

    def finish(self) -> SkipRecord | None:
        """The first and the last."""
        return SkipRecord(self.found[0], self.found[-1]) if self.found and self.found[0] else None
