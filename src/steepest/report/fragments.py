"""What a notebook shows for a result: self-contained, on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from steepest.report.charts import brackets_chart, loss_chart
from steepest.report.measured import share_text
from steepest.report.numbers import lower_text, upper_text
from steepest.report.sections import generalisation
from steepest.report.sections.certification import accuracy_chart
from steepest.results.certification import CertifiedInput

_STYLE = (
    ".steepest{font:14px system-ui,sans-serif;max-width:720px}.steepest b{font-size:20px}.steepest svg{width:100%;height:auto}"
    ".steepest text{font:13px system-ui,sans-serif;fill:currentColor}.steepest .grid{stroke:#8884}"
    ".steepest .span{stroke:#c8643c;stroke-width:4}"
    ".steepest .soft.span{stroke:#4a8ec2}.steepest .lower,.steepest .upper{fill:#c8643c}"
    ".steepest .soft.lower,.steepest .soft.upper{fill:#4a8ec2}"
    ".steepest .open{fill:none;stroke:#c8643c;stroke-width:2.5}"
    ".steepest .curve{fill:none;stroke:#c8643c;stroke-width:2.5}"
    ".steepest .curve.estimate{stroke:#4a8ec2}.steepest .curve.global{stroke:#888}"
    ".steepest .band{fill:#c8643c;opacity:.2}.steepest .band.estimate{fill:#4a8ec2}.steepest .broken{fill:#d33;opacity:.2}"
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


def certification_fragment(certification: Mapping[str, Any]) -> str:
    """HTML of certified radii, from their JSON: both accuracies at the radius, and against it."""
    inputs = [CertifiedInput.from_json(one) for one in certification["inputs"]]
    if not inputs:
        return f'<div class="steepest"><style>{_STYLE}</style><b>nothing was certified</b></div>'
    radius = float(certification["radius"])
    shares = f"{share_text(certification['certified_accuracy'])} to {share_text(certification['attacked_accuracy'])}"
    return (
        f'<div class="steepest"><style>{_STYLE}</style><b>{shares}</b> of {len(inputs)} inputs within {radius:g} in '
        f"l{escape(str(certification['norm']))}{accuracy_chart(inputs, radius)}</div>"
    )


def diagnosis_fragment(diagnosis: Mapping[str, Any]) -> str:
    """HTML of one diagnosis, from its JSON: the loss, and each finding with its strongest evidence and what to change."""
    findings = []
    for finding in diagnosis["findings"]:
        evidence = "".join(f"<li>{escape(_evidence(e))}</li>" for e in finding["evidence"][:3])
        findings.append(
            f"<li><strong>{escape(finding['cause'])}</strong> ({escape(finding['severity'])}): {escape(finding['sentence'])}."
            f"<ul>{evidence}</ul><em>{escape(finding['fix'])}</em></li>"
        )
    count = len(findings)
    headline = f"{count} finding{'s' * (count != 1)}" if count else "Nothing found"
    notes = "".join(f"<div>{escape(note)}</div>" for note in diagnosis.get("notes") or [])
    losses = [float(v) for v in diagnosis.get("losses") or []]
    chart = loss_chart(losses, "The loss at each backward pass", diagnosis.get("loss_optimizers") or ())
    return f'<div class="steepest"><style>{_STYLE}</style><b>{headline}</b>{chart}<ol>{"".join(findings)}</ol>{notes}</div>'


def generalisation_fragment(found: Mapping[str, Any]) -> str:
    """HTML of norms, margins and bound, from their JSON."""
    shown = generalisation.article(found)
    heads = "".join(f"<th>{escape(h)}</th>" for h in generalisation.COLUMNS)
    return (
        f'<div class="steepest"><style>{_STYLE}</style><b>error &le; {escape(shown["bound"])}</b> {escape(shown["meaning"])}'
        f"<table>{_rows(shown['facts'])}</table><table><tr>{heads}</tr>{_rows(shown['layers'])}</table></div>"
    )


def _rows(rows: Sequence[tuple[str, ...]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)


def _evidence(evidence: Mapping[str, Any]) -> str:
    where = f" at {evidence['where']}" if evidence["where"] else ""
    limit = "" if evidence["threshold"] is None else f" (threshold {_short(evidence['threshold'])})"
    return f"{evidence['quantity']}{where}: {_short(evidence['value'])}{limit}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _number(value: Any) -> float:
    return math.inf if value == "inf" else float(value)
