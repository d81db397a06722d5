"""``steepest explain``: the page of a root cause."""

from __future__ import annotations

import difflib
import sys
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.table import Table

from steepest.causes import load_page
from steepest.cli import options
from steepest.cli.screen import console, print_json
from steepest.errors import UsageError
from steepest.results.cause import Cause


def explain(
    cause: Annotated[str | None, typer.Argument(metavar="[CAUSE]", help="as in a finding of diagnose; without one, all are listed")] = None,
    as_json: options.Json = False,
) -> None:
    """Explain a root cause of training that fails: symptom, evidence, theory, fix, what looks like it."""
    if cause is None:
        _list(as_json)
        return
    page = load_page(_read(cause))
    if as_json:
        print_json(page.to_json())
    elif sys.stdout.isatty():
        console().print(Markdown(page.text))
    else:
        sys.stdout.write(page.text.rstrip() + "\n")


def _list(as_json: bool) -> None:
    if as_json:
        print_json({"causes": [{"cause": c.value, "sentence": c.sentence} for c in Cause]})
        return
    if not sys.stdout.isatty():
        sys.stdout.writelines(f"{c.value}: {c.sentence}\n" for c in Cause)
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for c in Cause:
        table.add_row(c.value, c.sentence)
    console().print(table)


def _read(name: str) -> Cause:
    known = [c.value for c in Cause]
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    if plain in known:
        return Cause(plain)
    near = difflib.get_close_matches(plain, known, n=1)
    hint = f": did you mean {near[0]}?" if near else "."
    raise UsageError(f"no root cause is called {name!r}{hint} Known are {', '.join(known)}")
