"""``steepest certify``: radii of inputs within which no perturbation changes the answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from steepest import api
from steepest.capture.data import load_data
from steepest.cli import options
from steepest.cli.files import make_folder, write_text
from steepest.cli.interrupt import interruptible
from steepest.cli.screen import console, print_json, progress_bar
from steepest.errors import LimitError, ThresholdError, UsageError
from steepest.report.measured import share_text
from steepest.report.numbers import lower_text, upper_text
from steepest.report.page import render
from steepest.results.certification import Certification

_FEW = 64
"""So many inputs are not worth the start of processes."""


def certify(
    model: options.Model,
    data: Annotated[str, typer.Option("--data", metavar="D", help=".npz with x and y, .npy, or module:function giving batches")],
    factory: options.Factory = None,
    input_shape: options.InputShape = None,
    norm: Annotated[str, typer.Option("--norm", metavar="2|inf|1", help="norm of perturbations")] = "2",
    radius: Annotated[
        float | None, typer.Option("--radius", metavar="R", help="at which accuracies are told; by default near the median certified one")
    ] = None,
    inputs: Annotated[int | None, typer.Option("--inputs", metavar="N", help="how many are done, from the first; by default all")] = None,
    effort: Annotated[
        str, typer.Option("--effort", metavar="fast|normal|high", help="how long to look for each input, from both sides")
    ] = "normal",
    time_limit: Annotated[float | None, typer.Option("--time-limit", metavar="S", help="seconds for the whole")] = None,
    fail_below: Annotated[
        float | None, typer.Option("--fail-below", metavar="ACC", help="exit 1 where the certified accuracy at R is below ACC, in [0, 1]")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("-o", "--folder", metavar="DIR", help="where certify.html, certify.json, certificate.json and finished batches go"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="take up finished batches in the folder, or forget them")] = True,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", help="processes of one thread each; by default one per processor for more than 64 inputs"),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="ADDRESS", help="of a Dask scheduler, instead of local processes")
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Certify the answers of MODEL at inputs: per input a proven radius and an attack, over all the certified accuracy."""
    options.use_threads(threads)
    if fail_below is not None and not 0 <= fail_below <= 1:
        raise UsageError(f"--fail-below takes a share between 0 and 1, not {fail_below:g}")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    given = load_data(data)
    if fail_below is not None and given.y is None:
        raise UsageError(f"--fail-below needs labels, and {data} has none: add an array y")
    with progress_bar() as tell, interruptible() as stop:
        tell("reading the model", None)
        result = api.certify(
            model,
            given.x,
            given.y,
            factory=factory,
            input_shape=options.read_shape(input_shape),
            data_name=data,
            norm=norm,
            radius=radius,
            inputs=inputs,
            effort=effort,
            time_limit=time_limit,
            seed=seed,
            jobs=jobs if jobs is not None else _processes(given.x, inputs, threads),
            cluster_address=cluster,
            folder=None if folder is None else folder / "batches",
            fresh=not resume,
            progress=tell,
            stop=stop,
        )
    if folder is not None:
        make_folder(folder)
        content = result.to_json()
        write_text(folder / "certify.json", json.dumps(content, allow_nan=False))
        write_text(folder / "certify.html", render([content]))
        write_text(folder / "certificate.json", json.dumps(result.certificate, allow_nan=False))
    if as_json:
        print_json(result.to_json())
    elif result.inputs:
        _show(result)
    _finish(result, fail_below, bool(stop.asked), time_limit, folder is not None)


def _processes(x: np.ndarray, inputs: int | None, threads: int | None) -> int:
    """One per processor, or per thread that is granted, where there is enough to do."""
    count = len(x) if x.ndim and inputs is None else inputs or 0
    return (threads or os.cpu_count() or 1) if count > _FEW else 1


def _finish(result: Certification, fail_below: float | None, stopped: bool, time_limit: float | None, kept: bool) -> None:
    """Thresholds and limits as exit codes."""
    done = len(result.inputs)
    if fail_below is not None and done and not result.certified_accuracy(result.radius) >= fail_below:
        accuracy = share_text(result.certified_accuracy(result.radius))
        raise ThresholdError(f"the certified accuracy at {result.radius:g} is {accuracy}, below {share_text(fail_below)}")
    if done < result.asked:
        why = "interrupted" if stopped else f"the time limit of {time_limit:g} s was reached"
        further = "; the same command goes on from there" if kept else ""
        raise LimitError(f"{why}: {done} of {result.asked} inputs were certified, and what is said of them is valid{further}")


def _show(result: Certification) -> None:
    out = console()
    out.print(
        f"[bold]{result.name}[/bold] on {len(result.inputs)} inputs of {result.data}, perturbations in l{result.norm}", soft_wrap=True
    )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("", "proven", "attacked"):
        table.add_column(heading, justify="left" if not heading else "right")
    if result.labelled:
        table.add_row("right answers", share_text(result.accuracy), "")
    what = "right answers" if result.labelled else "same answers"
    table.add_row(
        f"{what} within {result.radius:g}",
        share_text(result.certified_accuracy(result.radius)),
        share_text(result.attacked_accuracy(result.radius)),
    )
    table.add_row("median radius", lower_text(result.median_radius), upper_text(result.median_attack))
    out.print(table)
    shares = ", ".join(f"{name} {count}" for name, count in result.sources().items())
    out.print(f"proven by: {shares}; {result.seconds:.1f} s", markup=False)
    for note in result.notes:
        out.print(f"note: {note}", markup=False)
