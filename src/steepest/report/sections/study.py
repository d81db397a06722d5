"""The article of a study, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from steepest.report.figures import COLOURS, figure_chart
from steepest.results.study import shown

_KINDS = {"held": "held", "held partly": "partly", "did not hold here": "not"}


def article(study: Mapping[str, Any]) -> dict[str, Any]:
    """What ``study.html`` shows."""
    return {
        "name": str(study["study"]),
        "question": study["question"],
        "setting": study["setting"],
        "seeds": study["seeds"],
        "seconds": f"{study['seconds']:.0f}",
        "claims": [
            {
                **claim,
                "kind": _KINDS[claim["verdict"]],
                "rows": [
                    dict(zip(("value", "low", "high"), shown(*(float(i[k]) for k in ("value", "low", "high"))), strict=True), name=name)
                    for name, i in claim["measured"].items()
                ],
            }
            for claim in study["claims"]
        ],
        "figures": [
            {
                "title": figure["title"],
                "y_label": figure["y_label"],
                "caption": figure["caption"],
                "chart": Markup(figure_chart(figure)),
                "legend": [{"name": s["name"], "kind": f"s{k % COLOURS}"} for k, s in enumerate(figure["series"])],
            }
            for figure in study["figures"]
        ],
    }
