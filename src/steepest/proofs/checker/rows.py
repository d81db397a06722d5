"""Values of nodes as linear maps of a network's variables, with what rounding may have done to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker.box import Array
from steepest.proofs.checker.linear import Linear, Shape

_CHUNK = 512


@dataclass(frozen=True)
class Block:
    """``[entries of the variable, *shape]``; None for the identity.

    ``most`` is at least the sum of magnitudes of the terms that went into each entry; None where that is ``|value|``.
    """

    value: Array | None
    most: Array | None = None

    def full(self, shape: Shape) -> tuple[Array, Array]:
        """Value and most, written out."""
        value = np.eye(math.prod(shape)).reshape(-1, *shape) if self.value is None else self.value
        return value, np.abs(value) if self.most is None else self.most


@dataclass(frozen=True)
class Rows:
    """The value of a node: a sum of linear maps of variables. Each entry is off by at most ``slack(terms) most``."""

    shape: Shape
    blocks: Mapping[int, Block]
    terms: int = 0

    def through(self, apply: Callable[[Array, int], Array], shape: Shape, terms: int) -> Rows:
        """A linear map applied; with 0 as second argument it takes absolute weights."""
        found = {}
        for b, block in self.blocks.items():
            if block.value is None:
                size = math.prod(self.shape)
                # A row of the identity meets every weight by itself: nothing is added up.
                parts = [apply(np.eye(min(_CHUNK, size - k), size, k).reshape(-1, *self.shape), 1) for k in range(0, size, _CHUNK)]
                found[b] = Block(np.concatenate(parts) if parts else np.zeros((0, *shape)))
            else:
                value, most = block.full(self.shape)
                found[b] = Block(apply(value, 1), apply(most, 0))
        return Rows(shape, found, self.terms + terms + 1)

    def linear(self, node: Linear, shape: Shape) -> Rows:
        """Through an affine node, without its bias."""
        if node.node.op == "reshape":
            kept = {b: Block(*(None if m is None else m.reshape(-1, *shape) for m in (c.value, c.most))) for b, c in self.blocks.items()}
            return Rows(shape, kept, self.terms)
        rows, size = math.prod(shape), math.prod(self.shape)
        if rows < size and any(c.value is None for c in self.blocks.values()):
            # By its few rows instead of its many columns; again nothing is added up.
            units = (np.eye(min(_CHUNK, rows - k), rows, k).reshape(-1, *shape) for k in range(0, rows, _CHUNK))
            turned = np.concatenate([np.zeros((0, size)), *(node.transpose(u).reshape(-1, size) for u in units)])
            whole = Block(np.ascontiguousarray(turned.T).reshape(size, *shape))
            others = Rows(self.shape, {b: c for b, c in self.blocks.items() if c.value is not None}, self.terms)
            found = dict(others.through(node.apply, shape, node.terms).blocks)
            return Rows(shape, {**found, **{b: whole for b, c in self.blocks.items() if c.value is None}}, self.terms + node.terms + 1)
        return self.through(node.apply, shape, node.terms)

    def scaled(self, weight: Array) -> Rows:
        """Entry by entry."""
        return self.through(lambda x, power: x * (weight if power else np.abs(weight)), self.shape, 1)

    def picked(self, index: Array, shape: Shape) -> Rows:
        """Flattened entries; those of negative index are zero."""
        keep = index >= 0

        def apply(x: Array, _: int) -> Array:
            flat = x.reshape(len(x), -1)[:, np.maximum(index, 0).ravel()] * keep.ravel()
            return flat.reshape(-1, *shape)

        return self.through(apply, shape, 0)


def total(parts: Sequence[Rows], signs: Sequence[int]) -> Rows:
    """A signed sum."""
    found: dict[int, Block] = {}
    for rows, sign in zip(parts, signs, strict=True):
        for b, block in rows.blocks.items():
            if b not in found and sign > 0:
                found[b] = block
                continue
            value, most = block.full(rows.shape)
            value = value if sign > 0 else -value
            if b in found:
                other, beside = found[b].full(rows.shape)
                value, most = other + value, beside + most
            found[b] = Block(value, most)
    return Rows(parts[0].shape, found, max(r.terms for r in parts) + len(parts))


def joined(parts: Sequence[Rows], axis: int, shape: Shape) -> Rows:
    """Side by side along an axis of the shape."""
    found = {}
    for b in {b for rows in parts for b in rows.blocks}:
        size = next(len(rows.blocks[b].full(rows.shape)[0]) for rows in parts if b in rows.blocks)
        both = [rows.blocks[b].full(rows.shape) if b in rows.blocks else (np.zeros((size, *rows.shape)),) * 2 for rows in parts]
        found[b] = Block(*(np.concatenate([pair[i] for pair in both], axis + 1) for i in (0, 1)))
    return Rows(shape, found, max(r.terms for r in parts))
