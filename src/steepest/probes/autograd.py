"""The loss as its autograd graph tells it: what was predicted, what it was compared with, and how, also where it is written by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.probes.events import Backward

_NAMED = {
    "MseLoss": "mse_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "BinaryCrossEntropy": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogits": "binary_cross_entropy_with_logits",
    "NllLoss": "nll_loss",
    "NllLoss2D": "nll_loss",
    "SoftMarginLoss": "soft_margin_loss",
    "MultiMarginLoss": "multi_margin_loss",
    "MultilabelMarginLoss": "multilabel_margin_loss",
}
_NONLINEAR = ("LogSoftmax", "Softmax", "Sigmoid", "LogSigmoid", "Tanh", "Relu", "Log", "Exp", "Softplus")
_VISITS = 4096


@dataclass(frozen=True, eq=False)
class Term:
    """One way from the loss back to a model's output.

    Args:
        name: the loss: one of ``torch.nn.functional``, ``squared_error``, ``absolute_error``, ``log_probability``, or ``unknown``.
        output: the model whose output it is; empty where the graph ends without one.
        prediction: that output.
        target: what it is compared with, as nearly as the graph holds it: exact for losses of ``torch.nn.functional`` and for indices,
            prediction minus residual (with its rounding) for differences, None where nothing tells.
        path: the operations from the loss back to the output, without the ending ``Backward0``.
        shapes: of the result of each of these operations.
    """

    name: str
    output: str
    prediction: Tensor | None
    target: Tensor | None
    path: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def activations(self) -> tuple[str, ...]:
        """The nonlinear operations between the model's output and the loss, from the loss backwards."""
        return tuple(
            p for p in self.path if p in ("LogSoftmax", "Softmax", "Sigmoid", "LogSigmoid", "Tanh", "Relu", "Log", "Exp", "Softplus")
        )


def terms(event: Backward) -> tuple[Term, ...]:
    """The ways from a loss to the model outputs of its window, each output once, by the shortest way.

    Walks at most 4,096 nodes of the graph, breadth first, and not beyond an output. Call it in ``before_backward`` of a sampled window.

    Args:
        event: the backward pass, at its start.

    Returns:
        One term for each output that is reached; where none is, one with what the nodes next to the loss say.
    """
    start = event.loss.grad_fn
    if start is None:
        return ()
    ends = {tensor.grad_fn: (name, tensor) for name, tensor in event.outputs if tensor.grad_fn is not None}
    found: list[Term] = []
    seen = {start}
    frontier: list[tuple[Any, tuple[Any, ...]]] = [(start, ())]
    longest: tuple[Any, ...] = ()
    visits = 0
    while frontier and visits < _VISITS:
        following: list[tuple[Any, tuple[Any, ...]]] = []
        for node, way in frontier:
            visits += 1
            if node in ends:
                found.append(_term(way, *ends[node]))
                continue
            longest = max(longest, way, key=len) if len(way) < 32 else longest
            for below, _ in node.next_functions:
                if below is not None and below not in seen:
                    seen.add(below)
                    following.append((below, (*way, node)))
        frontier = following
    return tuple(found) or (_term(longest, "", None),)


def leaves(loss: Tensor) -> list[Tensor]:
    """The tensors that a loss is differentiated by: those that collect a gradient. Walks at most 4,096 nodes of the graph."""
    found: list[Tensor] = []
    seen = {loss.grad_fn}
    pending = [loss.grad_fn]
    while pending and len(seen) < _VISITS:
        node: Any = pending.pop()
        if node is None:
            continue
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found.append(variable)
        below = [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen.update(below)
        pending.extend(below)
    return found


def _term(way: tuple[Any, ...], output: str, prediction: Tensor | None) -> Term:
    path = tuple(_operation(node) for node in way)
    shapes = tuple(_shape(node) for node in way)
    name, target = "unknown", None
    with torch.no_grad():
        for i, node in enumerate(way):
            known = _NAMED.get(path[i])
            if known is not None:
                name, target = known, _saved(node, "_saved_target")
                if known == "nll_loss" and i + 1 < len(path) and path[i + 1] == "LogSoftmax":
                    name = "cross_entropy"
                break
            if path[i] in ("Pow", "Mul", "Abs", "LinalgVectorNorm", "Norm") and i + 1 < len(path) and path[i + 1] in ("Sub", "Rsub"):
                residual = _saved(node, "_saved_self")
                if residual is not None:
                    name = "absolute_error" if path[i] == "Abs" else "squared_error"
                    target = _target(way, i + 1, residual, prediction)
                    break
            if path[i] in ("Index", "Gather") and any(p in ("LogSoftmax", "Log", "LogSigmoid") for p in path):
                name, target = "log_probability", _index(node)
                break
            if path[i] == "Mul" and any(p in ("LogSoftmax", "Log", "LogSigmoid") for p in path[i:]):
                name, target = "log_probability", _factor(node)
                break
    return Term(name, output, prediction, target, path, shapes)


def _operation(node: Any) -> str:
    return node.name().removeprefix("torch::autograd::").split("Backward")[0]


def _shape(node: Any) -> tuple[int, ...]:
    metadata = node._input_metadata
    return tuple(metadata[0].shape) if metadata else ()


def _saved(node: Any, name: str) -> Any:
    try:
        return getattr(node, name, None)
    except RuntimeError:
        # Freed by an earlier backward pass, or changed in place since.
        return None


def _target(way: tuple[Any, ...], place: int, residual: Tensor, prediction: Tensor | None) -> Tensor | None:
    """Y from r = p - y or r = y - p, where nothing but changes of shape lies between the output and the difference."""
    if prediction is None or any(
        _operation(n) not in ("View", "UnsafeView", "Squeeze", "Unsqueeze", "Reshape", "Alias", "ToCopy") for n in way[place + 1 :]
    ):
        return None
    below = way[place + 1] if place + 1 < len(way) else prediction.grad_fn
    p = prediction.detach().reshape(_shape(below))
    first = way[place].next_functions[0][0] is below
    return p - residual if first == (_operation(way[place]) == "Sub") else p + residual


def _index(node: Any) -> Tensor | None:
    indices = _saved(node, "_saved_index")
    if indices is None:
        indices = _saved(node, "_saved_indices")
    if isinstance(indices, (tuple, list)):
        indices = next((i for i in reversed(indices) if isinstance(i, Tensor)), None)
    return indices if isinstance(indices, Tensor) else None


def _factor(node: Any) -> Tensor | None:
    """The factor of a product that nothing is learnt through."""
    if len(node.next_functions) == 2:
        if node.next_functions[0][0] is None:
            return _saved(node, "_saved_self")
        if node.next_functions[1][0] is None:
            return _saved(node, "_saved_other")
    return None
