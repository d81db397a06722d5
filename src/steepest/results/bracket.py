"""What is known of a Lipschitz constant: proven bounds from both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steepest.results.cover import Cover
from steepest.results.domain import NORM_NAMES, Domain, array_to_json, number_to_json
from steepest.results.estimate import Estimate
from steepest.results.patterns import Patterns


@dataclass(frozen=True)
class Step:
    """One step of an argument about one node; the meaning of its numbers belongs to the method (docs/certificate.md)."""

    node: int
    values: Mapping[str, float | np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "node": self.node,
            **{key: array_to_json(v) if isinstance(v, np.ndarray) else number_to_json(v) for key, v in self.values.items()},
        }


@dataclass(frozen=True)
class UpperBound:
    """A proven upper bound and the argument for it.

    Args:
        method: the algorithm's name: ``product``, ``jacobian``, ``linear-jacobian``, ``rowwise``, ``lipsdp``, ``lipsdp-channel`` or
        ``splitting``.
        value: the bound, possibly infinite.
        steps: what the checker follows.
        seconds: wall time it took.
        blocked_by: where the bound is infinite, the node that has no finite constant over the domain.
        gap: where the method optimises, how far at most the square of the bound is above the method's optimum, relatively; or None.
        history: (seconds since the method began, value): how it fell; the last entry is the proven value.
        remark: where the method gives nothing, why.
        cover: where the argument goes by pieces, those.
        rows: where it goes by rows of the output, for each the multipliers by node.
        work: where it begins with enclosures by backward linear bounds, the most multiplications for the rows of one node of these.
        patterns: where it goes by activation patterns, those.
        point: the steepest input that the method met, of the network's input shape, or None; it proves nothing.
    """

    method: str
    value: float
    steps: tuple[Step, ...] = ()
    seconds: float = 0.0
    blocked_by: str | None = None
    gap: float | None = None
    history: tuple[tuple[float, float], ...] = ()
    remark: str = ""
    cover: Cover | None = None
    rows: tuple[Mapping[int, Any], ...] = ()
    work: float | None = None
    patterns: Patterns | None = None
    point: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class LowerBound:
    """A proven lower bound: two real points and the slope of the secant between them.

    Args:
        value: at most ``|f(x) - f(y)| / |x - y|``, rounded down.
        x, y: float64 of the network's input shape, both in the domain.
        method: the search that found them.
        seconds: wall time it took.
        jacobian_norm: the norm of the Jacobian at the midpoint in float64: an estimate, not rounded.
    """

    value: float
    x: np.ndarray
    y: np.ndarray
    method: str
    seconds: float = 0.0
    jacobian_norm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "value": self.value,
            "x": array_to_json(self.x),
            "y": array_to_json(self.y),
            "method": self.method,
            "seconds": self.seconds,
            "jacobian_norm": self.jacobian_norm,
        }


@dataclass(frozen=True, eq=False)
class Bracket:
    """``lower <= Lipschitz constant <= upper`` over a domain, in one norm at both ends.

    Args:
        digest: of the network it speaks of.
        lower, upper: the bounds; ``upper`` may be infinite.
        norm: 1, 2 or inf.
        domain: the inputs it speaks of.
        output: None for all outputs, ``(i,)`` for one, ``(i, j)`` for the difference of two (flattened positions).
        uppers: every upper bound that was computed, best first.
        witness: the pair of points behind ``lower``, or None where only zero is known.
        seconds: wall time of the whole.
        certificate: the JSON certificate, or None where it was not kept.
        checked: whether the independent checker has accepted the certificate in this run.
        notes: sentences a reader must see, such as which node makes the bound infinite.
        name: what people call the network.
        limited: whether the time limit or an interrupt cut something short, so that more time might give a tighter bracket.
        estimates: values of methods that prove nothing, for comparison.
    """

    digest: str
    lower: float
    upper: float
    norm: float
    domain: Domain
    output: tuple[int, ...] | None
    uppers: tuple[UpperBound, ...]
    witness: LowerBound | None
    seconds: float
    certificate: Mapping[str, Any] | None = None
    checked: bool = False
    notes: tuple[str, ...] = ()
    name: str = "network"
    limited: bool = False
    estimates: tuple[Estimate, ...] = ()

    @property
    def ratio(self) -> float:
        """Upper / lower; infinite where either end says nothing; 1 where both are zero."""
        if self.upper == 0.0:
            return 1.0
        return self.upper / self.lower if self.lower > 0 else math.inf

    @property
    def method(self) -> str:
        """The method of the best upper bound."""
        return self.uppers[0].method if self.uppers else "none"

    def to_json(self) -> dict[str, Any]:
        """The JSON form, infinity as ``"inf"``."""
        witness = self.witness
        return {
            "format": "steepest-bracket/1",
            "model": {"name": self.name, "digest": self.digest},
            "lower": self.lower,
            "upper": number_to_json(self.upper),
            "ratio": number_to_json(self.ratio),
            "norm": NORM_NAMES[self.norm],
            "domain": self.domain.to_json(),
            "output": None if self.output is None else list(self.output),
            "method": self.method,
            "methods": [
                {
                    "method": u.method,
                    "upper": number_to_json(u.value),
                    "seconds": u.seconds,
                    "blocked_by": u.blocked_by,
                    "gap": u.gap,
                    "history": [list(h) for h in u.history],
                }
                for u in self.uppers
            ],
            "estimates": [e.to_json() for e in self.estimates],
            "lower_witness": None if witness is None else witness.to_json(),
            "seconds": self.seconds,
            "checked": self.checked,
            "limited": self.limited,
            "notes": list(self.notes),
            "certificate": None if self.certificate is None else dict(self.certificate),
        }

    def _repr_html_(self) -> str:
        # The one import upwards: notebooks ask the record itself for its picture.
        from steepest.report.fragments import bracket_fragment

        return bracket_fragment(self.to_json())
