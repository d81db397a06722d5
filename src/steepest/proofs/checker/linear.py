"""The affine operators: their action, their adjoint, both with absolute weights, and their operator norms."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from steepest.proofs.checker.box import Array, slack
from steepest.proofs.checker.convolution import Window, convolution_norm_at_most
from steepest.proofs.checker.definite import matrix_norm_at_most

Shape = tuple[int, ...]


class NodeLike(Protocol):
    """What the checker reads of a node."""

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def inputs(self) -> tuple[int, ...]: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...
    @property
    def arrays(self) -> Mapping[str, Array]: ...


@dataclass(frozen=True)
class Linear(ABC):
    """``x -> W x`` for a node, on arrays ``[rows, *shape]``."""

    node: NodeLike
    source: Shape

    @abstractmethod
    def apply(self, x: Array, power: int = 1) -> Array:
        """``W x``; with ``power`` 0 absolute weights, with 2 squared ones."""

    @abstractmethod
    def transpose(self, y: Array, absolute: bool = False) -> Array:
        """``W' y``."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """Most products in a sum."""

    @property
    def entry_by_entry(self) -> bool:
        """Whether every row and every column of W has one entry at most."""
        return False

    def bias(self) -> Array | None:
        """What is added, broadcastable to the output."""
        return None

    @abstractmethod
    def norm(self, p: float, claim: float | None) -> float:
        """Proven upper bound of the operator norm; for l2 the claim, where there must be one.

        Raises:
            ValueError: where the claim is missing or cannot be proven.
        """


@dataclass(frozen=True)
class Mixing(Linear):
    """A map whose l2 norm cannot be read off its entries: it is claimed, and the claim is proven."""

    def norm(self, p: float, claim: float | None) -> float:
        if p == 2:
            if claim is None:
                raise ValueError("an l2 operator norm needs a step that claims it")
            if not self.proves(claim):
                raise ValueError(f"the claimed operator norm {claim!r} is not proven")
            return claim
        ones = np.ones((1, *self.node.shape)) if p == 1 else np.ones((1, *self.source))
        sums = self.transpose(ones, absolute=True) if p == 1 else self.apply(ones, 0)
        return float(sums.max(initial=0.0)) * (1 + 2 * slack(self.terms))

    @abstractmethod
    def proves(self, claim: float) -> bool:
        """Whether the l2 norm is proven to be at most the claim."""


def _weight(w: Array, power: int) -> Array:
    return w if power == 1 else np.abs(w) if power == 0 else w * w


@dataclass(frozen=True)
class Dense(Mixing):
    """A matrix on the last axis."""

    def apply(self, x: Array, power: int = 1) -> Array:
        return x @ _weight(self.node.arrays["weight"], power).T

    def transpose(self, y: Array, absolute: bool = False) -> Array:
        return y @ _weight(self.node.arrays["weight"], 0 if absolute else 1)

    @property
    def terms(self) -> int:
        return max(self.node.arrays["weight"].shape)

    def bias(self) -> Array | None:
        return self.node.arrays["bias"]

    def proves(self, claim: float) -> bool:
        return matrix_norm_at_most(self.node.arrays["weight"], claim)


@dataclass(frozen=True)
class Convolution(Mixing):
    """A convolution with its padding, or (``flipped``) the adjoint of one."""

    flipped: bool = False

    @property
    def _spatial(self) -> tuple[Shape, Shape]:
        """Spatial sizes on the wide side (where the kernel is laid) and on the narrow side."""
        wide, narrow = (self.node.shape, self.source) if self.flipped else (self.source, self.node.shape)
        return wide[2:], narrow[2:]

    @property
    def _windows(self) -> list[Window]:
        a, (wide, narrow) = self.node.attributes, self._spatial
        modes = list(a.get("modes") or ["zeros"] * len(wide))
        kernel = self.node.arrays["weight"].shape[2:]
        return [
            Window(k, s, d, (lo, hi), n, m, mode)
            for k, s, d, (lo, hi), n, m, mode in zip(kernel, a["stride"], a["dilation"], a["padding"], wide, narrow, modes, strict=True)
        ]

    def _taps(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        a = self.node.attributes
        _, narrow = self._spatial
        for tap in itertools.product(*(range(k) for k in self.node.arrays["weight"].shape[2:])):
            yield (
                tap,
                tuple(slice(d * k, d * k + s * (n - 1) + 1, s) for k, d, s, n in zip(tap, a["dilation"], a["stride"], narrow, strict=True)),
            )

    def _down(self, x: Array, power: int) -> Array:
        """The convolution."""
        a, w = self.node.attributes, _weight(self.node.arrays["weight"], power)
        g, (_, narrow) = a["groups"], self._spatial
        lead, x = x.shape[: -(len(narrow) + 1)], x.reshape(-1, *x.shape[-(len(narrow) + 1) :])
        reach = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(a["stride"], narrow, a["dilation"], w.shape[2:], strict=True)]
        windows = self._windows
        for k, window in enumerate(windows):
            if window.copies:
                x = np.take(x, window.positions, 2 + k)
        pads = [(0, 0) if v.copies else (v.padding[0], max(0, r - v.padding[0] - v.wide)) for v, r in zip(windows, reach, strict=True)]
        x = np.pad(x, [(0, 0), (0, 0), *pads])
        out = np.zeros((len(x), g, w.shape[0] // g, math.prod(narrow)))
        for tap, where in self._taps():
            part = x[(slice(None), slice(None), *where)].reshape(len(x), g, -1, math.prod(narrow))
            out += w[(slice(None), slice(None), *tap)].reshape(g, w.shape[0] // g, -1) @ part
        out = out.reshape(len(out), w.shape[0], *narrow)
        if power == 2:
            # m entries that meet in one obey (sum w)^2 <= m sum w^2.
            for k, window in ((k, v) for k, v in enumerate(windows) if v.copies):
                out = out * window.read.sum(0).max(1).reshape([-1 if j == k else 1 for j in range(len(narrow))])
        return out.reshape(*lead, w.shape[0], *narrow)

    def _up(self, y: Array, power: int) -> Array:
        """Its adjoint."""
        a, w = self.node.attributes, _weight(self.node.arrays["weight"], power)
        g, (wide, narrow) = a["groups"], self._spatial
        lead, y = y.shape[: -(len(narrow) + 1)], y.reshape(-1, g, w.shape[0] // g, math.prod(narrow))
        reach = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(a["stride"], narrow, a["dilation"], w.shape[2:], strict=True)]
        windows = self._windows
        full = [sum(v.padding) + v.wide if v.copies else max(r, v.padding[0] + v.wide) for v, r in zip(windows, reach, strict=True)]
        x = np.zeros((len(y), g * w.shape[1], *full))
        for tap, where in self._taps():
            part = w[(slice(None), slice(None), *tap)].reshape(g, w.shape[0] // g, -1).swapaxes(1, 2) @ y
            x[(slice(None), slice(None), *where)] += part.reshape(len(y), -1, *narrow)
        for k, window in enumerate(windows):
            if window.copies:
                folded = np.zeros((*x.shape[: 2 + k], window.wide, *x.shape[3 + k :]))
                np.add.at(np.moveaxis(folded, 2 + k, 0), window.positions, np.moveaxis(x, 2 + k, 0))
                x = folded
        crop = tuple(slice(0, None) if v.copies else slice(v.padding[0], v.padding[0] + v.wide) for v in windows)
        x = x[(slice(None), slice(None), *crop)]
        return x.reshape(*lead, x.shape[1], *wide)

    def apply(self, x: Array, power: int = 1) -> Array:
        return self._up(x, power) if self.flipped else self._down(x, power)

    def transpose(self, y: Array, absolute: bool = False) -> Array:
        return self._down(y, 0 if absolute else 1) if self.flipped else self._up(y, 0 if absolute else 1)

    @property
    def terms(self) -> int:
        w = self.node.arrays["weight"]
        copies = math.prod(int(np.bincount(v.positions).max()) for v in self._windows if v.copies)
        return 2 * math.prod(w.shape[2:]) * max(w.shape[:2]) * copies

    def bias(self) -> Array | None:
        b = self.node.arrays["bias"]
        return b.reshape(-1, *[1] * (self.node.arrays["weight"].ndim - 2))

    def proves(self, claim: float) -> bool:
        weight, groups = self.node.arrays["weight"], self.node.attributes["groups"]
        return convolution_norm_at_most(weight.reshape(groups, -1, *weight.shape[1:]), self._windows, claim)


@dataclass(frozen=True)
class Scale(Linear):
    """A diagonal matrix."""

    def apply(self, x: Array, power: int = 1) -> Array:
        return x * _weight(self.node.arrays["weight"], power)

    def transpose(self, y: Array, absolute: bool = False) -> Array:
        return self.apply(y, 0 if absolute else 1)

    @property
    def terms(self) -> int:
        return 1

    @property
    def entry_by_entry(self) -> bool:
        return True

    def bias(self) -> Array | None:
        return self.node.arrays["bias"]

    def norm(self, p: float, claim: float | None) -> float:
        return float(np.abs(self.node.arrays["weight"]).max(initial=0.0))


@dataclass(frozen=True)
class Moved(Linear):
    """Entries moved: reshape, permute, select."""

    def _index(self) -> Array:
        count = math.prod(self.source)
        if self.node.op == "reshape":
            return np.arange(count).reshape(self.node.shape)
        if self.node.op == "permute":
            return np.arange(count).reshape(self.source).transpose(self.node.attributes["dims"])
        return self.node.arrays["index"]

    @property
    def copies(self) -> int:
        """The most often an entry is used."""
        index = self._index()
        kept = index[index >= 0]
        return int(np.bincount(kept.ravel()).max()) if kept.size else 0

    def apply(self, x: Array, power: int = 1) -> Array:
        index = self._index()
        flat = x.reshape(-1, math.prod(self.source))
        if flat.shape[1] == 0:
            return np.zeros((len(flat), *self.node.shape))
        y = np.where(index.ravel() < 0, 0.0, flat[:, np.maximum(index.ravel(), 0)])
        return y.reshape(len(flat), *self.node.shape)

    def transpose(self, y: Array, absolute: bool = False) -> Array:
        index = self._index().ravel()
        flat = y.reshape(len(y), index.size)
        x = np.zeros((len(y), math.prod(self.source)))
        kept = index >= 0
        if self.copies <= 1:
            x[:, index[kept]] = flat[:, kept]
        else:
            np.add.at(x.T, index[kept], flat[:, kept].T)
        return x.reshape(len(y), *self.source)

    @property
    def terms(self) -> int:
        return max(1, self.copies)

    @property
    def entry_by_entry(self) -> bool:
        return self.copies <= 1

    def bias(self) -> Array | None:
        if self.node.op != "select" or self.node.attributes["fill"] == 0:
            return None
        return np.where(self._index() < 0, float(self.node.attributes["fill"]), 0.0)

    def norm(self, p: float, claim: float | None) -> float:
        copies = self.copies
        if copies <= 1 or p == math.inf:
            return float(min(copies, 1))
        return float(copies) if p == 1 else math.nextafter(math.sqrt(copies), math.inf)


def linear_part(node: NodeLike, source: Shape) -> Linear | None:
    """The linear map of an affine node, or None for the others."""
    kinds = {"dense": Dense, "scale": Scale, "reshape": Moved, "permute": Moved, "select": Moved, "conv": Convolution}
    if node.op == "conv_transpose":
        return Convolution(node, source, flipped=True)
    return kinds[node.op](node, source) if node.op in kinds else None
