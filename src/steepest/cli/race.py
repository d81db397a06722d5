"""``steepest race``: a fair comparison of descent methods."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from steepest import api
from steepest.cli import options
from steepest.cli.files import write_text
from steepest.cli.interrupt import interruptible
from steepest.cli.screen import console, print_json, progress_bar
from steepest.errors import UsageError
from steepest.optim.catalogue import catalogue
from steepest.race import TASKS
from steepest.race.race import OPTIMIZERS
from steepest.race.schedule import SCHEDULES
from steepest.report.measured import interval_text, seconds_text, steps_text
from steepest.report.page import render
from steepest.results.race import Contest, RaceResult

_WIDTH = 160


def race(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK | MODULE:FUNCTION ...]", help="what to race on; --list shows the tasks that come along [digits_mlp]"),
    ] = None,
    optimizers: Annotated[str, typer.Option("--optimizers", metavar="A,B,C", help="names of methods; --list shows them")] = ",".join(
        OPTIMIZERS
    ),
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="options tried per method")] = 24,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="fresh seeds per method")] = 10,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="gradients per trial; by default the task's own number")] = None,
    rates: Annotated[
        tuple[float, float] | None,
        typer.Option("--rates", metavar="LOW HIGH", help="range of the (effective) rate for every method; by default each has its own"),
    ] = None,
    schedule: Annotated[
        str, typer.Option("--schedule", metavar="NAME", help=f"of the rate, for every method: {', '.join(SCHEDULES)}")
    ] = "constant",
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="N", help="processes of one thread each; by default one per processor")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="ADDRESS", help="of a Dask scheduler, instead of local processes")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="folder of Fashion-MNIST, for fashion_cnn")] = None,
    folder: Annotated[Path, typer.Option("-o", "--folder", metavar="DIR", help="where race.json, race.html and the trials go")] = Path(
        "race"
    ),
    page: Annotated[Path | None, typer.Option("--page", metavar="PAGE.html", help="the page; by default race.html in the folder")] = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="take up finished trials in the folder, or forget them")] = True,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    show: Annotated[bool, typer.Option("--list", help="list tasks and methods, and end")] = False,
) -> None:
    """Race descent methods: equal tuning budgets, a target from tuned baselines, fresh paired seeds."""
    if show:
        _list()
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    with progress_bar() as tell, interruptible() as stop:
        result = api.race(
            [name for given in tasks or ["digits_mlp"] for name in given.split(",") if name],
            optimizers=[name for name in optimizers.split(",") if name],
            trials=trials,
            seeds=seeds,
            steps=steps,
            rates=rates,
            schedule=schedule,
            seed=seed,
            jobs=jobs if jobs is not None else os.cpu_count() or 1,
            cluster_address=cluster,
            folder=folder / "trials",
            fresh=not resume,
            data=data,
            progress=tell,
            stop=stop,
        )
    content = result.to_json()
    write_text(folder / "race.json", json.dumps(content, allow_nan=False))
    page = page or folder / "race.html"
    write_text(page, render([content]))
    if as_json:
        print_json(content)
    else:
        _show(result)
        console().print(f"wrote {folder / 'race.json'} and {page} in {result.seconds:.0f} s", markup=False)


def _list() -> None:
    out = console()
    out.print("tasks: " + ", ".join(TASKS))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("method", "name in the literature", "source"):
        table.add_column(heading)
    for method in catalogue().values():
        table.add_row(method.name, method.title + ("" if method.available else " (not installed)"), method.source)
    out.print(table)


def _show(result: RaceResult) -> None:
    out = console()
    for contest in result.contests:
        if contest.ranked:
            _show_contest(contest, result)
        else:
            out.print(f"[bold]{contest.name}[/bold]: drawn, not ranked; see the page")
    for note in result.notes:
        out.print(f"note: {note}", markup=False)


def _show_contest(contest: Contest, result: RaceResult) -> None:
    out = console()
    if not out.is_terminal:
        out.width = _WIDTH
    out.print(
        f"[bold]{contest.name}[/bold]   {contest.measure}; {result.trials} trials of {contest.steps} steps per method, "
        f"{result.schedule} rates, medians over {result.seeds} seeds [95 %]"
    )
    out.print(f"target {contest.target:.4g}: {contest.target_from}", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    headings = [
        "method",
        "steps to target",
        "seconds",
        "misses",
        "best value",
        *([contest.score_name] if contest.score_name else []),
        "against momentum",
    ]
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("method", "against momentum") else "right")
    for e in contest.entries:
        assert e.steps and e.seconds and e.best and e.against
        row = [
            e.method if e.asked else f"{e.method} (baseline)",
            interval_text(e.steps, steps_text),
            interval_text(e.seconds, seconds_text),
            f"{e.misses} of {len(e.runs)}",
            interval_text(e.best),
        ]
        if contest.score_name:
            row.append(interval_text(e.score) if e.score else "")
        table.add_row(*row, str(e.against.standing.value))
    out.print(table)
