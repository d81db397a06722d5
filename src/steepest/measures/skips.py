"""Skip connections: where they join, how much their residual branches add, and what the model is without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from steepest.measures.objective import Batch, LossFunction, Objective, apply, same_randomness
from steepest.measures.signals import own_parameters

aten = torch.ops.aten
ADDS = (aten.add.Tensor, aten.add_.Tensor)
WEIGHTED = {"convolution", "addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "einsum", "_convolution"}


@dataclass(frozen=True)
class Join:
    """One addition ``skip + branch`` where the branch is computed from the skip.

    Args:
        index: 0, 1, ... in the order of execution.
        module: qualified name of the innermost module that adds.
        ratio: ``|branch| / |skip|`` over the batch; near zero the block is hardly used.
        projected: whether the skip passes through one layer of its own (where dimensions differ).
    """

    index: int
    module: str
    ratio: float
    projected: bool

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Ablation:
    """The loss with one residual branch left out.

    Args:
        join: the join whose branch was left out.
        loss: without it.
        before: the loss of the whole model.
    """

    join: Join
    loss: float
    before: float


def residual_use(model: nn.Module, inputs: Any) -> tuple[Join, ...]:
    """All residual joins of a model and how much each branch adds; none for a plain model. Cost: one forward pass.

    A join is an addition of two tensors of one shape, of which one was computed from the other; or from what the other is a projection of,
    by one layer, while the branch has two or more.

    Args:
        inputs: what the model is applied to; a tuple of several arguments, a dict of keywords.

    Source: He et al. 2016; the ratio as in Balduzzi et al. 2017 and Zhang et al. 2019 (Fixup), who ask for branches of small norm.
    """
    mode = _Joins(inputs)
    with torch.no_grad(), same_randomness(), mode.watching(model):
        apply(model, own_parameters(model), inputs)
    return tuple(mode.joins)


def losses_without_blocks(model: nn.Module, loss_fn: LossFunction, batch: Batch) -> tuple[Ablation, ...]:
    """The loss after leaving out each residual branch in turn: whether a shallower network, nested in this one, does as well.

    The following blocks get the skip alone. Cost: a forward pass per join, and two.

    Source: Veit et al. 2016, section 4.1 (deleting individual modules).
    """
    joins = residual_use(model, batch[0])
    objective = Objective(model, loss_fn, batch)
    with torch.no_grad():
        before = float(objective.loss())
    found = []
    for join in joins:
        mode = _Joins(batch[0], without=join.index)
        with mode.watching(model):
            found.append(Ablation(join, float(objective.loss().detach()), before))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Node:
    """One tensor that depends on the inputs."""

    parents: tuple[_Node, ...]
    weighted: bool


class _Joins(TorchDispatchMode):
    """Follows which tensor was computed from which, and finds (or replaces by its skip) each residual addition."""

    def __init__(self, inputs: Any, without: int | None = None) -> None:
        super().__init__()
        self.joins: list[Join] = []
        self.without, self.where = without, [""]
        # Tensors are kept alive, so that none takes another's identity.
        self.nodes: dict[int, _Node] = {}
        self.alive: list[Tensor] = []
        for tensor in _tensors(inputs):
            self._enter(tensor, _Node((), False))

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if op in ADDS and (found := self._residual(*args[:2])):
            skip, branch, projected = found
            self.joins.append(Join(len(self.joins), self.where[-1], _ratio(skip, branch, args, kwargs), projected))
            if len(self.joins) - 1 == self.without:
                out = skip.clone() if op is aten.add.Tensor else args[0].copy_(skip)
                self._enter(out, self.nodes[id(skip)])
                return out
        sources = [t for t in _tensors((args, kwargs)) if id(t) in self.nodes]
        weighted = op._schema.name.removeprefix("aten::") in WEIGHTED and any(
            id(t) not in self.nodes and t.ndim > 1 for t in _tensors((args, kwargs))
        )
        parents = tuple(dict.fromkeys(self.nodes[id(t)] for t in sources))
        out = op(*args, **kwargs)
        if parents:
            node = _Node(parents, weighted)
            for tensor in _tensors(out):
                self._enter(tensor, node)
        return out

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Within, the mode is on and knows which module is at work; fused transformer layers, which hide their joins, are off."""

        def enter(name: str, *_: Any) -> None:
            self.where.append(name)

        def leave(*_: Any) -> None:
            self.where.pop()

        fused = torch.backends.mha.get_fastpath_enabled()
        handles = [m.register_forward_pre_hook(partial(enter, n)) for n, m in model.named_modules()]
        handles += [m.register_forward_hook(leave) for m in model.modules()]
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with self:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for handle in handles:
                handle.remove()
            self.nodes.clear()
            self.alive.clear()

    def _enter(self, tensor: Tensor, node: _Node) -> None:
        self.nodes[id(tensor)] = node
        self.alive.append(tensor)

    def _residual(self, a: Any, b: Any) -> tuple[Tensor, Tensor, bool] | None:
        """Which of two summands is the skip, which the branch, and whether the skip is a projection."""
        if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.is_floating_point() and a.ndim > 1):
            return None
        of_a, of_b = self.nodes.get(id(a)), self.nodes.get(id(b))
        if of_a is None or of_b is None or of_a is of_b:
            return None
        for skip, branch, at, end in ((a, b, of_a, of_b), (b, a, of_b, of_a)):
            if (_layers_between(at, end) or 0) > 0:
                return skip, branch, False
        for skip, branch, at, end in ((a, b, of_a, of_b), (b, a, of_b, of_a)):
            source = _projected(at)
            if source is not None and (_layers_between(source, end) or 0) > 1:
                return skip, branch, True
        return None


def _layers_between(source: _Node, end: _Node) -> int | None:
    """The fewest weighted operations on a way from one tensor to another; None where there is no way."""
    reached, layer, depth = {end}, [end], 0
    while layer:
        # All that is reached without another weighted operation, then one more.
        after = []
        while layer:
            node = layer.pop()
            if node is source:
                return depth
            for parent in node.parents:
                if parent not in reached:
                    reached.add(parent)
                    (after if node.weighted else layer).append(parent)
        layer, depth = after, depth + 1
    return None


def _projected(node: _Node) -> _Node | None:
    """What the nearest weighted operation, along single parents, was applied to."""
    while len(node.parents) == 1:
        if node.weighted:
            return node.parents[0]
        node = node.parents[0]
    return None


def _ratio(skip: Tensor, branch: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    # add(a, b, alpha) is a + alpha b.
    alpha = abs(float(kwargs.get("alpha", 1.0)))
    sizes = [float(torch.linalg.vector_norm(t.detach().float())) * (alpha if t is args[1] else 1.0) for t in (skip, branch)]
    return sizes[1] / sizes[0] if sizes[0] > 0.0 else float("inf")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
