"""Numbers for people: four digits, rounded so that a printed bound is still a bound."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal


def upper_text(value: float) -> str:
    """Four significant digits, rounded up."""
    return _text(value, ROUND_CEILING)


def lower_text(value: float) -> str:
    """Four significant digits, rounded down."""
    return _text(value, ROUND_FLOOR)


def estimate_text(value: float) -> str:
    """Four significant digits, the nearest, marked as no bound."""
    return f"~{_text(value, ROUND_HALF_EVEN)}"


def _text(value: float, rounding: str) -> str:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    rounded = Context(prec=4, rounding=rounding).create_decimal(Decimal(value))
    exponent = rounded.adjusted()
    if -4 <= exponent < 6:
        plain = f"{rounded:f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    mantissa = f"{rounded.scaleb(-exponent):f}".rstrip("0").rstrip(".")
    return f"{mantissa}e{exponent:+d}"
