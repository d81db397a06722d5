"""Early stopping: training ends where the held-out value no longer improves."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import nn

from steepest.optim.descent import require_nonnegative


class EarlyStopping:
    """Says when to stop, and keeps the best parameters.

    ::

        stopping = EarlyStopping(patience=10)
        for epoch in range(epochs):
            ...
            if stopping.update(validation_loss, model):
                break
        stopping.restore(model)

    Stops when the value has not improved by more than ``least_change`` over the best in ``patience`` updates, when it is not a number, or,
    with ``generalization_loss``, when ``100 (value / best - 1)`` exceeds that many percent (Prechelt's class GL; needs values above 0 that
    are minimised).

    Args:
        patience: updates without improvement that are borne, at least 1.
        least_change: an improvement is larger than this.
        maximize: larger values are better.
        generalization_loss: alpha, in percent; None: not used.

    Raises:
        ValueError: for an option out of its range.

    Source: L. Prechelt, Early stopping - but when?, in Neural networks: tricks of the trade, 1998 (UP and GL).
    """

    def __init__(
        self, patience: int = 10, least_change: float = 0.0, *, maximize: bool = False, generalization_loss: float | None = None
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}: a number of updates, at least 1, is needed")
        require_nonnegative("least_change", least_change, finite=True)
        if generalization_loss is not None:
            require_nonnegative("generalization_loss", generalization_loss)
            if maximize:
                raise ValueError("generalization_loss speaks of losses, which are minimised: leave out maximize")
        self.patience, self.least_change, self.maximize = patience, least_change, maximize
        self.generalization_loss = generalization_loss
        self.best = -math.inf if maximize else math.inf
        self.best_update = -1
        self.updates = 0
        self.best_state: dict[str, Any] | None = None

    def update(self, value: float, model: nn.Module | None = None) -> bool:
        """Take in a held-out value.

        Args:
            value: loss, or what is maximised.
            model: its state is copied where the value is the best so far.

        Returns:
            Whether to stop.
        """
        gain = value - self.best if self.maximize else self.best - value
        if gain > self.least_change:
            self.best, self.best_update = value, self.updates
            if model is not None:
                self.best_state = copy.deepcopy(model.state_dict())
        self.updates += 1
        overfits = self.generalization_loss is not None and value > self.best * (1.0 + self.generalization_loss / 100.0)
        return math.isnan(value) or overfits or self.updates - 1 - self.best_update >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Give the model the state it had at the best value.

        Raises:
            RuntimeError: where no state has been kept.
        """
        if self.best_state is None:
            raise RuntimeError("no state has been kept: give update(value, model) the model")
        model.load_state_dict(self.best_state)

    def state_dict(self) -> dict[str, Any]:
        """What has been seen so far."""
        return {"best": self.best, "best_update": self.best_update, "updates": self.updates, "best_state": self.best_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.best, self.best_update = state["best"], state["best_update"]
        self.updates, self.best_state = state["updates"], state["best_state"]
