"""The page: from the JSON of results to one HTML file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from steepest.report import charts
from steepest.report.sections import bracket, certification, diagnosis, generalisation, race, study

_ARTICLES: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "steepest-audit/1": ("bracket.html", bracket.article),
    "steepest-bracket/1": ("bracket.html", bracket.article),
    "steepest-certification/1": ("certification.html", certification.article),
    "steepest-diagnosis/1": ("diagnosis.html", diagnosis.article),
    "steepest-generalisation/1": ("generalisation.html", generalisation.article),
    "steepest-study/1": ("study.html", study.article),
    "steepest-race/1": ("race.html", race.article),
}


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """One self-contained page: no request leaves it, and it opens from disk.

    Args:
        results: what ``load_result`` reads, at least one.
    """
    environment = Environment(
        loader=PackageLoader("steepest.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sections = []
    for key, result in enumerate(results):
        template, article = _ARTICLES[result["format"]]
        sections.append({**article(result), "template": template, "key": key})
    brackets = [(s["name"][:24], s["lower"], s["upper"], True) for s in sections if s["template"] == "bracket.html"]
    comparison = charts.brackets_chart(brackets, "The brackets of all results, on a logarithmic axis") if len(brackets) > 1 else ""
    # In a script element only the end tag must not appear; < is written as an escape.
    data = json.dumps(list(results), allow_nan=False).replace("<", "\\u003c")
    return environment.get_template("page.html").render(sections=sections, comparison=Markup(comparison), data=Markup(data))
