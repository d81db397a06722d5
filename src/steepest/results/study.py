"""A claim of the literature, tried here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What became of a claim."""

    HELD = "held"
    PARTLY = "held partly"
    DID_NOT_HOLD = "did not hold here"


@dataclass(frozen=True)
class Interval:
    """A measured quantity over seeds: its mean (of ratios the geometric one) and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def shown(value: float, low: float, high: float) -> tuple[str, str, str]:
    """Three digits of each; 0 for what is less than 1e-9 of the larger end: the rounding that a difference has left."""
    largest = max((abs(v) for v in (low, high) if math.isfinite(v)), default=0.0)
    return f"{_unless_tiny(value, largest):.3g}", f"{_unless_tiny(low, largest):.3g}", f"{_unless_tiny(high, largest):.3g}"


def _unless_tiny(value: float, largest: float) -> float:
    return 0.0 if abs(value) < 1e-9 * largest else value


@dataclass(frozen=True)
class Series:
    """One line of a figure: points x, y, with a band where there are several seeds."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Figure:
    """Lines over common axes, drawn by the report.

    Args:
        caption: what to see, in a sentence.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    caption: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim, who made it, and what was seen.

    Args:
        statement: the claim in one sentence.
        source: paper and section.
        rule: how the measured intervals decide, fixed before they are known.
        verdict: held, held partly, or did not hold here.
        because: the measured numbers that decide, in one or two sentences.
        measured: the same numbers by name.
    """

    statement: str
    source: str
    rule: str
    verdict: Verdict
    because: str
    measured: dict[str, Interval]


@dataclass(frozen=True)
class StudyResult:
    """What a study found: its claims, its figures, how it was run."""

    name: str
    question: str
    setting: str
    seeds: int
    seconds: float
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form; numbers that are not finite are written as words."""
        content = _plain(asdict(self))
        return {"format": "steepest-study/1", "study": content.pop("name"), **content}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
