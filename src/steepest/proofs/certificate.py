"""Writes certificates, and reads them from files."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from steepest.errors import ModelError
from steepest.results import Domain, LowerBound, NetworkRecord, UpperBound
from steepest.results.domain import NORM_NAMES, array_to_json, number_to_json

_LARGEST_FILE = 2**30


@dataclass(frozen=True, eq=False)
class RadiusClaim:
    """That every x' with ``|x' - x| <= radius`` has the answer.

    Args:
        index: of x in the data, for readers.
        x: float64 of the network's input shape.
        answer: the position of the largest entry of the flattened output.
        radius: not negative.
        method: what proves it: ``constant``, ``intervals``, ``linear`` or ``slopes``.
        work: of the linear bounds.
    """

    index: int
    x: np.ndarray
    answer: int
    radius: float
    method: str
    work: float

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "index": self.index,
            "x": array_to_json(self.x),
            "answer": self.answer,
            "radius": self.radius,
            "method": self.method,
            "work": self.work,
        }


def write_certificate(
    record: NetworkRecord, *, output: tuple[int, ...] | None, norm: float, domain: Domain, upper: UpperBound, lower: LowerBound | None
) -> dict[str, Any]:
    """The certificate of a bracket as JSON (docs/certificate.md).

    Args:
        record: the whole network, without the row that picks an output.
        output: the positions picked, or None.
        norm: 1, 2 or inf.
        domain: where the bounds hold.
        upper: a bound and its steps.
        lower: a witness, or None.
    """
    return {
        "format": "steepest-certificate/1",
        "network": {"digest": record.digest, "nodes": record.outline()},
        "input_shape": list(record.input_shape),
        "output": None if output is None else list(output),
        "norm": NORM_NAMES[norm],
        "domain": domain.to_json(),
        "upper": {
            "bound": number_to_json(upper.value),
            "method": upper.method,
            "steps": [step.to_json() for step in upper.steps],
            **({} if upper.work is None else {"enclosure": {"work": upper.work}}),
            **({} if upper.cover is None else {"cover": upper.cover.to_json()}),
            **({} if upper.patterns is None else {"patterns": upper.patterns.to_json()}),
            **(
                {"rows": [[{"node": k, "multipliers": array_to_json(t)} for k, t in row.items()] for row in upper.rows]}
                if upper.rows
                else {}
            ),
        },
        "lower": None if lower is None else {"bound": lower.value, "x": array_to_json(lower.x), "y": array_to_json(lower.y)},
        "versions": versions(),
        "assumptions": _assumptions(record),
    }


def write_radii(record: NetworkRecord, norm: float, inputs: Sequence[RadiusClaim], constant: tuple[int, Any] | None) -> dict[str, Any]:
    """The certificate of radii as JSON (docs/certificate.md).

    Args:
        record: the whole network.
        norm: 1, 2 or inf.
        inputs: what is claimed.
        constant: a node and the certificate of the network up to it over all inputs, which is None for the input itself.
    """
    return {
        "format": "steepest-radii/1",
        "network": {"digest": record.digest, "nodes": record.outline()},
        "input_shape": list(record.input_shape),
        "norm": NORM_NAMES[norm],
        "constant": None if constant is None else {"node": constant[0], "certificate": constant[1]},
        "inputs": [one.to_json() for one in inputs],
        "versions": versions(),
        "assumptions": _assumptions(record),
    }


def load_certificate(path: Path) -> dict[str, Any]:
    """Read a certificate from a file.

    Raises:
        ModelError: where there is none, or it is no JSON object, or holds NaN or bare infinities.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ModelError(f"{path} is larger than {_LARGEST_FILE} bytes: no certificate is")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ModelError(f"cannot read the certificate {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a certificate: it is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a certificate: it holds no JSON object")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} has no place in it")


def versions() -> dict[str, str]:
    """What a result was computed with."""
    found = {"python": platform.python_version()}
    for package in ("steepest", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _assumptions(record: NetworkRecord) -> list[str]:
    sentences = [
        "The network is taken as a map of real numbers; what floating-point hardware does with it is not part of the claim.",
        "Its parameters are exact float64 numbers; batch norm and constant subexpressions were folded in float64 first.",
        f"Inputs have the shape {list(record.input_shape)}; another shape may give another network.",
    ]
    codes = {node.op for node in record.nodes}
    if "softplus" in codes or "mish" in codes:
        sentences.append("Softplus is log(1 + e^x) everywhere, without the linear branch that torch takes above its threshold.")
    if codes & {"sigmoid", "tanh", "erf", "softplus", "elu", "gelu", "gelu_tanh", "silu", "mish", "tanhshrink", "exp", "log", "softmax"}:
        sentences.append("Elementary functions such as exp are computed to within eight units in the last place.")
    return sentences
