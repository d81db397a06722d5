"""What an observer tells its probes: one frozen record for each thing that happens in a training run.

The tensors in a record are the script's own, alive for the duration of the call that hands it over. A probe reads them under
``torch.no_grad``, keeps numbers or detached copies, never the tensor, never changes one, and draws no random numbers.

A *window* is everything between two steps of optimizers (or two updates by hand). Every record carries the number of steps done before it,
and whether its window is sampled: cheap facts come in every window, costly ones in sampled windows alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True, eq=False)
class Event:
    """What every record carries.

    Args:
        step: optimizer steps completed before this event, over all optimizers.
        sampled: whether this window is one in which costly questions may be asked.
    """

    step: int
    sampled: bool


@dataclass(frozen=True, eq=False)
class Forward(Event):
    """An outermost call of a module that holds parameters: a model was applied. Every window.

    Args:
        module: the model; name: what it is called in the report.
        args, kwargs, output: of the call.
        training: the mode the model is in.
        grad: whether gradients were enabled, so that False means evaluation.
    """

    module: nn.Module
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    training: bool
    grad: bool

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors among the arguments, in order."""
        return tuple(tensors((self.args, self.kwargs)))

    @cached_property
    def prediction(self) -> Tensor | None:
        """The output where it is one tensor; of several the one called ``logits``, or the first with two axes or more, or the first."""
        return prediction_of(self.output)


@dataclass(frozen=True, eq=False)
class ModuleCall(Event):
    """A call of any module, outermost ones and losses included. Sampled windows.

    Args:
        module: the module; name: its qualified name under its model.
        args, kwargs, output: of the call. An in-place successor may change ``output`` later, not during this call.
        training: the mode of this module.
        grad: whether gradients were enabled.
        depth: 0 for an outermost call, 1 for its children as they are called, and so on.
        order: 0, 1, 2 ... in the order in which calls of this window ended.
        leaf: whether no other module was called within it.
    """

    module: nn.Module
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    training: bool
    grad: bool
    depth: int
    order: int
    leaf: bool


@dataclass(frozen=True, eq=False)
class ModuleGradient(Event):
    """The gradient of the loss in the output of a module call, as the backward pass reaches it. Sampled windows.

    Args:
        module, name, order: as in the ``ModuleCall``, which came earlier.
        gradient: of the same shape as that call's output.
        scale: what a ``GradScaler`` multiplied the loss by; divide by it.
    """

    module: nn.Module
    name: str
    order: int
    gradient: Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Criterion(Event):
    """A call of a loss of ``torch.nn.functional``, which the modules of ``torch.nn`` call as well. Every window.

    Args:
        name: ``cross_entropy``, ``mse_loss``, ...
        input, target, result: its tensors; None once ``on_criterion`` is over, as in ``Backward.criteria``.
        input_shape, target_shape, target_dtype: of these, as given, before they are broadcast.
        options: the other arguments, tensors left out: ``reduction``, ``label_smoothing``, ...
        value: of the result where it is one number on the CPU.
        grad: whether the result has a gradient; False is a loss measured in evaluation.
        on_output: whether ``input`` is the very output of the latest model call.
        training: the mode of the model that was called last; None before any.
    """

    name: str
    input: Tensor | None
    target: Tensor | None
    result: Tensor | None
    input_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    target_dtype: torch.dtype
    options: dict[str, Any]
    value: float | None
    grad: bool
    on_output: bool
    training: bool | None


@dataclass(frozen=True, eq=False)
class Comparison(Event):
    """``left == right``, ``left != right`` or ``left - right`` of two tensors, nothing of it differentiated. Every window.

    One of them is as long as the latest prediction.

    This is how accuracy and errors on held-out data are seen where they are written by hand. The mean of an equality is the accuracy,
    unless the shapes were broadcast against each other: then ``result`` is larger than both.

    Args:
        name: ``eq``, ``ne`` or ``sub``.
        left, right, result: its tensors.
        grad: whether gradients were enabled when the model was called, so that True may mean accuracy on a training batch.
        training: the mode of the model when it was called.
        count: how many model calls there had been, to tell which comparisons belong to one call.
    """

    name: str
    left: Tensor
    right: Tensor
    result: Tensor
    grad: bool
    training: bool
    count: int


@dataclass(frozen=True, eq=False)
class Backward(Event):
    """A backward pass, told at its start (the graph is whole) and at its end (the gradients are there). Every window.

    At the start of a sampled window a probe may differentiate ``loss`` with ``torch.autograd.grad(..., retain_graph=True)``.

    Args:
        loss: the tensor it starts from; of a list, the first.
        value: its value, unscaled; None where reading it would wait for an accelerator in a window that is not sampled.
        scale: what a ``GradScaler`` multiplied it by.
        criteria: the losses called since the last backward pass, without their tensors.
        outputs: the model outputs since then that have a gradient, with the names of their models; empty once ``before_backward``
            is over, and where the window is not sampled.
        inside_step: whether an optimizer's closure runs it.
        number: of this backward pass in its window: 0, 1, ... counts micro-batches.
    """

    loss: Tensor
    value: float | None
    scale: float
    criteria: tuple[Criterion, ...]
    outputs: tuple[tuple[str, Tensor], ...]
    inside_step: bool
    number: int


@dataclass(frozen=True, eq=False)
class Step(Event):
    """A step of an optimizer, told before and after. Every window.

    Args:
        optimizer: it; index: 0, 1, ... in the order in which optimizers were first seen.
        own_step: steps of this optimizer before this one.
        losses: values of the backward passes since the last step, unscaled; shorter where they are on an accelerator and unread.
        backwards: how many backward passes there were since this optimizer's gradients were seen cleared.
        cleared: whether they were seen cleared since its last step; None at its first step, and inside closures.
        by_hand: False; True in the record of an update without optimizer, where ``optimizer`` is None.
    """

    optimizer: Optimizer | None
    index: int
    own_step: int
    losses: tuple[float, ...]
    backwards: int
    cleared: bool | None
    by_hand: bool = False

    @cached_property
    def rates(self) -> tuple[float, ...]:
        """The step size of each parameter group."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        return tuple(float(g["lr"]) for g in groups if "lr" in g)

    @cached_property
    def parameters(self) -> tuple[Tensor, ...]:
        """All parameters of the optimizer."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        return tuple(p for g in groups for p in g["params"])


@dataclass(frozen=True, eq=False)
class Epoch(Event):
    """A ``DataLoader`` begins to be read. Every window.

    Args:
        loader: it; index: 0, 1, ... in the order in which loaders were first read.
        number: how often it was begun before.
        batches: its length; None where it has none.
        batch_size: None where a batch sampler of the script's own makes the batches.
        shuffled: whether the sampler is a random one; None where it is of the script's own.
        grad: whether gradients are enabled as it begins.
    """

    loader: Any
    index: int
    number: int
    batches: int | None
    batch_size: int | None
    shuffled: bool | None
    grad: bool


@dataclass(frozen=True)
class LossPoint:
    """One value of the loss, as ``run.losses`` keeps it.

    Args:
        step: steps completed before.
        value: unscaled; divided by the number of micro-batches where the script does so.
        optimizer: index of the optimizer that stepped next; None where none did.
        weight: the length of the batch (the first axis of the latest prediction); 0 where unknown.
    """

    step: int
    value: float
    optimizer: int | None = None
    weight: int = 0

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"step": self.step, "value": self.value, "optimizer": self.optimizer}


def tensors(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item, depth - 1)
    elif depth and isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item, depth - 1)
    elif depth and hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        for name in value.__dataclass_fields__:
            yield from tensors(getattr(value, name, None), depth - 1)


def prediction_of(output: Any) -> Tensor | None:
    """The tensor of a model's output that is compared with targets."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if hasattr(output, "get") else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    found = list(tensors(output))
    return next((t for t in found if t.ndim >= 2), found[0] if found else None)
