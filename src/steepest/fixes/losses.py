"""Interventions at the loss: its argument, its target's shape, its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steepest.fixes.intervention import Intervention
from steepest.fixes.seams import Seams, before, followed

CRITERIA = (
    "binary_cross_entropy binary_cross_entropy_with_logits cross_entropy huber_loss kl_div l1_loss mse_loss nll_loss poisson_nll_loss "
    "smooth_l1_loss soft_margin_loss"
)
SQUASH = frozenset(("softmax", "log_softmax", "sigmoid", "tanh", "logsigmoid", "hardsigmoid"))
CUT = frozenset(("relu", "relu6"))


def valued(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value of one tensor with the gradient of another."""
    return surrogate + (value - surrogate).detach()


@dataclass(frozen=True)
class RawLogits(Intervention):
    """The loss gets what the last activation was applied to; a rectifier at the end of a model is left out everywhere."""

    new_loss: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """In words."""
        return "raw outputs given to the loss, the last activation left out"

    def attach(self, seams: Seams) -> None:
        """At the exit of models and at losses that apply an activation of their own."""

        def uncut(model: nn.Module, output: Any) -> Any:
            known = before(output)
            if known is None or known[0] not in CUT:
                return output
            seams.touch()
            return known[1]

        def loss(name: str, proceed: Any, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
            known = before(input)
            if known is not None and known[0] in SQUASH | CUT:
                seams.touch()
                input = known[1]
            return proceed(input, target, *args, **kwargs)

        seams.outputs.append(uncut)
        seams.around("cross_entropy binary_cross_entropy_with_logits", loss)


@dataclass(frozen=True)
class ProbabilitiesToLoss(Intervention):
    """Losses of probabilities get them.

    ``nll_loss`` on raw outputs becomes cross-entropy, ``binary_cross_entropy`` on them that of logits, a softmax over one unit a sigmoid.
    """

    new_loss: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """In words."""
        return "the activation that the loss expects put before it"

    def attach(self, seams: Seams) -> None:
        """At the loss; a softmax over one unit is a sigmoid."""

        def nll(name: str, proceed: Any, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
            known = before(input)
            if known is not None and known[0] == "log_softmax":
                return proceed(input, target, *args, **kwargs)
            seams.touch()
            raw = known[1] if known is not None and known[0] in SQUASH else input
            return proceed(torch.log_softmax(raw, 1), target, *args, **kwargs)

        def bce(name: str, proceed: Any, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
            known = before(input)
            if known is not None and known[0] in ("sigmoid", "softmax"):
                return proceed(input, target, *args, **kwargs)
            seams.touch()
            return F.binary_cross_entropy_with_logits(
                input if known is None else known[1], target, reduction=kwargs.get("reduction", "mean")
            )

        def single(name: str, proceed: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            axis = kwargs.get("dim", args[0] if args else -1)
            if isinstance(axis, int) and tensor.ndim and tensor.shape[axis] == 1:
                seams.touch()
                return followed("sigmoid", torch.sigmoid, tensor) if name == "softmax" else followed("logsigmoid", F.logsigmoid, tensor)
            return proceed(tensor, *args, **kwargs)

        def one_class(name: str, proceed: Any, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
            if input.ndim == 2 and input.shape[1] == 1:
                seams.touch()
                return F.binary_cross_entropy_with_logits(input.reshape(-1), target.reshape(-1).to(input.dtype))
            return proceed(input, target, *args, **kwargs)

        seams.around("nll_loss", nll)
        seams.around("binary_cross_entropy", bce)
        seams.around("softmax", single)
        seams.around("cross_entropy", one_class)


@dataclass(frozen=True)
class MatchShapes(Intervention):
    """Prediction and target of one number of entries but different shape are compared entry by entry."""

    new_loss: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """In words."""
        return "target given the shape of the prediction"

    def attach(self, seams: Seams) -> None:
        """At losses, and at differences outside of models."""

        def alike(name: str, proceed: Any, input: Tensor, target: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(target, Tensor) and isinstance(input, Tensor) and input.shape != target.shape and input.ndim and target.ndim:
                column = {tuple(input.shape), tuple(target.shape)} == {(input.numel(),), (input.numel(), 1)}
                if column and not seams.depth:
                    seams.touch()
                    target = target.reshape(input.shape)
            return proceed(input, target, *args, **kwargs)

        seams.around("mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy_with_logits sub __sub__ __rsub__", alike)


@dataclass(frozen=True)
class OtherLoss(Intervention):
    """Another loss is descended; the script goes on seeing the values of its own.

    Args:
        loss: ``mse_loss``, or ``cross_entropy``: of classes for several outputs, of 0/1 targets for one.
    """

    new_loss: ClassVar[bool] = True
    loss: str = "mse_loss"

    @property
    def words(self) -> str:
        """In words."""
        return {"mse_loss": "the squared error descended in place of the loss"}.get(
            self.loss, "cross-entropy descended in place of the loss"
        )

    def attach(self, seams: Seams) -> None:
        """At all losses of ``torch.nn.functional``."""

        def other(name: str, proceed: Any, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
            value = proceed(input, target, *args, **kwargs)
            if not input.requires_grad:
                return value
            new = self._loss(seams, input, target)
            if new is None:
                return value
            seams.touch()
            return valued(value, new)

        seams.around(" ".join(n for n in CRITERIA.split() if n != self.loss), other)

    def _loss(self, seams: Seams, input: Tensor, target: Tensor) -> Tensor | None:
        known = before(input)
        raw = known[1] if known is not None and known[0] in SQUASH | CUT else input
        if self.loss == "mse_loss":
            if input.numel() != target.numel():
                return None
            call: Any = F.mse_loss
            for handler in seams.functions.get("mse_loss", ()):
                call = _bound(handler, call)
            return call(input, target.reshape(input.shape).to(input.dtype))
        if raw.ndim == 2 and raw.shape[1] > 1 and target.shape == raw.shape:
            return F.cross_entropy(raw, target.argmax(1))
        if raw.numel() == target.numel():
            return F.binary_cross_entropy_with_logits(raw.reshape(-1), target.reshape(-1).to(raw.dtype))
        return None


@dataclass(frozen=True)
class WithoutPenalty(Intervention):
    """Only the criterion is differentiated, not what is added to it."""

    new_loss: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """In words."""
        return "the penalty left out of the loss"

    def attach(self, seams: Seams) -> None:
        """The backward pass starts from the last value of a loss function."""
        last: list[Tensor] = []

        def keep(name: str, proceed: Any, *args: Any, **kwargs: Any) -> Any:
            result = proceed(*args, **kwargs)
            if isinstance(result, Tensor) and result.requires_grad and result.numel() == 1:
                last.append(result)
            return result

        def root(loss: Tensor) -> Tensor | None:
            found = last[0] if len(last) == 1 else None
            last.clear()
            if found is None or found is loss:
                return None
            seams.touch()
            return found

        seams.around(CRITERIA, keep)
        seams.backward.append(root)


def _bound(handler: Any, call: Any) -> Any:
    return lambda *args, **kwargs: handler(call, *args, **kwargs)
