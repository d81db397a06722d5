"""What the methods here share: options checked, gradients prepared, tensors handed on in lists."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Closure = Callable[[], Any]


class Descent(Optimizer):
    """Base of the methods: a ``torch.optim.Optimizer`` whose groups are checked whenever they are added.

    Every group has ``lr`` (a number or a tensor of one element), ``weight_decay``, ``maximize`` and ``foreach``. With ``foreach`` (also
    where it is None) the tensors of a group are updated in lists, by few kernels, at the price of temporaries as large as the parameters;
    with ``foreach=False`` one by one. Both do the same arithmetic. Complex parameters are pairs of real ones. Gradients
    through the update are not offered.
    """

    rate_is_limit = False
    """Whether ``lr`` limits a step that comes from elsewhere, and may be infinite."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does.

        Raises:
            ValueError: for an option out of range.
        """
        super().add_param_group(param_group)
        try:
            self._require(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _require(self, group: dict[str, Any]) -> None:
        if isinstance(group["lr"], Tensor) and group["lr"].numel() != 1:
            raise ValueError(f"lr has {group['lr'].numel()} elements: a tensor of one, or a number, is needed")
        require_nonnegative("lr", float(group["lr"]), finite=not self.rate_is_limit)
        require_nonnegative("weight_decay", group["weight_decay"], finite=True)
        if group.get("differentiable"):
            raise ValueError(f"{type(self).__name__} has no gradient through its update: differentiable=True is not offered")

    def _active(self, group: dict[str, Any]) -> list[Tensor]:
        """The parameters of a group that have a gradient."""
        active = [p for p in group["params"] if p.grad is not None]
        for p in active:
            if p.grad.is_sparse:
                raise RuntimeError(
                    f"{type(self).__name__} does not take sparse gradients (of a parameter of shape {tuple(p.shape)}): "
                    "build the embedding with sparse=False, or give its parameters to torch.optim.SparseAdam"
                )
        return active

    def _chunks(self) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
        """The groups, and those of their parameters that have a gradient: all at once, or one by one without ``foreach``."""
        for group in self.param_groups:
            active = self._active(group)
            if group["foreach"] is False:
                yield from ((group, [p]) for p in active)
            elif active:
                yield group, active


def evaluate(closure: Closure | None) -> Any:
    """The closure's value, with gradients enabled; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def number(loss: Any) -> float:
    """The value of a loss, which may hang on a graph."""
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def directions(parameters: list[Tensor], group: dict[str, Any], coupled: bool = True) -> list[Tensor]:
    """The gradients of what is minimised, as real tensors: ``-f`` under ``maximize``, plus ``weight_decay / 2 |x|^2`` where coupled.

    The gradients themselves are left as they are.
    """
    gradients = real([p.grad for p in parameters if p.grad is not None])
    if group["maximize"]:
        gradients = list(torch._foreach_neg(gradients))
    if coupled and group["weight_decay"]:
        gradients = list(torch._foreach_add(gradients, real(parameters), alpha=group["weight_decay"]))
    return gradients


def real(tensors: list[Tensor]) -> list[Tensor]:
    """Real views: complex tensors gain an axis of two."""
    return [torch.view_as_real(t) if t.is_complex() else t for t in tensors]


def squared_norm(tensors: Sequence[Tensor]) -> float:
    """The sum of squares of real tensors; sums of each in at least single precision."""
    return math.fsum(float(n) ** 2 for n in torch._foreach_norm(list(tensors), 2, dtype=_wide(tensors))) if tensors else 0.0


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """The inner product of two lists of real tensors."""
    return math.fsum(float(torch.sum(a * b, dtype=_wide([a]))) for a, b in zip(left, right, strict=True))


def _wide(tensors: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def require_nonnegative(name: str, value: float, finite: bool = False) -> None:
    """Refuse a negative number, one that is not a number, and infinity where asked.

    Raises:
        ValueError: names the option, says what was given and expected.
    """
    if not 0.0 <= value or (finite and math.isinf(value)):
        raise ValueError(f"{name} is {value}: a {'finite ' if finite else ''}number of at least 0 is needed")


def require_fraction(name: str, value: float) -> None:
    """Refuse what is not in [0, 1).

    Raises:
        ValueError: names the option, says what was given and expected.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is {value}: a number in [0, 1) is needed")
