"""Tries the fixes of findings: runs the script again under interventions, compares, and says which helped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steepest.fixes.intervention import Intervention, Several
from steepest.fixes.outcome import Outcome, Verdict, compare
from steepest.fixes.plan import NOTHING, candidates
from steepest.results.cause import Cause
from steepest.results.finding import Finding, Trial


@dataclass(frozen=True)
class Limits:
    """How much may be spent.

    Args:
        runs: how often the script is run again at most.
        seconds: the longest that one such run may take.
    """

    runs: int = 6
    seconds: float = 60.0


@dataclass(frozen=True)
class Surroundings:
    """Where a script runs: its path, its command line, the folder and the environment it was started in."""

    script: str
    arguments: tuple[str, ...]
    folder: str = field(default_factory=os.getcwd)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class Attempt:
    """One run of the script under an intervention.

    Args:
        intervention: what was changed.
        outcome: what the run reached; None where it did not end, or changed nothing.
        verdict: the comparison with the run as it is; None where there is none.
        trouble: why there is no outcome.
        output: what the script printed to stdout.
        losses: the loss at every backward pass.
        seconds: how long it took.
    """

    intervention: Intervention | None
    outcome: Outcome | None
    verdict: Verdict | None
    trouble: str = ""
    output: str = ""
    losses: tuple[float, ...] = ()
    seconds: float = 0.0

    @property
    def helped(self) -> bool:
        """Whether it was better beyond noise."""
        return self.verdict is not None and self.verdict.helped

    def trial(self) -> Trial:
        """The record for people."""
        words = "" if self.intervention is None else self.intervention.words
        if self.verdict is None:
            return Trial(words, None, None, "", False, self.trouble)
        return Trial(words, self.verdict.before, self.verdict.after, self.verdict.metric, self.helped, self.verdict.aside)


def rerun(where: Surroundings, intervention: Intervention | None, before: Outcome | None, seconds: float) -> Attempt:
    """Run a script again in a process of its own.

    Args:
        where: script, arguments, folder and environment.
        intervention: what is changed; None for nothing.
        before: what the run as it is reached.
        seconds: after how long the process is ended.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="steepest-") as folder:
        result = Path(folder) / "outcome.json"
        task = {
            "script": where.script, "arguments": list(where.arguments), "result": str(result),
            "intervention": None if intervention is None else intervention.to_json(),
        }  # fmt: skip
        command = [sys.executable, "-m", "steepest.fixes.rerun", json.dumps(task)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            cwd=where.folder, env=where.environment, start_new_session=True,
        )  # fmt: skip
        with process:
            try:
                output, complaints = process.communicate(timeout=seconds)
            except BaseException as error:
                _end(process)
                output, complaints = process.communicate()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                said = f"the run took longer than {seconds:.0f} s and was ended"
                return Attempt(intervention, None, None, said, output, (), time.monotonic() - began)
        spent = time.monotonic() - began
        if not result.exists():
            return Attempt(intervention, None, None, f"the run failed: {_last(complaints)}", output, (), spent)
        report = json.loads(result.read_text(encoding="utf-8"))
    losses = tuple(float(v) for v in report["losses"])
    if report["exit_code"] and not (before is not None and not before.finite):
        return Attempt(intervention, None, None, f"the run failed: {_last(complaints)}", output, losses, spent)
    if intervention is not None and not report["touched"]:
        return Attempt(intervention, None, None, "this could not be done from outside in this script", output, losses, spent)
    outcome = Outcome.from_json(report["outcome"])
    verdict = None if before is None or intervention is None else compare(before, outcome, intervention.other_loss)
    trouble = "" if verdict is not None else "the two runs have no metric in common"
    return Attempt(intervention, outcome, verdict, trouble, output, losses, spent)


def try_fixes(
    where: Surroundings,
    findings: Sequence[Finding],
    records: Sequence[Any],
    limits: Limits | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[tuple[Finding, ...], tuple[Attempt, ...]]:
    """Try the fixes of all findings, the most direct of each first, and at last the best of the first two together.

    The script is run again each time, with everything it does to files. A finding gets the trial that reached most. Within a severity,
    findings whose fix was tried and did not help are listed after the others: an intervention is stronger evidence of a cause than what was
    observed. Where no fix can be tried from outside, a finding keeps its place.

    Args:
        where: how the script is run.
        findings: ranked.
        records: what the probes measured in the run as it is.
        limits: how much may be spent.
        progress: told in a line what is tried.

    Returns:
        The findings with their trials, and all attempts in order.
    """
    limits = limits or Limits()
    before = Outcome.of(records)
    plans = [list(candidates(f.cause, records)) for f in findings]
    tried: dict[Intervention, Attempt] = {}
    mine: list[list[Attempt]] = [[] for _ in findings]

    def run(intervention: Intervention) -> Attempt:
        if intervention not in tried:
            progress(f"trying {len(tried) + 1} of at most {limits.runs}: {intervention.words}")
            tried[intervention] = rerun(where, intervention, before, limits.seconds)
            progress(_said(tried[intervention]))
        return tried[intervention]

    try:
        _try_in_turn(plans, mine, run, tried, limits.runs)
    except KeyboardInterrupt:
        progress("interrupted: no more fixes are tried")
    judged = tuple(replace(f, trial=_trial(f.cause, attempts)) for f, attempts in zip(findings, mine, strict=True))
    severities = list(dict.fromkeys(f.severity for f in judged))
    ranked = sorted(
        judged, key=lambda f: (severities.index(f.severity), f.trial is not None and f.trial.after is not None and not f.trial.helped)
    )
    return tuple(ranked), tuple(tried.values())


def _try_in_turn(
    plans: Sequence[Sequence[Intervention]],
    mine: list[list[Attempt]],
    run: Callable[[Intervention], Attempt],
    tried: dict[Intervention, Attempt],
    runs: int,
) -> None:
    """The first fix of each finding; where none of these cured the run, the second ones, and so on; at last the best of two together."""
    # One run is kept for the best of two together, where each finding has had its turn before.
    together = int(1 < sum(map(bool, plans)) < runs)
    for turn in range(max((len(p) for p in plans), default=0)):
        for number, plan in enumerate(plans):
            if turn and any(_cured(attempts) for attempts in mine):
                break
            if turn < len(plan) and (plan[turn] in tried or len(tried) < runs - together):
                mine[number].append(run(plan[turn]))
    best = [max((a for a in attempts if a.outcome is not None), key=_worth, default=None) for attempts in mine]
    pair = [(n, a.intervention) for n, a in enumerate(best) if a is not None and a.intervention is not None][:2]
    if len(pair) == 2 and pair[0][1] != pair[1][1] and len(tried) < runs and not any(_cured(m) for m in mine):
        both = run(Several((pair[0][1], pair[1][1])))
        mine[pair[0][0]].append(both)


def _trial(cause: Cause, attempts: Sequence[Attempt]) -> Trial:
    if not attempts:
        return Trial("", None, None, "", False, NOTHING.get(cause, "nothing that could be done from outside was left to try"))
    return max(attempts, key=_worth).trial()


def _worth(attempt: Attempt) -> tuple[bool, bool, tuple[float, float]]:
    merit = (float("-inf"), float("-inf")) if attempt.outcome is None else attempt.outcome.merit
    return attempt.helped, attempt.outcome is not None, merit


def _cured(attempts: Sequence[Attempt]) -> bool:
    """Whether an attempt took away most of what there was: 70 % of the loss or error, or of the wrong answers."""
    for attempt in attempts:
        v = attempt.verdict
        if v is not None and v.helped:
            before, after = (1 - v.before, 1 - v.after) if "accuracy" in v.metric else (v.before, v.after)
            if after <= 0.3 * before or not before == before:
                return True
    return False


def _said(attempt: Attempt) -> str:
    v = attempt.verdict
    if v is None:
        return f"   {attempt.trouble} ({attempt.seconds:.0f} s)"
    return f"   {v.metric} {v.before:.4g} -> {v.after:.4g}{': it helps' if v.helped else ''} ({attempt.seconds:.0f} s)"


def _last(complaints: str) -> str:
    lines = [line for line in complaints.splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it said nothing"


def _end(process: subprocess.Popen[str]) -> None:
    """End a process with the workers it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
