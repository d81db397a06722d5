"""Reads an untrusted certificate: every field is required, of its type, finite where it must be, and of a sane size."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steepest.proofs.checker.box import Array, Box
from steepest.proofs.checker.cover import Cover
from steepest.proofs.checker.linear import NodeLike, Shape
from steepest.proofs.checker.radius import METHODS as RADIUS_METHODS
from steepest.proofs.checker.radius import Claim
from steepest.proofs.checker.signs import Patterns

FORMAT = "steepest-certificate/1"
RADII_FORMAT = "steepest-radii/1"
METHODS = ("product", "jacobian", "linear-jacobian", "rowwise", "lipsdp", "lipsdp-channel", "splitting", "signs")
NORMS = {"1": 1.0, "2": 2.0, "inf": math.inf}
_LARGEST = 10**9
_MOST = 10**6


class Malformed(ValueError):
    """A certificate that cannot be read; the message says where."""


@dataclass(frozen=True)
class Region:
    """The set of inputs: a box around it, and the ball itself where it is one."""

    box: Box
    centre: Array | None = None
    radius: float = 0.0
    norm: float = 2.0


@dataclass(frozen=True)
class Statement:
    """What a certificate claims."""

    digest: str
    output: tuple[int, ...] | None
    norm: float
    region: Region
    bound: float
    method: str
    work: float | None
    claims: dict[int, float]
    multipliers: dict[int, Array]
    cover: Cover | None
    rows: tuple[dict[int, Array], ...] | None
    patterns: Patterns | None
    lower: float
    pair: tuple[Array, Array] | None


@dataclass(frozen=True)
class Radii:
    """What a certificate of radii claims; ``constant`` is a node and the certificate of the network up to it, not read yet."""

    digest: str
    norm: float
    claims: tuple[Claim, ...]
    constant: tuple[int, Any] | None


def digest(nodes: Sequence[NodeLike]) -> str:
    """sha256 over operators, wiring, shapes and exact weights (docs/certificate.md)."""
    outline = [
        {
            "op": n.op,
            "inputs": list(n.inputs),
            "shape": list(n.shape),
            "attributes": dict(n.attributes),
            "arrays": {key: _fingerprint(a) for key, a in n.arrays.items()},
        }
        for n in nodes
    ]
    return hashlib.sha256(json.dumps(outline, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def _fingerprint(a: Array) -> dict[str, Any]:
    raw = np.ascontiguousarray(a).astype(a.dtype.newbyteorder("<")).tobytes()
    return {
        "shape": list(a.shape),
        "dtype": str(a.dtype),
        "sha256": hashlib.sha256(f"{a.dtype.name}{list(a.shape)}".encode() + raw).hexdigest(),
    }


def read(certificate: Any, shape: Shape, outputs: int) -> Statement:
    """The certificate's claims, for a network with inputs of this shape and so many outputs.

    Raises:
        Malformed: saying which field is wrong.
    """
    top = _object(certificate, "the certificate")
    if top.get("format") != FORMAT:
        raise Malformed(f"The format is {top.get('format')!r}, not {FORMAT!r}.")
    named, norm = _subject(top, shape)
    upper = _object(top.get("upper"), "upper")
    bound = _number(upper.get("bound"), "upper.bound", infinite=True)
    if bound < 0:
        raise Malformed("upper.bound is negative.")
    method = upper.get("method")
    if method not in METHODS:
        raise Malformed(f"The method {method!r} is not known; known are {', '.join(METHODS)}.")
    optimised = method.startswith("lipsdp")
    key = "work" if method in ("linear-jacobian", "rowwise") else "gain"
    lower, pair = 0.0, None
    if top.get("lower", False) is not None:
        below = _object(top.get("lower"), "lower")
        lower = _number(below.get("bound"), "lower.bound")
        pair = (_array(below.get("x"), "lower.x", shape), _array(below.get("y"), "lower.y", shape))
    return Statement(
        named,
        _output(top.get("output"), outputs),
        NORMS[norm],
        _region(_object(top.get("domain"), "domain"), shape),
        bound,
        method,
        _work(upper),
        {k: _number(v, f"the {key} of a step") for k, v in _steps(upper.get("steps"), key).items()} if not optimised else {},
        {k: _multipliers(v) for k, v in _steps(upper.get("steps"), "multipliers").items()} if optimised else {},
        _cover(upper.get("cover"), shape) if method == "splitting" else None,
        _rows(upper.get("rows")) if method == "rowwise" else None,
        _patterns(upper.get("patterns")) if method == "signs" else None,
        lower,
        pair,
    )


def read_radii(certificate: Any, shape: Shape, nodes: int) -> Radii:
    """A certificate of radii, for a network with inputs of this shape and so many nodes.

    Raises:
        Malformed: saying which field is wrong.
    """
    top = _object(certificate, "the certificate")
    named, norm = _subject(top, shape)
    inputs, constant = top.get("inputs"), top.get("constant")
    if not isinstance(inputs, list) or len(inputs) > _MOST:
        raise Malformed("inputs is not a list.")
    inner = None
    if constant is not None:
        node = _object(constant, "constant").get("node")
        if isinstance(node, bool) or not isinstance(node, int) or not 0 <= node < nodes:
            raise Malformed("constant.node is no node.")
        inner = (node, constant.get("certificate"))
    return Radii(named, NORMS[norm], tuple(_claim(_object(one, "an input"), shape) for one in inputs), inner)


def _claim(entry: Mapping[str, Any], shape: Shape) -> Claim:
    answer, method = entry.get("answer"), entry.get("method")
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise Malformed("The answer of an input is no whole number.")
    if method not in RADIUS_METHODS:
        raise Malformed(f"The method {method!r} is not known; known are {', '.join(RADIUS_METHODS)}.")
    x, radius, work = _array(entry.get("x"), "x", shape), _number(entry.get("radius"), "a radius"), _number(entry.get("work"), "work")
    if radius < 0 or not np.isfinite(x).all():
        raise Malformed("An input is not finite, or a radius negative.")
    return Claim(x, answer, radius, method, work)


def _subject(top: Mapping[str, Any], shape: Shape) -> tuple[str, str]:
    """The digest and the norm."""
    named = _object(top.get("network"), "network").get("digest")
    if not isinstance(named, str):
        raise Malformed("network.digest is missing.")
    if top.get("input_shape") != list(shape):
        raise Malformed(f"input_shape is {top.get('input_shape')!r}, and the network takes {list(shape)}.")
    norm = top.get("norm")
    if not isinstance(norm, str) or norm not in NORMS:
        raise Malformed(f"The norm {norm!r} is none of 1, 2, inf.")
    return named, norm


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Malformed(f"{where} is missing or not an object.")
    return value


def _number(value: Any, where: str, infinite: bool = False) -> float:
    if infinite and value == "inf":
        return math.inf
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e308 or value != value:
        raise Malformed(f"{where} is not a finite number.")
    return float(value)


def _array(value: Any, where: str, shape: Shape, dtype: str = "float64") -> Array:
    entry = _object(value, where)
    if entry.get("dtype") != dtype or not isinstance(entry.get("base64"), str) or entry.get("shape") != list(shape):
        raise Malformed(f"{where} is not a {dtype} array of shape {list(shape)}.")
    count = math.prod(shape)
    try:
        raw = base64.b64decode(entry["base64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"{where} is not valid base64.") from error
    if count > _LARGEST or len(raw) != 8 * count:
        raise Malformed(f"{where} does not hold {count} numbers.")
    try:
        array = np.frombuffer(raw, dtype=np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
    except ValueError as error:
        raise Malformed(f"{where} has a shape that no array has.") from error
    if np.isnan(array).any():
        raise Malformed(f"{where} holds NaN.")
    return array


def _output(value: Any, outputs: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    whole = isinstance(value, list) and len(value) in (1, 2) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    if not whole or not all(0 <= i < outputs for i in value) or len(set(value)) < len(value):
        raise Malformed(f"output {value!r} is not one or two different positions below {outputs}.")
    return tuple(value)


def _work(upper: Mapping[str, Any]) -> float | None:
    if "enclosure" not in upper:
        return None
    entry = _object(upper["enclosure"], "upper.enclosure")
    if set(entry) != {"work"}:
        raise Malformed("upper.enclosure is not {work}.")
    return _number(entry["work"], "the work of upper.enclosure")


def _steps(steps: Any, key: str) -> dict[int, Any]:
    if not isinstance(steps, list):
        raise Malformed("upper.steps is not a list.")
    found: dict[int, Any] = {}
    for step in steps:
        entry = _object(step, "a step of upper.steps")
        node = entry.get("node")
        if isinstance(node, bool) or not isinstance(node, int) or node in found or set(entry) != {"node", key}:
            raise Malformed(f"A step of upper.steps is not {{node, {key}}} with a node of its own.")
        found[node] = entry[key]
    return found


def _multipliers(value: Any) -> Array:
    shape = _object(value, "the multipliers of a step").get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _LARGEST for n in shape):
        raise Malformed("The multipliers of a step have no shape.")
    return _array(value, "the multipliers of a step", tuple(shape))


def _cover(value: Any, shape: Shape) -> Cover:
    entry = _object(value, "upper.cover")
    size = _object(entry.get("at"), "upper.cover.at").get("shape")
    pieces = entry.get("pieces")
    if (
        not isinstance(size, list)
        or len(size) != 1
        or not isinstance(size[0], int)
        or not 0 < size[0] <= _MOST
        or not isinstance(pieces, list)
    ):
        raise Malformed("The cover of the domain is not a list of nodes and one of pieces.")
    empty = _object(entry.get("scale"), "upper.cover.scale").get("shape") == [0]
    return Cover(
        _array(entry.get("scale"), "upper.cover.scale", (0,) if empty else (math.prod(shape),)),
        _array(entry.get("coordinate"), "upper.cover.coordinate", (size[0],), "int64"),
        _array(entry.get("at"), "upper.cover.at", (size[0],)),
        tuple({k: _multipliers(v) for k, v in _steps(piece, "multipliers").items()} for piece in pieces),
    )


def _rows(value: Any) -> tuple[dict[int, Array], ...]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise Malformed("upper.rows is not a list.")
    return tuple({k: _multipliers(v) for k, v in _steps(row, "multipliers").items()} for row in value)


def _patterns(value: Any) -> Patterns:
    entry = _object(value, "upper.patterns")
    parts = {}
    for name, axes, dtype in (
        ("first", 2, "int64"),
        ("cut", 1, "int64"),
        ("chosen", 1, "int64"),
        ("multipliers", 2, "float64"),
        ("weights", 2, "float64"),
        ("counts", 1, "int64"),
        ("codes", 1, "int64"),
        ("shares", 1, "float64"),
    ):
        where = f"upper.patterns.{name}"
        shape = _object(entry.get(name), where).get("shape")
        if (
            not isinstance(shape, list)
            or len(shape) != axes
            or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _LARGEST for n in shape)
        ):
            raise Malformed(f"{where} has no shape of {axes} axes.")
        parts[name] = _array(entry[name], where, tuple(shape), dtype)
    if len(parts["cut"]) > _MOST or parts["codes"].shape != parts["shares"].shape:
        raise Malformed("The trees of the patterns are too large, or constraints and their shares differ in number.")
    return Patterns(**parts)


def _region(domain: Mapping[str, Any], shape: Shape) -> Region:
    kind = domain.get("kind")
    if kind == "all":
        return Region(Box(np.full(shape, -np.inf), np.full(shape, np.inf)))
    if kind == "box":
        lo, hi = _array(domain.get("lo"), "domain.lo", shape), _array(domain.get("hi"), "domain.hi", shape)
        if (lo > hi).any():
            raise Malformed("The box of the domain is empty.")
        return Region(Box(lo, hi))
    if kind == "ball":
        centre, radius, norm = (
            _array(domain.get("centre"), "domain.centre", shape),
            _number(domain.get("radius"), "domain.radius"),
            domain.get("norm"),
        )
        if radius < 0 or not isinstance(norm, str) or norm not in NORMS or not np.isfinite(centre).all():
            raise Malformed("The ball of the domain needs a finite centre, a radius of at least zero, and a norm.")
        box = Box(np.nextafter(centre - radius, -np.inf), np.nextafter(centre + radius, np.inf))
        return Region(box, centre, radius, NORMS[norm])
    raise Malformed(f"The domain {kind!r} is none of all, box, ball.")
