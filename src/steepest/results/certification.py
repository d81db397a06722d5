"""Certified radii of inputs, and the accuracy that follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steepest.results.domain import number_from_json, number_to_json


@dataclass(frozen=True)
class CertifiedInput:
    """What is known of one input, in the norm of the certification.

    Args:
        index: its position in the data.
        label: its class, where known.
        answer: the class the network gives it.
        margin: the least ``f_c(x) - f_j(x)`` over the other classes j, rounded down; not above zero where the answer is in doubt.
        radius: every x' with ``|x' - x| <= radius`` has the same answer; zero where nothing is proven.
        source: what proved it: ``constant``, ``intervals``, ``linear`` or ``slopes``; ``none`` where the radius is zero.
        attack: the distance of a point with another answer, rounded up; infinite where none was found.
    """

    index: int
    label: int | None
    answer: int
    margin: float
    radius: float
    source: str
    attack: float

    @property
    def right(self) -> bool:
        """Whether the answer is the label; without labels every answer counts."""
        return self.label is None or self.label == self.answer

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "index": self.index,
            "label": self.label,
            "answer": self.answer,
            "margin": number_to_json(self.margin),
            "radius": self.radius,
            "source": self.source,
            "attack": number_to_json(self.attack),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CertifiedInput:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        return cls(
            int(content["index"]),
            None if content["label"] is None else int(content["label"]),
            int(content["answer"]),
            number_from_json(content["margin"]),
            number_from_json(content["radius"]),
            str(content["source"]),
            number_from_json(content["attack"]),
        )


@dataclass(frozen=True, eq=False)
class Certification:
    """Certified radii of a classifier at inputs.

    Args:
        name, digest: of the network.
        norm: of perturbations, by its name: ``1``, ``2`` or ``inf``.
        radius: at which accuracies are told.
        inputs: those that were done, in the order of the data.
        asked: how many were to be done.
        constant: of the network before its last affine layers, over all inputs, an upper bound, or None where there is none.
        data: what people call the data.
        effort: ``fast``, ``normal`` or ``high``.
        seconds: wall time.
        versions: what it was computed with.
        notes: sentences a reader must see.
        certificate: proof of all radii above zero, for ``steepest check``, or None where it was not kept.
    """

    name: str
    digest: str
    norm: str
    radius: float
    inputs: tuple[CertifiedInput, ...]
    asked: int
    constant: float | None
    data: str
    effort: str
    seconds: float
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    certificate: Mapping[str, Any] | None = None

    @property
    def labelled(self) -> bool:
        """Whether labels are known."""
        return any(i.label is not None for i in self.inputs)

    @property
    def accuracy(self) -> float:
        """The share of inputs answered rightly; one without labels."""
        return self._share(lambda i: i.right)

    def certified_accuracy(self, radius: float) -> float:
        """The share of inputs answered rightly and provably so within the radius."""
        return self._share(lambda i: i.right and i.margin > 0 and i.radius >= radius)

    def attacked_accuracy(self, radius: float) -> float:
        """The share of inputs answered rightly for which no point within the radius is known to have another answer."""
        return self._share(lambda i: i.right and i.attack > radius)

    @property
    def median_radius(self) -> float:
        """Of the certified radii, the lower median."""
        return _median([i.radius for i in self.inputs])

    @property
    def median_attack(self) -> float:
        """Of the distances of known changes, the lower median."""
        return _median([i.attack for i in self.inputs])

    def sources(self) -> dict[str, int]:
        """How many radii each source proved."""
        names = [i.source for i in self.inputs]
        return {name: names.count(name) for name in sorted(set(names))}

    def _share(self, holds: Any) -> float:
        return sum(holds(i) for i in self.inputs) / len(self.inputs) if self.inputs else math.nan

    def to_json(self) -> dict[str, Any]:
        """The JSON form, without the certificate."""
        none = not self.inputs
        return {
            "format": "steepest-certification/1",
            "model": {"name": self.name, "digest": self.digest},
            "data": self.data,
            "norm": self.norm,
            "radius": self.radius,
            "asked": self.asked,
            "count": len(self.inputs),
            "labelled": self.labelled,
            "accuracy": None if none else self.accuracy,
            "certified_accuracy": None if none else self.certified_accuracy(self.radius),
            "attacked_accuracy": None if none else self.attacked_accuracy(self.radius),
            "median_radius": None if none else self.median_radius,
            "median_attack": None if none else number_to_json(self.median_attack),
            "sources": self.sources(),
            "constant": None if self.constant is None else number_to_json(self.constant),
            "inputs": [i.to_json() for i in self.inputs],
            "effort": self.effort,
            "seconds": self.seconds,
            "versions": dict(self.versions),
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        # Upwards, as for a bracket: notebooks ask the record itself for its picture.
        from steepest.report.fragments import certification_fragment

        return certification_fragment(self.to_json())


def _median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2] if values else math.nan
