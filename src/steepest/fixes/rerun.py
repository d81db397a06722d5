"""One run of a script under an intervention, in a process of its own: ``python -m steepest.fixes.rerun``.

The task comes as JSON on the command line: ``script``, ``arguments``, ``intervention`` (null for none) and ``result``, the file that
gets the outcome. What the script prints is left on stdout and stderr.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from steepest.fixes import plan  # noqa: F401  (fills the table of interventions)
from steepest.fixes.intervention import Intervention
from steepest.fixes.outcome import Outcome
from steepest.fixes.seams import Seams
from steepest.probes.fit import FitProbe
from steepest.probes.losses import LossProbe
from steepest.probes.task import TaskProbe
from steepest.watch.script import run_script


def main() -> None:
    """Run, and write what was reached."""
    task = json.loads(sys.argv[1])
    seams = Seams()
    if task["intervention"] is not None:
        Intervention.from_json(task["intervention"]).attach(seams)
    with seams:
        ran = run_script(task["script"], task["arguments"], probes=(LossProbe(), TaskProbe(), FitProbe()))
    outcome = Outcome.of(ran.run.measurements())
    report = {
        "outcome": outcome.to_json(), "ending": ran.ending.value, "exit_code": ran.exit_code, "steps": ran.run.steps,
        "touched": seams.touched, "losses": [repr(p.value) for p in ran.run.losses], "notes": list(ran.run.notes),
    }  # fmt: skip
    Path(task["result"]).write_text(json.dumps(report), encoding="utf-8")
    sys.exit(ran.exit_code)


if __name__ == "__main__":
    main()
