"""What goes to the terminal: results on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


def console() -> Console:
    """For results."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON document on stdout; never NaN."""
    sys.stdout.write(json.dumps(content, allow_nan=False, indent=None) + "\n")


@contextmanager
def progress_bar() -> Generator[Callable[[str, float | None], None]]:
    """A bar on stderr, silent where that is not a terminal; call it with a phrase and the fraction done (None: unknown)."""
    err = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def tell(stage: str, fraction: float | None) -> None:
            bar.update(task, description=stage, total=None if fraction is None else 1.0, completed=fraction or 0.0)

        yield tell
