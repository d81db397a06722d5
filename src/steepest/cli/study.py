"""``steepest study``: claims of the literature, tried here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from steepest import api
from steepest.cli import options
from steepest.cli.files import write_text
from steepest.cli.screen import console, print_json, progress_bar
from steepest.errors import UsageError
from steepest.report.page import render
from steepest.results import StudyResult, Verdict
from steepest.studies.table import STUDIES

_COLOURS = {Verdict.HELD: "green", Verdict.PARTLY: "yellow", Verdict.DID_NOT_HOLD: "red"}


def study(
    name: Annotated[str, typer.Argument(metavar="[NAME|list]", help="of the study; list shows all of them")] = "list",
    seeds: Annotated[int | None, typer.Option("--seeds", metavar="N", min=2, help="repetitions, over which the intervals are")] = None,
    page: Annotated[Path | None, typer.Option("-o", "--page", metavar="FILE.html", help="write a page with the figures")] = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Try claims of the literature on scikit-learn's digits: a verdict per claim, its numbers, figures."""
    options.use_threads(threads)
    if name == "list":
        if page is not None or seeds is not None:
            raise UsageError("list runs nothing: --page and --seeds need the NAME of a study")
        _show_all(as_json)
        return
    with progress_bar() as tell:
        result = api.study(name, seeds=seeds, progress=tell)
    content = result.to_json()
    if page is not None:
        write_text(page, render([content]))
    if as_json:
        print_json(content)
    else:
        _show(result, page)


def _show_all(as_json: bool) -> None:
    if as_json:
        print_json({"studies": [{"name": s.name, "question": s.question} for s in STUDIES]})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    for s in STUDIES:
        table.add_row(s.name, s.question)
    console().print(table)


def _show(result: StudyResult, page: Path | None) -> None:
    out = console()
    out.print(Text(result.question, style="bold"))
    out.print(Text(f"{result.setting}; {result.seeds} seeds"), soft_wrap=True)
    for claim in result.claims:
        out.print()
        out.print(Text(claim.verdict.value, style=f"bold {_COLOURS[claim.verdict]}"), Text(claim.statement), soft_wrap=True)
        out.print(Text(f"  {claim.because}"), soft_wrap=True)
        out.print(Text(f"  {claim.source}", style="dim"), soft_wrap=True)
    out.print()
    out.print(f"{result.seconds:.0f} s" + ("" if page is None else f", wrote {page}"), markup=False)
