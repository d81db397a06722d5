"""What the searches climb: the norm of a network's Jacobian in batches of points, hard or with softened gates."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.ops.kinds import Affine, Elementwise


@dataclass(frozen=True, eq=False)
class Linearised:
    """The derivative of a network at a batch of points, as a linear map.

    Args:
        graph: the network.
        values: every node's output, ``[*lead, *node shape]``.
        slopes: for elementwise nodes their slopes, computed once; None for the others.
        sharpness: of the softened gates, or None for the derivative itself.
    """

    graph: Graph
    values: list[Tensor]
    slopes: list[Tensor | None]
    sharpness: float | None

    @staticmethod
    def at(graph: Graph, x: Tensor, sharpness: float | None = None) -> Linearised:
        """At points ``[*lead, *input_shape]``; differentiable with respect to them."""
        values: list[Tensor] = [x]
        slopes: list[Tensor | None] = [None]
        for node in graph.nodes[1:]:
            inputs = [values[i] for i in node.inputs]
            values.append(node.op.evaluate(*inputs))
            slope = None
            if isinstance(node.op, Elementwise):
                slope = node.op.derivative(inputs[0]) if sharpness is None else node.op.soft_derivative(inputs[0], sharpness)
            slopes.append(slope)
        return Linearised(graph, values, slopes, sharpness)

    def detached(self) -> Linearised:
        """The same map, no longer differentiable with respect to the points."""
        slopes = [None if s is None else s.detach() for s in self.slopes]
        return replace(self, values=[v.detach() for v in self.values], slopes=slopes)

    def repeated(self, count: int) -> Linearised:
        """With an axis of ``count`` after the first, so that many directions are pushed at each point."""

        def stretch(t: Tensor) -> Tensor:
            return t.unsqueeze(1).expand(t.shape[0], count, *t.shape[1:])

        slopes = [None if s is None else stretch(s) for s in self.slopes]
        return replace(self, values=[stretch(v) for v in self.values], slopes=slopes)

    def push(self, direction: Tensor) -> Tensor:
        """``J d``, differentiable with respect to d (and to the points unless detached)."""
        tangents = [direction]
        for index, node in enumerate(self.graph.nodes[1:], start=1):
            slope = self.slopes[index]
            moves = tuple(tangents[i] for i in node.inputs)
            if slope is not None:
                tangents.append(slope * moves[0])
            elif isinstance(node.op, Affine):
                tangents.append(node.op.linear(moves[0]))
            else:
                # Forward mode refuses tensors whose entries share memory.
                values = tuple(self.values[i].contiguous() for i in node.inputs)
                tangents.append(node.op.tangent(values, tuple(t.contiguous() for t in moves), self.sharpness))
        return tangents[-1]


def norms(y: Tensor, p: float) -> Tensor:
    """Norms in lp along the last axis."""
    return torch.linalg.vector_norm(y, ord=p, dim=-1)


def dual(y: Tensor, p: float) -> Tensor:
    """Vectors u with ``<u, y> = |y|_p`` and norm one in the conjugate exponent, along the last axis; zero where y is."""
    if p == 2:
        return y / norms(y, 2).clamp(min=torch.finfo(y.dtype).tiny)[..., None]
    if p == 1:
        return y.sign()
    top = y.abs().argmax(-1, keepdim=True)
    return torch.zeros_like(y).scatter(-1, top, y.gather(-1, top).sign())


def conjugate(p: float) -> float:
    """The q with 1/p + 1/q = 1."""
    return {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]


@dataclass(frozen=True, eq=False)
class Landscape:
    """The operator norm from lp to lp of the Jacobian, restricted to the coordinates that may move.

    Points and directions are flat: ``[batch, n]``. All norms here are floating-point estimates from below.

    Args:
        graph: the network, parameters in the dtype of the search.
        p: 1, 2 or inf.
        free: bool ``[n]``: coordinates in which the domain has any width.
    """

    graph: Graph
    p: float
    free: Tensor

    @cached_property
    def inputs(self) -> int:
        """Number of input entries."""
        return math.prod(self.graph.input_shape)

    @cached_property
    def outputs(self) -> int:
        """Number of output entries."""
        return math.prod(self.graph.shape)

    @cached_property
    def entries(self) -> int:
        """Numbers one sample's walk holds: every node's output, and the windows that indices gather."""
        total = 0
        for node in self.graph.nodes:
            arrays = (getattr(node.op, f.name) for f in fields(node.op))
            total += math.prod(node.shape) + sum(a.numel() for a in arrays if isinstance(a, Tensor) and a.dtype == torch.int64)
        return total

    def chunk(self, megabytes: float = 400.0) -> int:
        """The most points whose differentiable walk stays within so much memory (about ten copies of every value)."""
        return max(1, int(megabytes * 1e6 / (self.entries * 8 * 10)))

    def shaped(self, x: Tensor) -> Tensor:
        """Flat points as the network takes them."""
        return x.reshape(*x.shape[:-1], *self.graph.input_shape)

    def at(self, x: Tensor, sharpness: float | None = None) -> Linearised:
        """The derivative at flat points."""
        return Linearised.at(self.graph, self.shaped(x), sharpness)

    def push(self, linear: Linearised, v: Tensor) -> Tensor:
        """``J v`` flat."""
        return linear.push(self.shaped(v)).flatten(v.ndim - 1)

    def power(self, linear: Linearised, v: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
        """Directions v of norm one that stretch most, by the power method for lp norms, and ``|J v|`` from below.

        For p = 2 the power method on ``J' J``; for 1 and inf Hager's method. Every value is a lower estimate of the
        norm: it is ``|J' u|`` in the conjugate norm for a u of norm one.

        Source: Boyd, The power method for lp norms, 1974; Higham, Estimating the matrix p-norm, 1992.
        """
        value = torch.zeros(v.shape[:-1], dtype=v.dtype)
        for _ in range(rounds):
            with torch.enable_grad():
                moving = v.detach().requires_grad_(True)
                y = self.push(linear, moving)
                u = dual(y.detach(), self.p)
                # A dead direction (J v = 0) must not end the search: any output pulls back to a live one.
                u = torch.where((u == 0).all(-1, keepdim=True), torch.ones_like(u), u)
                u = u / norms(u, conjugate(self.p))[..., None]
                (w,) = torch.autograd.grad(y, moving, u)
            w = torch.where(self.free, w, 0.0)
            value = norms(w, conjugate(self.p))
            turned = dual(w, conjugate(self.p))
            v = torch.where((turned == 0).all(-1, keepdim=True), v, turned)
        return v, value

    def jacobian(self, linear: Linearised) -> Tensor:
        """The full Jacobian ``[batch, outputs, inputs]`` at each of the points, by rows or by columns."""
        linear, parts = linear.detached(), []
        batch, dtype = linear.values[0].shape[0], linear.values[0].dtype
        by_rows = self.outputs <= self.inputs
        for some in torch.eye(min(self.outputs, self.inputs), dtype=dtype).split(max(1, self.chunk() // batch)):
            repeated, units = linear.repeated(len(some)), some.expand(batch, *some.shape)
            if not by_rows:
                with torch.no_grad():
                    parts.append(self.push(repeated, torch.where(self.free, units, 0.0)))
                continue
            with torch.enable_grad():
                v = torch.zeros(batch, len(some), self.inputs, dtype=dtype, requires_grad=True)
                (rows,) = torch.autograd.grad(self.push(repeated, v), v, units)
            parts.append(torch.where(self.free, rows, 0.0))
        return torch.cat(parts, 1) if by_rows else torch.cat(parts, 1).mT

    @property
    def cheap_in_full(self) -> bool:
        """Whether the Jacobian at a few points costs seconds at most."""
        narrow = min(self.outputs, self.inputs)
        return narrow <= 64 or (narrow <= 1024 and narrow * self.entries <= 2**24)

    def exact(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Norms and extremal directions from the full Jacobian: every row, column or singular vector is looked at."""
        values, directions = [], []
        narrow = min(self.outputs, self.inputs)
        for part in x.split(max(1, self.chunk() // narrow)):
            with torch.no_grad():
                linear = self.at(part)
            jacobian = torch.nan_to_num(self.jacobian(linear), nan=0.0, posinf=0.0, neginf=0.0)
            if self.p == 2:
                size = jacobian.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
                scaled = jacobian / size
                if self.outputs <= self.inputs:
                    u = torch.linalg.eigh(scaled @ scaled.mT).eigenvectors[..., -1:]
                    v = (scaled.mT @ u).squeeze(-1)
                else:
                    v = torch.linalg.eigh(scaled.mT @ scaled).eigenvectors[..., -1]
                v = dual(torch.where(self.free, v, 0.0), 2)
            elif self.p == 1:
                best = jacobian.abs().sum(-2).argmax(-1)
                v = torch.zeros_like(part).scatter(-1, best[:, None], 1.0)
            else:
                best = jacobian.abs().sum(-1).argmax(-1)
                v = jacobian.take_along_dim(best[:, None, None], -2).squeeze(-2).sign()
            # Where the network is flat every direction is as good.
            flat = (v == 0).all(-1, keepdim=True)
            v = torch.where(flat, dual(self.free.to(v.dtype), conjugate(self.p)), v)
            value = norms((jacobian @ v[..., None]).squeeze(-1), self.p)
            values.append(torch.where(self._sane(linear), value, -math.inf))
            directions.append(v)
        return torch.cat(values), torch.cat(directions)

    def hard(self, x: Tensor, v: Tensor, rounds: int = 3) -> tuple[Tensor, Tensor]:
        """Norms of the Jacobian itself and directions, warm from v; minus infinity where anything is not finite."""
        if min(self.outputs, self.inputs) <= (2 if self.p == 2 else 10):
            return self.exact(x)
        values, directions = [], []
        for a, b in zip(x.split(self.chunk()), v.split(self.chunk()), strict=True):
            with torch.no_grad():
                linear = self.at(a)
            direction, value = self.power(linear, b, rounds)
            sane = self._sane(linear) & torch.isfinite(direction).all(-1) & torch.isfinite(value)
            values.append(torch.where(sane, value, -math.inf))
            directions.append(torch.where(sane[:, None], direction, b))
        return torch.cat(values), torch.cat(directions)

    def _sane(self, linear: Linearised) -> Tensor:
        """Where the output itself is finite."""
        return torch.isfinite(linear.values[-1].flatten(1)).all(-1)


def cast(graph: Graph, dtype: torch.dtype) -> Graph:
    """The graph with real parameters in another dtype, for searching only: no statement may rest on it."""
    nodes = []
    for node in graph.nodes:
        real = {
            f.name: value.to(dtype)
            for f in fields(node.op)
            if isinstance(value := getattr(node.op, f.name), Tensor) and value.is_floating_point()
        }
        nodes.append(replace(node, op=replace(node.op, **real)) if real else node)
    return Graph(tuple(nodes))
