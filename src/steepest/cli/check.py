"""``steepest check``: verify a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steepest import api
from steepest.cli import options
from steepest.cli.screen import console, print_json, progress_bar
from steepest.errors import ThresholdError
from steepest.proofs.certificate import load_certificate
from steepest.proofs.checker.statement import RADII_FORMAT
from steepest.report.numbers import lower_text, upper_text
from steepest.results.domain import number_to_json


def check(
    certificate: Annotated[Path, typer.Argument(metavar="CERT.json", help="a certificate from steepest bound, audit or certify")],
    model: options.Model,
    factory: options.Factory = None,
    input_shape: options.InputShape = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Verify CERT.json against MODEL, captured afresh: own code, numpy alone, rounding accounted for."""
    options.use_threads(threads)
    content = load_certificate(certificate)
    with progress_bar() as tell:
        tell("checking", None)
        verdict = api.check(content, model, factory=factory, input_shape=options.read_shape(input_shape))
    if as_json:
        print_json(
            {
                "holds": verdict.holds,
                "reasons": list(verdict.reasons),
                "proven_upper": number_to_json(verdict.upper),
                "proven_lower": verdict.lower,
                "proven_radii": verdict.radii,
                "seconds": verdict.seconds,
            }
        )
    elif verdict.holds and content.get("format") == RADII_FORMAT:
        console().print(f"The certificate holds: {verdict.radii} radii within which no answer changes; proven in {verdict.seconds:.1f} s.")
    elif verdict.holds:
        console().print(
            f"The certificate holds: {lower_text(verdict.lower)} <= L <= {upper_text(verdict.upper)}; proven in {verdict.seconds:.1f} s."
        )
    if not verdict.holds:
        raise ThresholdError("the certificate does not hold: " + " ".join(verdict.reasons))
