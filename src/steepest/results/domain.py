"""The set of inputs a statement speaks of, and how norms and arrays are written in JSON."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

NORM_NAMES: dict[float, str] = {1.0: "1", 2.0: "2", math.inf: "inf"}
"""The norms a constant can be asked in, by their names in JSON and on the command line."""


def norm_from_name(name: str) -> float:
    """``"1"``, ``"2"`` or ``"inf"`` as a float.

    Raises:
        ValueError: for any other name.
    """
    for norm, known in NORM_NAMES.items():
        if name == known:
            return norm
    raise ValueError(f"norm must be 1, 2 or inf, not {name!r}")


def number_to_json(x: float) -> float | str:
    """A float, with infinity as the string ``"inf"``; NaN has no place in a result."""
    assert not math.isnan(x)
    return x if math.isfinite(x) else ("inf" if x > 0 else "-inf")


def number_from_json(x: Any) -> float:
    """The inverse of ``number_to_json``."""
    if isinstance(x, bool) or not isinstance(x, (int, float, str)) or (isinstance(x, str) and x not in ("inf", "-inf")):
        raise ValueError(f"not a number: {x!r}")
    return float(x)


def array_to_json(array: np.ndarray) -> dict[str, Any]:
    """An array exactly: shape, dtype and little-endian bytes in base64."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return {"shape": list(array.shape), "dtype": array.dtype.name, "base64": base64.b64encode(little.tobytes()).decode("ascii")}


def array_from_json(data: Any) -> np.ndarray:
    """The inverse of ``array_to_json``; only float64 and int64.

    Raises:
        ValueError: where the parts do not fit together.
    """
    if not isinstance(data, dict) or data.get("dtype") not in ("float64", "int64"):
        raise ValueError("an array needs shape, dtype float64 or int64, and base64")
    raw = base64.b64decode(data["base64"], validate=True)
    return np.frombuffer(raw, dtype=np.dtype(data["dtype"]).newbyteorder("<")).reshape(data["shape"]).astype(data["dtype"])


@dataclass(frozen=True, eq=False)
class Domain:
    """All inputs, a box, or a ball.

    Args:
        kind: ``all``, ``box`` (``lo <= x <= hi``) or ``ball`` (``|x - centre|_norm <= radius``).
        lo, hi: float64 of the network's input shape, for a box; infinite ends are allowed.
        centre: float64 of the network's input shape, for a ball.
        radius: non-negative, for a ball.
        norm: 1, 2 or inf, for a ball.
    """

    kind: Literal["all", "box", "ball"]
    lo: np.ndarray | None = None
    hi: np.ndarray | None = None
    centre: np.ndarray | None = None
    radius: float | None = None
    norm: float | None = None

    def bounds(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The smallest box around the domain, rounded outwards."""
        if self.kind == "all":
            return np.full(shape, -np.inf), np.full(shape, np.inf)
        if self.kind == "box":
            assert self.lo is not None and self.hi is not None
            return self.lo.reshape(shape), self.hi.reshape(shape)
        assert self.centre is not None and self.radius is not None
        centre = self.centre.reshape(shape)
        return np.nextafter(centre - self.radius, -np.inf), np.nextafter(centre + self.radius, np.inf)

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        if self.kind == "all":
            return {"kind": "all"}
        if self.kind == "box":
            assert self.lo is not None and self.hi is not None
            return {"kind": "box", "lo": array_to_json(self.lo), "hi": array_to_json(self.hi)}
        assert self.centre is not None and self.radius is not None and self.norm is not None
        return {"kind": "ball", "norm": NORM_NAMES[self.norm], "radius": self.radius, "centre": array_to_json(self.centre)}

    def describe(self) -> str:
        """One phrase for people."""
        if self.kind == "all":
            return "all inputs"
        if self.kind == "box":
            assert self.lo is not None and self.hi is not None
            return f"the box [{self.lo.min():g}, {self.hi.max():g}]"
        assert self.radius is not None and self.norm is not None
        return f"a ball of radius {self.radius:g} in l{NORM_NAMES[self.norm]}"
