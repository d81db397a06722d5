"""``steepest diagnose``: run a training script under observation and say what is wrong with it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console

from steepest import api
from steepest.cli.files import write_text
from steepest.errors import UsageError
from steepest.report.convergence import statements as convergence_statements
from steepest.report.page import render
from steepest.results.diagnosis import Diagnosis


def diagnose(
    script: Annotated[str, typer.Argument(metavar="SCRIPT.py", help="the training script, unchanged")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS]", help="what the script gets as its command line")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print JSON, and nothing else, on stdout; the script's own stdout goes to stderr")
    ] = False,
    page: Annotated[Path | None, typer.Option("--page", metavar="PAGE.html", help="write the diagnosis as one HTML page, too")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 where a finding is an error and the script itself succeeded")] = False,
    curvature: Annotated[
        bool, typer.Option("--curvature", help="measure the Hessian's largest eigenvalue and the gradient noise scale as well")
    ] = False,
    convergence: Annotated[
        bool,
        typer.Option("--convergence", help="ask the dear convergence theories as well: descent lemma, edge of stability, noise scale"),
    ] = False,
    try_fixes: Annotated[
        bool,
        typer.Option("--try-fixes", help="run SCRIPT.py again, with its side effects, under a change for each finding: did it help?"),
    ] = False,
    fix_limit: Annotated[
        float | None,
        typer.Option("--fix-limit", metavar="S", min=1.0, help="seconds for one such run  [default: 30 and five times the first run]"),
    ] = None,
) -> None:
    """Run SCRIPT.py under observation: what is wrong with its training, with evidence and what to change.

    The script runs as under python: its output and its exit code are its own. The findings are printed to stderr when it has ended.
    With --try-fixes it is run up to six times more, each time in a process of its own whose output is not shown.
    """
    if page is not None:
        # The script may go to another folder, and what cannot be written had better be known before hours of training.
        page = page.resolve()
        if not page.parent.is_dir():
            raise UsageError(f"there is no folder {page.parent} for the page")
    out = _take_stdout() if as_json else None
    found = api.diagnose(
        script, arguments or (), curvature=curvature, convergence=convergence, try_fixes=try_fixes, fix_limit=fix_limit, progress=_tell
    )
    if page is not None:
        write_text(page, render([found.to_json()]))
    if out is None:
        sys.stdout.flush()
        show(found)
    else:
        out.write(json.dumps(found.to_json(), allow_nan=False) + "\n")
        out.close()
    sys.exit(found.exit_code or int(strict and found.failed))


def show(found: Diagnosis) -> None:
    """The findings as text on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
    console.print(f"steepest: {found.ending.value}", markup=False)
    if found.ending.trained:
        kinds = f"{len(found.findings)} finding{'s' * (len(found.findings) != 1)}" if found.findings else "no findings"
        console.print(f"steepest: {kinds} in {found.steps} steps", markup=False)
    for number, finding in enumerate(found.findings, 1):
        console.print(f"\n{number}. {finding.cause.value} ({finding.severity.value}): {finding.cause.sentence}", markup=False)
        for evidence in finding.evidence:
            value = f"{evidence.value:.4g}" if isinstance(evidence.value, float) else str(evidence.value)
            limit = "" if evidence.threshold is None else f" (threshold {evidence.threshold:.4g})"
            where = f" at {evidence.where}" if evidence.where else ""
            source = f" [{evidence.source}]" if evidence.source else ""
            console.print(f"   - {evidence.quantity}{where}: {value}{limit}{source}", markup=False)
        console.print(f"   fix: {finding.fix}", markup=False)
        if finding.trial is not None:
            trial = finding.trial
            said = trial.remark
            if trial.before is not None and trial.after is not None:
                aside = f" ({trial.remark})" if trial.remark else ""
                verdict = "it helped: recommended" if trial.helped else "it did not help"
                said = f"{trial.metric} {trial.before:.4g} -> {trial.after:.4g}{aside}; {verdict}"
            console.print(f"   tried: {trial.intervention}: {said}" if trial.intervention else f"   not tried: {said}", markup=False)
    show_convergence(console, found)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)


def show_convergence(console: Console, found: Diagnosis) -> None:
    """What the convergence theories say."""
    statements = convergence_statements(found.measurements)
    if statements:
        console.print("\nConvergence", markup=False)
    for s in statements:
        console.print(f"   {s.title}: {s.verdict}", markup=False)
        for row in s.rows:
            aside = f" {row.interval}" if row.interval else ""
            console.print(f"   - {row.name}: {row.value}{aside}", markup=False)
        for text in s.evidence:
            console.print(f"   - {text}", markup=False)
        if s.assumptions:
            console.print(f"   not kept: {'; '.join(s.assumptions)}", markup=False)


def _tell(text: str) -> None:
    """Progress on stderr."""
    print(f"steepest: {text}", file=sys.stderr, flush=True)


def _take_stdout() -> TextIO:
    """Our own way to stdout; from now on whatever the script writes there, at any level, goes to stderr."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(ours, "w", encoding="utf-8")
