"""What a notebook shows for a bracket: self-contained, on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from steepest.report.charts import brackets_chart
from steepest.report.numbers import lower_text, upper_text

_STYLE = (
    ".steepest{font:14px system-ui,sans-serif;max-width:720px}.steepest b{font-size:20px}.steepest svg{width:100%;height:auto}"
    ".steepest text{font:13px system-ui,sans-serif;fill:currentColor}.steepest .grid{stroke:#8884}"
    ".steepest .span{stroke:#c8643c;stroke-width:4}"
    ".steepest .soft.span{stroke:#4a8ec2}.steepest .lower,.steepest .upper{fill:#c8643c}"
    ".steepest .soft.lower,.steepest .soft.upper{fill:#4a8ec2}"
    ".steepest .open{fill:none;stroke:#c8643c;stroke-width:2.5}"
)


def bracket_fragment(bracket: Mapping[str, Any]) -> str:
    """HTML of one bracket, from its JSON."""
    lower, upper = float(bracket["lower"]), _number(bracket["upper"])
    rows = [(m["method"], lower, _number(m["upper"]), k == 0) for k, m in enumerate(bracket["methods"])]
    notes = "".join(f"<div>{escape(note)}</div>" for note in bracket["notes"])
    return (
        f'<div class="steepest"><style>{_STYLE}</style><b>{lower_text(lower)} &le; L &le; {upper_text(upper)}</b> '
        f"in l{escape(str(bracket['norm']))}{brackets_chart(rows, 'Lower and upper bounds')}{notes}</div>"
    )


def _number(value: Any) -> float:
    return math.inf if value == "inf" else float(value)
