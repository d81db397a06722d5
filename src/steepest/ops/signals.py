"""Signals of a network and the linear maps between them, followed forwards and backwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph.operator import Shape
from steepest.ops.kinds import Affine, count


class LinearMap(ABC):
    """A linear map of flattened signals, given by what it does to rows ``[count, size]``."""

    @abstractmethod
    def apply(self, rows: Tensor) -> Tensor:
        """``A v`` for every row v."""

    @abstractmethod
    def transpose(self, rows: Tensor) -> Tensor:
        """``A' v`` for every row v."""


@dataclass(frozen=True, eq=False)
class Through(LinearMap):
    """The linear part of an affine operator."""

    op: Affine

    def apply(self, rows: Tensor) -> Tensor:
        """As the operator does it."""
        return self.op.linear(rows.reshape(-1, *self.op.in_shapes[0])).flatten(1)

    def transpose(self, rows: Tensor) -> Tensor:
        """Its adjoint."""
        return self.op.adjoint(rows.reshape(-1, *self.op.shape)).flatten(1)


@dataclass(frozen=True, eq=False)
class Scaled(LinearMap):
    """A diagonal matrix."""

    weight: Tensor

    def apply(self, rows: Tensor) -> Tensor:
        """Entry by entry."""
        return rows * self.weight.to(rows.dtype)

    def transpose(self, rows: Tensor) -> Tensor:
        """The same."""
        return self.apply(rows)


@dataclass(frozen=True, eq=False)
class Picked(LinearMap):
    """``y_i = x_index[i]``, zero where the index is negative; no entry twice."""

    index: Tensor
    size: int

    def apply(self, rows: Tensor) -> Tensor:
        """Gather."""
        return rows[:, self.index.clamp(min=0)] * (self.index >= 0).to(rows.dtype)

    def transpose(self, rows: Tensor) -> Tensor:
        """Scatter."""
        out = rows.new_zeros(len(rows), self.size)
        there = self.index >= 0
        out[:, self.index[there]] = rows[:, there]
        return out


@dataclass(frozen=True, eq=False)
class Repeated(Picked):
    """Where an entry may be read more than once."""

    def transpose(self, rows: Tensor) -> Tensor:
        """Scatter, adding up."""
        there = self.index >= 0
        return rows.new_zeros(len(rows), self.size).index_add_(1, self.index[there], rows[:, there])


@dataclass(frozen=True, eq=False)
class Placed(LinearMap):
    """The adjoint of ``Picked``."""

    picked: Picked

    def apply(self, rows: Tensor) -> Tensor:
        """Scatter."""
        return self.picked.transpose(rows)

    def transpose(self, rows: Tensor) -> Tensor:
        """Gather."""
        return self.picked.apply(rows)


@dataclass(frozen=True, eq=False)
class Signal:
    """A flattened tensor: a variable (no terms), or a sum of linear maps of earlier signals.

    Args:
        shape: as the network has it.
        terms: maps and the signals they read.
    """

    shape: Shape
    terms: tuple[tuple[LinearMap, int], ...] = ()

    @property
    def size(self) -> int:
        """Number of entries."""
        return count(self.shape)


class Flow:
    """Follows signals from and to the members of a basis: those that are known by themselves, where following stops."""

    def __init__(self, signals: Iterable[Signal]) -> None:
        self.signals = tuple(signals)
        self._paths: dict[tuple[int, int, frozenset[int]], tuple[int, ...]] = {}
        self._sources: dict[tuple[int, frozenset[int]], tuple[int, ...]] = {}

    def sources(self, target: int, basis: frozenset[int]) -> tuple[int, ...]:
        """The members of the basis that a signal depends on."""
        key = (target, basis)
        if key not in self._sources:
            if target in basis or not self.signals[target].terms:
                self._sources[key] = (target,)
            else:
                self._sources[key] = tuple(sorted({s for _, i in self.signals[target].terms for s in self.sources(i, basis)}))
        return self._sources[key]

    def path(self, target: int, source: int, basis: frozenset[int]) -> tuple[int, ...]:
        """The signals between, in order."""
        key = (target, source, basis)
        if key not in self._paths:
            seen, todo = set(), [target]
            while todo:
                i = todo.pop()
                if i in seen or i in basis or source not in self.sources(i, basis):
                    continue
                seen.add(i)
                todo += [j for _, j in self.signals[i].terms]
            self._paths[key] = tuple(sorted(seen))
        return self._paths[key]

    def image(self, target: int, source: int, basis: frozenset[int], rows: Tensor) -> Tensor:
        """``A v`` for rows v, where A is the part of the target that comes from this source."""
        if target == source:
            return rows
        values = {source: rows}
        path = self.path(target, source, basis)
        last = {j: i for i in path for _, j in self.signals[i].terms}
        for i in path:
            parts = [m.apply(values[j]) for m, j in self.signals[i].terms if j in values]
            values[i] = sum(parts[1:], parts[0])
            for j in [j for j in values if last.get(j) == i and j != i]:
                del values[j]
        return values[target]

    def pullback(self, target: int, basis: frozenset[int], rows: Tensor, only: int | None = None) -> dict[int, Tensor]:
        """``A' v`` for rows v, for every source or only one."""
        if target in basis:
            return {target: rows} if only in (None, target) else {}
        wanted = self.sources(target, basis) if only is None else (only,)
        between = {i for s in wanted for i in self.path(target, s, basis)}
        values = {target: rows}
        for i in sorted(between, reverse=True):
            value = values.pop(i)
            for m, j in self.signals[i].terms:
                if j in between or j in wanted:
                    part = m.transpose(value)
                    values[j] = values[j] + part if j in values else part
        return values


def unit_rows(size: int, first: int, most: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows ``first, ..., first + most - 1`` of the identity, or as many as there are."""
    rows = torch.zeros(max(0, min(most, size - first)), size, dtype=dtype)
    rows.diagonal(first).fill_(1.0)
    return rows
