"""Rows that the checker appends to a network itself: an output, a difference of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steepest.proofs.checker.box import Array
from steepest.proofs.checker.linear import NodeLike


@dataclass(frozen=True)
class Appended:
    """A node."""

    name: str
    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


def with_rows(nodes: Sequence[NodeLike], rows: Array) -> list[NodeLike]:
    """The network followed by ``rows f``, f its flattened output."""
    count, size = rows.shape
    last = len(nodes) - 1
    flat = Appended("output", "reshape", (last,), (size,), {"target": [size]})
    picked = Appended("output", "dense", (last + 1,), (count,), {}, {"weight": rows, "bias": np.zeros(count)})
    return [*nodes, flat, picked]
