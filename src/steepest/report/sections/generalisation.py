"""The article of norms, margins and the bound that follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from steepest.report.figures import figure_chart
from steepest.report.numbers import upper_text

COLUMNS = ("layer", "operator", "spectral norm", "(2,1) distance", "gain after it")


def article(found: Mapping[str, Any]) -> dict[str, Any]:
    """What ``generalisation.html`` shows, from the JSON."""
    bound = found["bound"]
    sure = f"with probability {1.0 - bound['delta']:g}"
    return {
        "name": str(found["model"]["name"]),
        "bound": _up(bound["value"]),
        "meaning": f"{sure}: vacuous, since no error exceeds 1" if bound["vacuous"] else sure,
        "vacuous": bound["vacuous"],
        "facts": _facts(found),
        "columns": COLUMNS,
        "layers": [(str(k["node"]), str(k["op"]), *(_up(k[n]) for n in ("spectral", "distance", "gain"))) for k in found["layers"]],
        "reference": "the given reference" if found["referenced"] else "zero",
        "biased": found["biased"],
        "margins": Markup(_margins(found["normalised_margins"])),
    }


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    bound = found["bound"]
    facts = [
        ("training error", f"{100 * found['error']:.3g} % of {found['samples']} samples"),
        ("spectral complexity", _up(found["complexity"])),
        ("product of norms", _up(found["product"])),
    ]
    if found["lipschitz"] is not None:
        facts.append(("proven Lipschitz constant", _up(found["lipschitz"])))
        facts.append(("complexity with it, which is no bound", _up(found["lipschitz_complexity"])))
    facts += [
        ("median margin", f"{found['margins']['0.5']:.3g}; normalised {found['normalised_margins']['0.5']:.3g}"),
        ("bound, from margins", f"{bound['share']:.3g}: the share up to {bound['margin']:.3g}"),
        ("bound, from norms", _up(bound["complexity"])),
        ("bound, from confidence", _up(bound["confidence"])),
    ]
    norms = found["path_norms"]
    facts.append(("path norms", found["path_remark"] if norms is None else f"l1 {norms['l1']:.4g}, l2 {norms['l2']:.4g}"))
    return facts


def _margins(quantiles: Mapping[str, float]) -> str:
    levels = [float(k) for k in quantiles]
    return figure_chart(
        {
            "title": "Normalised margins",
            "x_label": "share of the samples below",
            "y_label": "margin n / (R |X|)",
            "log_x": False,
            "log_y": False,
            "series": [{"name": "margins", "x": levels, "y": list(quantiles.values())}],
        }
    )


def _up(value: Any) -> str:
    return upper_text(math.inf if value == "inf" else float(value))
