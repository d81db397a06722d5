"""The article of a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from steepest.causes import load_page
from steepest.report import charts
from steepest.report.convergence import Statement, statements
from steepest.results.cause import Cause

_SHOWN_ROWS = 60


def article(result: Mapping[str, Any]) -> dict[str, Any]:
    """What its template shows, from the JSON of ``steepest diagnose --json``."""
    losses = [float(v) for v in result.get("losses") or []]
    findings = [_finding(f) for f in result["findings"]]
    script = str(result.get("script") or "the run")
    return {
        "name": PurePath(script).name,
        "script": script,
        "ending": result.get("ending"),
        "steps": result.get("steps"),
        "findings": findings,
        "headline": _headline(findings, bool(losses)),
        "loss_chart": Markup(charts.loss_chart(losses, "The loss at each backward pass", result.get("loss_optimizers") or ())),
        "banded": len(losses) > charts.MOST_POINTS,
        "span": None if not losses else (_number(losses[0]), _number(losses[-1])),
        "notes": list(result.get("notes") or []),
        "convergence": [_convergence(s) for s in statements(result.get("measurements") or {})],
        "measurements": _measurements(result.get("measurements") or {}),
    }


def _headline(findings: Sequence[Mapping[str, Any]], trained: bool) -> str:
    if not findings:
        return "Nothing found" if trained else "No training seen"
    errors = sum(f["severity"] == "error" for f in findings)
    warnings = len(findings) - errors
    parts = [f"{count} {word}{'s' * (count > 1)}" for count, word in ((errors, "error"), (warnings, "warning")) if count]
    return ", ".join(parts)


def _finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    evidence = [
        {
            "quantity": e["quantity"],
            "where": e.get("where") or "",
            "value": _number(e["value"]),
            "threshold": "" if e.get("threshold") is None else _number(e["threshold"]),
            "source": e.get("source") or "",
        }
        for e in finding.get("evidence") or []
    ]
    return {
        "cause": finding["cause"],
        "sentence": finding.get("sentence") or "",
        "severity": finding["severity"],
        "score": None if finding.get("score") is None else f"{100 * float(finding['score']):.0f} %",
        "evidence": evidence,
        "located": any(e["where"] for e in evidence),
        "fix": finding.get("fix") or "",
        "trial": _trial(finding.get("trial")),
        "explanation": _explanation(finding["cause"]),
    }


def _trial(trial: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    before, after = trial.get("before"), trial.get("after")
    chart = ""
    if before is not None and after is not None:
        rows = [(name, _length(value), _number(value)) for name, value in (("as it is", before), ("with the change", after))]
        chart = charts.bars_chart(rows, f"{trial['metric']}, without and with the change")
    return {**trial, "chart": Markup(chart)}


def _convergence(statement: Statement) -> dict[str, Any]:
    verdict, _, more = statement.verdict.partition(": ")
    chart = charts.exponents_chart(statement.exponents, f"{statement.title}: exponents with intervals of 95 %")
    return {**vars(statement), "said": verdict, "more": more, "chart": Markup(chart)}


def _explanation(cause: str) -> Markup:
    """The page of a cause as HTML, without its heading and its first sentence; empty for a cause of a later version."""
    if cause not in {c.value for c in Cause}:
        return Markup("")
    text = load_page(Cause(cause)).text
    below = text[text.index("## ") :].replace("\n## ", "\n#### ").replace("## ", "#### ", 1)
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(below))


def _measurements(records: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each record's numbers, flat; what is long is summarised: the JSON in the page has it all."""
    return [(name, rows[:_SHOWN_ROWS]) for name, record in records.items() if (rows := _flat("", record))]


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in _flat(f"{name}.{key}" if name else str(key), inner)]
    if isinstance(value, list):
        return [(name, _summary(value))] if value else []
    return [] if value is None else [(name, _number(value))]


def _summary(values: list[Any]) -> str:
    if len(values) == 1 and not isinstance(values[0], Mapping | list):
        return _number(values[0])
    if all(isinstance(v, int | float) for v in values):
        return f"{_number(min(values))} to {_number(max(values))} ({len(values)} values)"
    return f"{len(values)} entries"


def _length(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _number(value: Any) -> str:
    """Four significant digits of a number; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
