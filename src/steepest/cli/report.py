"""``steepest report``: one page from results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steepest.cli.files import write_text
from steepest.report.load import load_result
from steepest.report.page import render


def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT.json ...", help="from steepest audit or steepest bound --json")],
    page: Annotated[Path, typer.Option("-o", "--page", metavar="PAGE.html", help="the page to write")],
) -> None:
    """Write one self-contained HTML page from one or more results."""
    write_text(page, render([load_result(path) for path in results]))
