"""Coordinates to climb in: each chart maps free variables y to flat points x of a domain."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.ops.kinds import Affine
from steepest.results import Domain


@dataclass(frozen=True, eq=False)
class Chart(ABC):
    """A map from variables of about unit scale to points of a domain, for a batch of starts."""

    @abstractmethod
    def points(self, y: Tensor) -> Tensor:
        """The points, differentiable in y."""

    @abstractmethod
    def origin(self) -> Tensor:
        """The variables of the starts themselves."""

    def settle(self, y: Tensor) -> Tensor:
        """Variables drawn back to where the chart is one to one, after a step."""
        return y


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """``x = y P'`` with ``P = V max(s, 0.03 s_1)^-1 U'`` of the first affine layers ``W = U S V'``, scaled to about an isometry.

    In these variables the first hidden layer moves alike in every direction; the directions it does not see are left out.

    Args:
        forward: P, ``[inputs, variables]``.
        inverse: its pseudo-inverse.
    """

    forward: Tensor
    inverse: Tensor

    @staticmethod
    def of(layer: FirstLayer, dtype: torch.dtype) -> Preconditioner | None:
        """From the first layer, or None where it is zero or too large to decompose."""
        if min(layer.weight.shape) > 1024:
            return None
        u, s, vh = torch.linalg.svd(layer.weight, full_matrices=False)
        if s[0] <= 0:
            return None
        d = s[0] / s.clamp(min=0.03 * s[0].item())
        d = d / d.square().mean().sqrt()
        return Preconditioner((vh.mT * d @ u.mT).to(dtype), (u / d @ vh).to(dtype))

    @staticmethod
    def diagonal(scale: Tensor) -> Preconditioner:
        """One scale a coordinate, ``[n]``, positive."""
        return Preconditioner(torch.diag(scale), torch.diag(1.0 / scale))


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """The affine nodes that alone read the input, up to the first node of another kind: ``weight x + bias``, dense.

    Args:
        weight: ``[outputs, inputs]``, float64.
        bias: ``[outputs]``, float64.
    """

    weight: Tensor
    bias: Tensor

    @staticmethod
    def of(graph: Graph, most: int = 2**22) -> FirstLayer | None:
        """From the graph, or None where there is no such layer or it has more than ``most`` entries."""
        chain = _first_affine(graph)
        inputs = math.prod(graph.input_shape)
        if chain is None or inputs * math.prod(graph.nodes[chain[-1]].shape) > most:
            return None
        columns = torch.eye(inputs, dtype=torch.float64).reshape(inputs, *graph.input_shape)
        bias = torch.zeros(graph.input_shape, dtype=torch.float64)
        for index in chain:
            op = graph.nodes[index].op
            assert isinstance(op, Affine)
            columns, bias = op.linear(columns), op.evaluate(bias)
        return FirstLayer(columns.reshape(inputs, -1).mT, bias.reshape(-1))

    def kinks(self) -> Tensor:
        """How far each input alone must go for the offsets to matter, ``rms |b| / rms |w_j|``; one where unknown; ``[inputs]``."""
        offset = self.bias.square().mean().sqrt()
        columns = self.weight.square().mean(0).sqrt()
        if offset == 0 or not (columns > 0).any():
            return torch.ones_like(columns)
        return (offset / columns.clamp(min=1e-6 * columns.max().item())).clamp(1e-4, 1e6)


def _first_affine(graph: Graph) -> list[int] | None:
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        for i in node.inputs:
            readers.setdefault(i, []).append(index)
    chain, at = [], 0
    while len(readers.get(at, [])) == 1:
        at = readers[at][0]
        op = graph.nodes[at].op
        if not isinstance(op, Affine):
            return chain if any(_mixes(graph, i) for i in chain) else None
        chain.append(at)
    return chain if any(_mixes(graph, i) for i in chain) else None


def _mixes(graph: Graph, index: int) -> bool:
    op = graph.nodes[index].op
    return isinstance(op, Affine) and not op.keeps_entries_apart


@dataclass(frozen=True, eq=False)
class Free(Chart):
    """All inputs: ``x = centre + size y``, preconditioned where there is a preconditioner.

    Args:
        centre: ``[batch, n]``.
        size: ``[batch, 1]``: how far a unit of y reaches.
        start: the variables of the starts.
        preconditioner: see there.
    """

    centre: Tensor
    size: Tensor
    start: Tensor
    preconditioner: Preconditioner | None

    def points(self, y: Tensor) -> Tensor:
        """The affine map."""
        move = y if self.preconditioner is None else y @ self.preconditioner.forward.mT
        return self.centre + self.size * move

    def origin(self) -> Tensor:
        """The start."""
        return self.start


@dataclass(frozen=True, eq=False)
class InBox(Chart):
    """A box, possibly unbounded: bounded sides through a sigmoid (in the ``soft`` rows) or clamped, the others clamped.

    Args:
        lo, hi: ``[n]``.
        unit: ``[n]``: the width, or a typical scale where the side is unbounded.
        at: the starts, ``[batch, n]``.
        soft: bool ``[batch, 1]``.
    """

    lo: Tensor
    hi: Tensor
    unit: Tensor
    at: Tensor
    soft: Tensor

    def _anchor(self) -> Tensor:
        """A finite point of the box."""
        return torch.nan_to_num(torch.where(torch.isfinite(self.lo), self.lo, self.hi), nan=0.0, posinf=0.0, neginf=0.0)

    def _bounded(self) -> Tensor:
        return self.soft & torch.isfinite(self.hi - self.lo)

    def points(self, y: Tensor) -> Tensor:
        """Sigmoid or clamp."""
        curved = self.lo.nan_to_num(neginf=0.0) + self.unit * torch.sigmoid(y)
        straight = self._anchor() + self.unit * y
        inside = torch.minimum(torch.maximum(torch.where(self._bounded(), curved, straight), self.lo), self.hi)
        # The gradient of a clamp is cut at its ends: coordinates resting on a face must still be able to leave it.
        return torch.where(self._bounded(), inside, straight + (inside - straight).detach())

    def origin(self) -> Tensor:
        """Logits or units."""
        share = (self.at - self._anchor()) / self.unit
        return torch.where(self._bounded(), torch.logit(share.clamp(0.01, 0.99)), share)

    def settle(self, y: Tensor) -> Tensor:
        """Clamped variables return to the box."""
        low, high = (self.lo - self._anchor()) / self.unit, (self.hi - self._anchor()) / self.unit
        return torch.where(self._bounded(), y.clamp(-12.0, 12.0), torch.minimum(torch.maximum(y, low), high))


@dataclass(frozen=True, eq=False)
class InBall(Chart):
    """A ball: ``x = centre + unit y`` with y drawn radially back into it after every step.

    Args:
        centre: ``[n]``.
        radius: of the ball.
        norm: of the ball.
        at: the starts, ``[batch, n]``.
    """

    centre: Tensor
    radius: float
    norm: float
    at: Tensor

    @property
    def _unit(self) -> float:
        n = self.centre.numel()
        return self.radius / {1.0: float(n), 2.0: math.sqrt(n), math.inf: 1.0}[self.norm]

    def points(self, y: Tensor) -> Tensor:
        """The affine map."""
        return self.centre + self._unit * y

    def origin(self) -> Tensor:
        """Offsets in units."""
        return (self.at - self.centre) / self._unit

    def settle(self, y: Tensor) -> Tensor:
        """Radial projection; coordinate by coordinate in linf."""
        reach = self.radius / self._unit
        if self.norm == math.inf:
            return y.clamp(-reach, reach)
        size = torch.linalg.vector_norm(y, ord=self.norm, dim=-1, keepdim=True)
        return y * (reach / size.clamp(min=1e-30)).clamp(max=1.0)


def free_coordinates(domain: Domain, inputs: int) -> Tensor:
    """Bool ``[inputs]``: the coordinates in which the domain has any width."""
    if domain.kind == "box":
        assert domain.lo is not None and domain.hi is not None
        return torch.from_numpy((domain.hi > domain.lo).reshape(-1).copy())
    return torch.full((inputs,), domain.kind == "all" or (domain.radius or 0.0) > 0.0)
