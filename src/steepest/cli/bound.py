"""``steepest bound``: bracket one constant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from steepest import api
from steepest.capture.data import load_array, load_data
from steepest.cli import options
from steepest.cli.files import write_text
from steepest.cli.interrupt import interruptible
from steepest.cli.screen import console, print_json, progress_bar
from steepest.errors import LimitError, ThresholdError, UsageError
from steepest.report.numbers import estimate_text, lower_text, upper_text
from steepest.results import Bracket
from steepest.results.domain import NORM_NAMES


def bound(
    model: options.Model,
    factory: options.Factory = None,
    input_shape: options.InputShape = None,
    norm: options.Norm = "2",
    at: Annotated[Path | None, typer.Option("--at", metavar="X.npy", help="centre of a ball: one input without its batch axis")] = None,
    radius: Annotated[float | None, typer.Option("--radius", metavar="R", help="of the ball, in the same norm")] = None,
    box: Annotated[tuple[str, str] | None, typer.Option("--box", metavar="LO HI", help="a box: two numbers or two .npy files")] = None,
    output: Annotated[str | None, typer.Option("--output", metavar="I[,J]", help="one output, or the difference of two")] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="D", help=".npz, .npy or module:function: inputs to search from")] = None,
    effort: options.Effort = "normal",
    time_limit: Annotated[float | None, typer.Option("--time-limit", metavar="S", help="seconds for the whole")] = None,
    fail_above: Annotated[float | None, typer.Option("--fail-above", metavar="L", help="exit 1 where the upper bound exceeds L")] = None,
    certificate: Annotated[Path | None, typer.Option("-o", "--certificate", metavar="CERT.json", help="write the certificate")] = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Bracket the Lipschitz constant of MODEL over all inputs, a ball (--at, --radius) or a box (--box)."""
    options.use_threads(threads)
    if certificate is not None and not certificate.resolve().parent.is_dir():
        raise UsageError(f"there is no folder {certificate.resolve().parent} to write the certificate into")
    with progress_bar() as tell, interruptible() as stop:
        tell("reading the model", None)
        bracket = api.bound(
            model,
            factory=factory,
            input_shape=options.read_shape(input_shape),
            norm=norm,
            at=None if at is None else load_array(at),
            radius=radius,
            box=None if box is None else (_end(box[0]), _end(box[1])),
            output=options.read_output(output),
            effort=effort,
            time_limit=time_limit,
            data=None if data is None else load_data(data).x,
            seed=seed,
            progress=lambda stage: tell(stage, None),
            stop=stop,
            device=device,
        )
    if certificate is not None:
        write_text(certificate, json.dumps(bracket.certificate, allow_nan=False))
    if as_json:
        print_json(bracket.to_json())
    else:
        _show(bracket)
    if fail_above is not None and not bracket.upper <= fail_above:
        raise ThresholdError(f"the upper bound {upper_text(bracket.upper)} is above {fail_above:g}")
    if stop.asked:
        raise LimitError("interrupted; the bracket above is valid, and more time may narrow it")
    if bracket.limited:
        raise LimitError(f"the time limit of {time_limit:g} s was reached; the bracket above is valid, and more time may narrow it")


def _end(text: str) -> float | np.ndarray:
    """A number, or an array from a .npy file."""
    try:
        return float(text)
    except ValueError:
        return load_array(Path(text))


def _show(bracket: Bracket) -> None:
    out = console()
    norm = NORM_NAMES[bracket.norm]
    what = "" if bracket.output is None else ", output " + " - ".join(map(str, bracket.output))
    out.print(f"[bold]{lower_text(bracket.lower)} <= L <= {upper_text(bracket.upper)}[/bold]   l{norm}, {bracket.domain.describe()}{what}")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("method", "bound", "seconds"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for upper in bracket.uppers:
        table.add_row(f"upper, {upper.method}", upper_text(upper.value), f"{upper.seconds:.2f}")
    for estimate in bracket.estimates:
        table.add_row(f"estimate, no bound: {estimate.method}", estimate_text(estimate.value), f"{estimate.seconds:.2f}")
    if bracket.witness is not None:
        table.add_row(f"lower, {bracket.witness.method}", lower_text(bracket.lower), f"{bracket.witness.seconds:.2f}")
    out.print(table)
    out.print(f"network {bracket.name}, digest {bracket.digest[:16]}; both ends proven, and checked independently; {bracket.seconds:.1f} s")
    for note in bracket.notes:
        out.print(f"note: {note}", markup=False)
