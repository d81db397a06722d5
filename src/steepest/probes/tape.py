"""The autograd graph of a loss, read as a network: its activations, their depth, and the parameters that it reaches.

Everything here reads the graph alone, so it sees functions (``torch.relu``) as well as modules, and recurrent layers step by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

WEIGHTED = frozenset(
    (
        "Addmm",
        "Mm",
        "Convolution",
        "Embedding",
        "EmbeddingBag",
        "MkldnnRnnLayer",
        "CudnnRnn",
        "Linear",
        "Mv",
        "Addmv",
        "Baddbmm",
        "MkldnnConvolution",
    )
)
"""Operations that apply weights."""

RELU = frozenset(("Relu", "Threshold", "Clamp", "ClampMin"))
BOUNDED = frozenset(("Tanh", "Sigmoid", "Hardtanh", "Hardsigmoid"))
SMOOTH = frozenset(("LeakyRelu", "Elu", "Gelu", "Silu", "Softplus", "Mish", "Hardswish", "PreluKernel", "Softsign", "Celu", "Glu"))
ACTIVATIONS = RELU | BOUNDED | SMOOTH
SOFTMAX = frozenset(("Softmax", "SafeSoftmax", "LogSoftmax", "LogSigmoid"))
NORMALISATIONS = frozenset(
    ("NativeBatchNorm", "NativeLayerNorm", "NativeGroupNorm", "CudnnBatchNorm", "MiopenBatchNorm", "NativeBatchNormLegit", "FusedRmsNorm")
)
OTHER_NONLINEAR = frozenset(
    ("MkldnnRnnLayer", "CudnnRnn", "MaxPool2DWithIndices", "Bmm", "Exp", "Sin", "Cos", "Pow", "Abs", "Maximum", "Max")
)
LIMIT = 30_000


@dataclass(frozen=True, eq=False)
class Op:
    """One node: its short name, its autograd node, and how many weighted operations lie between it and the loss, at most and at least."""

    name: str
    node: Any
    far: int
    near: int


@dataclass(frozen=True, eq=False)
class Tape:
    """A graph in topological order from the loss to the leaves.

    Args:
        ops: its nodes, leaves left out.
        parameters: the leaf tensors that it reaches, with the number of uses of each.
    """

    ops: tuple[Op, ...]
    parameters: tuple[tuple[Tensor, int], ...]

    @property
    def activations(self) -> tuple[Op, ...]:
        """Elementwise nonlinearities in the order of the forward pass, those that follow the last weighted operation included."""
        return tuple(op for op in reversed(self.ops) if op.name in ACTIVATIONS)

    @property
    def depth(self) -> int:
        """Weighted operations on the longest path."""
        return max((op.far + 1 for op in self.ops if op.name in WEIGHTED), default=0)

    @property
    def short_depth(self) -> int:
        """Weighted operations on the shortest path to the farthest one; less than ``depth`` where there are skips."""
        farthest = max((op for op in self.ops if op.name in WEIGHTED), key=lambda op: op.far, default=None)
        return 0 if farthest is None else farthest.near + 1

    @property
    def recurrent(self) -> bool:
        """Whether a weight is used more than twice."""
        return any(uses > 2 for p, uses in self.parameters if p.ndim >= 2)


def short_name(node: Any) -> str:
    """``ReluBackward0`` is ``Relu``."""
    name = node.name().rsplit("::", 1)[-1]
    return name.split("Backward")[0].lstrip("_")


def read(root: Any, limit: int = LIMIT) -> Tape | None:
    """The graph below an autograd node; None where it has more than ``limit`` nodes or there is no graph.

    Costs about a microsecond an edge.
    """
    if root is None:
        return None
    children: dict[Any, list[Any]] = {}
    incoming: dict[Any, int] = {root: 0}
    stack = [root]
    while stack:
        node = stack.pop()
        if node in children:
            continue
        children[node] = below = [n for n, _ in node.next_functions if n is not None]
        if len(children) > limit:
            return None
        for child in below:
            incoming[child] = incoming.get(child, 0) + 1
            if child not in children:
                stack.append(child)
    uses = dict(incoming)
    far, near = {root: 0}, {root: 0}
    ready, ops, leaves = [root], [], []
    while ready:
        node = ready.pop()
        name = short_name(node)
        if hasattr(node, "variable"):
            leaves.append((node.variable, uses[node]))
            continue
        ops.append(Op(name, node, far[node], near[node]))
        step = 1 if name in WEIGHTED else 0
        for child in children[node]:
            far[child] = max(far.get(child, 0), far[node] + step)
            near[child] = min(near.get(child, limit), near[node] + step)
            incoming[child] -= 1
            if not incoming[child]:
                ready.append(child)
    return Tape(tuple(ops), tuple(leaves))


def tail(node: Any, limit: int = 40) -> tuple[Op, ...]:
    """The operations that follow the last weighted one, from the given node backwards; it stops where branches join."""
    found = []
    for _ in range(limit):
        if node is None or hasattr(node, "variable"):
            break
        name = short_name(node)
        if name in WEIGHTED:
            break
        found.append(Op(name, node, 0, 0))
        below = [n for n, _ in node.next_functions if n is not None and not hasattr(n, "variable")]
        if len(below) != 1:
            break
        node = below[0]
    return tuple(found)


def result_of(op: Op) -> Tensor | None:
    """What an activation gave, where autograd kept it."""
    saved = getattr(op.node, "_saved_result", None)
    return saved if isinstance(saved, Tensor) else None
