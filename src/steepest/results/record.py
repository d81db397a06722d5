"""A network written down: operators and exact weights, without torch, with a digest that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NodeRecord:
    """One operator: ``op`` is its code, ``attributes`` its JSON parameters, ``arrays`` its weights (float64 or int64)."""

    name: str
    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def outline(self) -> dict[str, Any]:
        """The JSON form: weights by their digest, in field order."""
        return {
            "name": self.name,
            "op": self.op,
            "inputs": list(self.inputs),
            "shape": list(self.shape),
            "attributes": dict(self.attributes),
            "arrays": {key: {"shape": list(a.shape), "dtype": str(a.dtype), "sha256": array_digest(a)} for key, a in self.arrays.items()},
        }


@dataclass(frozen=True)
class NetworkRecord:
    """The whole network in topological order: node 0 is the input, the last node the output."""

    nodes: tuple[NodeRecord, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input with its batch axis of one, where the model has one."""
        return self.nodes[0].shape

    def outline(self) -> list[dict[str, Any]]:
        """All nodes as JSON, weights by digest."""
        return [node.outline() for node in self.nodes]

    @cached_property
    def digest(self) -> str:
        """sha256 over operators, wiring, shapes and exact weights; names of nodes do not enter."""
        bare = [{k: v for k, v in node.items() if k != "name"} for node in self.outline()]
        return hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """sha256 of dtype, shape and little-endian bytes."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    head = f"{array.dtype.name}{list(array.shape)}".encode()
    return hashlib.sha256(head + little.tobytes()).hexdigest()
