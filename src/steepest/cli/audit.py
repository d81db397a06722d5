"""``steepest audit``: the main job."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from steepest import api
from steepest.capture.data import load_data
from steepest.cli import options
from steepest.cli.files import make_folder, write_text
from steepest.cli.screen import console, print_json, progress_bar
from steepest.errors import ThresholdError, UsageError
from steepest.report.numbers import lower_text, upper_text
from steepest.report.page import render
from steepest.results.domain import number_from_json


def audit(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="model.onnx, weights.safetensors or module:factory; none: the embedded example"),
    ] = None,
    factory: options.Factory = None,
    input_shape: options.InputShape = None,
    data: Annotated[str | None, typer.Option("--data", metavar="D", help=".npz with x and y, .npy, or module:function")] = None,
    folder: Annotated[
        Path, typer.Option("-o", "--folder", metavar="DIR", help="where report.html, audit.json, certificate.json go")
    ] = Path("audit"),
    norm: options.Norm = "2",
    radius: Annotated[
        float | None, typer.Option("--radius", metavar="R", help="of local brackets; by default the median certified radius")
    ] = None,
    inputs: Annotated[int, typer.Option("--inputs", min=1, help="how many inputs are certified")] = 100,
    effort: options.Effort = "normal",
    fail_above: Annotated[
        float | None, typer.Option("--fail-above", metavar="L", help="exit 1 where the global upper bound exceeds L")
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Bracket MODEL globally and around its data, certify radii, and write one page with the certificate."""
    options.use_threads(threads)
    if model is None and (data or factory or input_shape):
        raise UsageError("the embedded example takes no --data, --model or --input-shape: give a MODEL with them")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    with progress_bar() as tell:
        tell("reading the model", 0.0)
        batch = None if data is None else load_data(data)
        result = api.audit(
            model,
            x=None if batch is None else batch.x,
            y=None if batch is None else batch.y,
            factory=factory,
            input_shape=options.read_shape(input_shape),
            data_name=data or "data",
            norm=norm,
            radius=radius,
            inputs=inputs,
            effort=effort,
            seed=seed,
            progress=tell,
        )
    page = render([result.json])
    make_folder(folder)
    write_text(folder / "certificate.json", json.dumps(result.certificate, allow_nan=False))
    write_text(folder / "audit.json", json.dumps(result.json, allow_nan=False))
    write_text(folder / "report.html", page)
    if as_json:
        print_json(result.json)
    else:
        _show(result.json, folder)
    upper = number_from_json(result.json["global"]["upper"])
    if fail_above is not None and not upper <= fail_above:
        raise ThresholdError(f"the upper bound {upper_text(upper)} is above {fail_above:g}")


def _show(audit: dict[str, Any], folder: Path) -> None:
    out = console()
    found = audit["global"]
    out.print(
        f"[bold]{lower_text(found['lower'])} <= L <= {upper_text(number_from_json(found['upper']))}[/bold]   l{audit['norm']}, all inputs"
    )
    if audit["local"] and audit["local"]["brackets"]:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for heading in ("around input", "lower", "upper"):
            table.add_column(heading, justify="right")
        for bracket in audit["local"]["brackets"]:
            table.add_row(str(bracket["index"]), lower_text(bracket["lower"]), upper_text(number_from_json(bracket["upper"])))
        out.print(f"within {audit['local']['radius']:g} in l{audit['local']['norm']}:")
        out.print(table)
    if audit["radii"]:
        radii = sorted(row["radius"] for row in audit["radii"]["inputs"])
        attacks = sorted(row["attack"] if row["attack"] is not None else math.inf for row in audit["radii"]["inputs"])
        middle = len(radii) // 2
        out.print(f"certified radius, median of {len(radii)} inputs: {lower_text(radii[middle])}")
        out.print(f"shortest attack found, median: {upper_text(attacks[middle])}")
    for note in audit["notes"]:
        out.print(f"note: {note}", markup=False)
    out.print(f"wrote {folder / 'report.html'}, audit.json, certificate.json in {audit['seconds']:.0f} s")
