"""The loss and its gradient along the gradient: how far a first-order step can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from steepest.measures.objective import Batch, LossFunction, Objective, Parameters


@dataclass(frozen=True)
class AlongGradient:
    """The loss at ``w - s g`` for several s, where g is the gradient at w (Santurkar et al. 2018, section 3.2, figure 4).

    Args:
        loss: at w.
        gradient_norm: ``|g|``.
        steps: the sizes s.
        losses: at ``w - s g``.
        changes: ``|gradient(w - s g) - g|``.
        cosines: of the angle between both gradients.
    """

    loss: float
    gradient_norm: float
    steps: tuple[float, ...]
    losses: tuple[float, ...]
    changes: tuple[float, ...]
    cosines: tuple[float, ...]

    @property
    def loss_range(self) -> tuple[float, float]:
        """The least and the largest loss over the steps."""
        return min(self.losses), max(self.losses)

    @property
    def gradient_range(self) -> tuple[float, float]:
        """Gradient predictiveness: the least and the largest change of the gradient over the steps."""
        return min(self.changes), max(self.changes)

    @property
    def smoothness(self) -> float:
        """Effective beta-smoothness: the largest change of the gradient per distance moved; 0 where the gradient is."""
        if self.gradient_norm == 0.0:
            return 0.0
        return max(c / (abs(s) * self.gradient_norm) for s, c in zip(self.steps, self.changes, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "steps": list(self.steps),
            "losses": list(self.losses),
            "changes": list(self.changes),
            "cosines": list(self.cosines),
            "smoothness": self.smoothness,
        }


def along_gradient(model: nn.Module, loss_fn: LossFunction, batch: Batch, steps: Sequence[float]) -> AlongGradient:
    """The range of the loss, the predictiveness of the gradient and the effective smoothness over a range of steps.

    Cost: one gradient, and one more per step. Model, buffers and random states stay as they were.

    Args:
        steps: multiples of the gradient, not zero; Santurkar et al. take half to four times the rate.

    Source: Santurkar et al. 2018, section 3.2.
    """
    assert steps and all(steps), "steps are a non-empty sequence of numbers that are not zero"
    objective = Objective(model, loss_fn, batch)
    loss, gradient = objective.gradient()
    losses, changes, cosines = [], [], []
    for s in steps:
        value, there = objective.gradient({n: p - s * gradient[n] for n, p in objective.parameters.items()})
        losses.append(value)
        changes.append(norm({n: there[n] - g for n, g in gradient.items()}))
        cosines.append(cosine(gradient, there))
    return AlongGradient(loss, norm(gradient), tuple(steps), tuple(losses), tuple(changes), tuple(cosines))


def norm(tensors: Parameters) -> float:
    """The Euclidean norm of all together."""
    return sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5


def cosine(a: Parameters, b: Parameters) -> float:
    """Of the angle between both; 0 where one of them is zero."""
    size = norm(a) * norm(b)
    return sum(float((a[n].double() * b[n].double()).sum()) for n in a) / size if size else 0.0
