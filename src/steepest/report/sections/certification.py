"""The article of a certification: accuracy against the radius, what proved it, every input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from steepest.report import charts
from steepest.report.measured import share_text
from steepest.report.numbers import lower_text, upper_text
from steepest.results.certification import CertifiedInput

_ROWS = 500
"""Most inputs in the table; the JSON on the page has all of them."""

_SOURCES = {
    "constant": "a constant over all inputs",
    "intervals": "intervals of the margin's gradient over the ball",
    "linear": "linear bounds of the margins over the ball",
    "slopes": "linear bounds of the margins' gradients over the ball",
    "none": "nothing proven",
}


def article(result: Mapping[str, Any]) -> dict[str, Any]:
    """What ``certification.html`` shows."""
    inputs = [CertifiedInput.from_json(one) for one in result["inputs"]]
    radius, labelled = float(result["radius"]), bool(result["labelled"])
    section: dict[str, Any] = {
        "name": str(result["model"]["name"]),
        "data": str(result["data"]),
        "norm": str(result["norm"]),
        "radius": f"{radius:g}",
        "what": "answered rightly" if labelled else "answered as they are",
        "count": len(inputs),
        "asked": int(result["asked"]),
        "notes": list(result["notes"]),
        "facts": _facts(result),
    }
    if inputs:
        section |= {
            "accuracy": share_text(result["accuracy"]) if labelled else None,
            "proven": share_text(result["certified_accuracy"]),
            "attacked": share_text(result["attacked_accuracy"]),
            "median": lower_text(result["median_radius"]),
            "median_attack": upper_text(float(result["median_attack"])),
            "chart": Markup(accuracy_chart(inputs, radius)),
            "sources": Markup(_sources_chart(result["sources"], len(inputs))),
            "arguments": [(name, _SOURCES.get(name, "")) for name in result["sources"]],
            "rows": [_row(one) for one in inputs[:_ROWS]],
            "left_out": max(0, len(inputs) - _ROWS),
        }
    return section


def accuracy_chart(inputs: Sequence[CertifiedInput], radius: float) -> str:
    """Certified and attacked accuracy against the radius."""
    right = [one for one in inputs if one.right]
    curves = [
        ("attacked: no more than this", [one.attack for one in right], "estimate"),
        ("proven: no less than this", [one.radius for one in right if one.margin > 0], "proven"),
    ]
    return charts.curves_chart(curves, len(inputs), "Share of inputs answered rightly and unchanged up to a radius", radius)


def _sources_chart(sources: Mapping[str, int], count: int) -> str:
    ranked = sorted(sources.items(), key=lambda item: -item[1])
    rows = [(name, number / count, str(number)) for name, number in ranked]
    return charts.bars_chart(rows, "How many radii each argument proved")


def _row(one: CertifiedInput) -> dict[str, Any]:
    return {
        "index": one.index,
        "label": "" if one.label is None else one.label,
        "answer": one.answer,
        "right": one.right,
        "margin": lower_text(one.margin),
        "radius": lower_text(one.radius),
        "attack": upper_text(one.attack) if one.attack < math.inf else "none found",
        "source": "" if one.source == "none" else one.source,
    }


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    constant = result["constant"]
    return [
        ("data", f"{result['data']}: {result['count']} of {result['asked']} inputs"),
        ("norm of perturbations", f"l{result['norm']}"),
        ("effort", str(result["effort"])),
        *([] if constant is None else [("constant before the last affine layers", upper_text(float(constant)))]),
        ("digest", str(result["model"]["digest"])[:16]),
        ("seconds", f"{result['seconds']:.1f}"),
        *((key, value) for key, value in result["versions"].items()),
    ]
