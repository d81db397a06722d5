"""How much of the gap to the repaired script do the fixes close that ``steepest diagnose --try-fixes`` recommends?

    python benchmarks/fixes.py [FOLDER] [--seed 0] [--jobs 2] [--cache DIR] [--only NAME] [-o results.md]

A folder holds scripts and ``labels.json`` with, for each faulty script, ``effect``: ``metric``, ``faulty_final`` and
``fixed_final``. The metric is read from what the script itself prints: its last line ``final loss=... acc=...``, or ``r2=...``
and ``val mse=...`` before it. Of a script's recommended fixes the one that reached most by what the tool itself saw is taken,
without a look at the labels. Gap closed = (after - as it is) / (repaired - as it is), 0 where nothing is recommended.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diagnosis import SHARED, wilson

CHILD = """
import contextlib, io, json, sys, time
from steepest import fixes
from steepest.diagnose import judge
from steepest.watch.script import run_script
script, seconds = sys.argv[1], float(sys.argv[2])
where = fixes.Surroundings(script, ())
said = io.StringIO()
with contextlib.redirect_stdout(said):
    ran = run_script(script)
findings, attempts = judge(ran.run), ()
if findings:
    tell = lambda text: print(text, file=sys.stderr, flush=True)
    findings, attempts = fixes.try_fixes(where, findings, ran.run.measurements(), fixes.Limits(seconds=seconds), tell)
print(json.dumps({
    "output": said.getvalue(),
    "findings": [f.to_json() for f in findings],
    "attempts": [{**a.trial().to_json(), "merit": [repr(m) for m in a.outcome.merit] if a.outcome else None,
                  "output": a.output, "seconds": a.seconds} for a in attempts],
}))
"""


def tried(script: Path, seed: int, cache: Path, limit: float) -> dict[str, Any]:
    """Findings and attempts of one script, from the cache where they are there."""
    kept = cache / f"seed{seed}" / f"{script.stem}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    data = os.environ.get("STEEPEST_DATA", str(SHARED / "data"))
    environment = {**os.environ, "SEED": str(seed), "OMP_NUM_THREADS": "1", "STEEPEST_DATA": data}
    done = subprocess.run([sys.executable, "-c", CHILD, str(script), str(limit)], capture_output=True, text=True, env=environment)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.with_suffix(".log").write_text(done.stderr, encoding="utf-8")
    if done.returncode:
        print(f"{script.stem}: {done.stderr[-300:]}", file=sys.stderr)
        return {"output": "", "findings": [], "attempts": []}
    kept.write_text(done.stdout, encoding="utf-8")
    return json.loads(done.stdout)


def printed(output: str, metric: str) -> float:
    """The value of a metric in what a script printed; NaN where it is not there."""
    names = {"test accuracy": "acc", "final training loss": "final loss", "R2": "r2", "held-out mse": "held-out (?:mse|error)"}
    found = re.findall(rf"{names.get(metric, re.escape(metric))}\s*=?\s*([-+\d.einfa]+)", output, re.IGNORECASE)
    return float(found[-1]) if found else math.nan


def closed(before: float, after: float, fixed: float, metric: str) -> float:
    """The share of the gap; 0 for a metric that is not finite.

    From one that is not finite every way is infinitely long: there it is 1 for a loss of at most twice, another metric of at least half of
    what the repaired script reaches.
    """
    if not math.isfinite(after):
        return 0.0
    if not math.isfinite(before):
        good = after <= 2 * fixed if "loss" in metric or "mse" in metric else after >= 0.5 * fixed
        return 1.0 if good else 0.0
    return (after - before) / (fixed - before)


def best(run: dict[str, Any]) -> dict[str, Any] | None:
    """The recommended attempt that reached most by the tool's own measure."""
    helped = [a for a in run["attempts"] if a["helped"] and a["merit"]]
    return max(helped, key=lambda a: [float(m) for m in a["merit"]], default=None)


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=SHARED / "faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one re-run")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "steepest-fixes")
    parser.add_argument("--only", default="", help="scripts whose name holds this")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    labels = json.loads((args.folder / "labels.json").read_text(encoding="utf-8"))
    faulty = {n: v for n, v in labels.items() if v["faults"] and args.only in n}
    cache = args.cache / args.folder.resolve().parent.name / args.folder.name
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = dict(zip(faulty, pool.map(lambda n: tried(args.folder / f"{n}.py", args.seed, cache, args.limit), faulty), strict=True))
    half, rows, again = 0, [], 0
    for name, label in faulty.items():
        effect = label["effect"] if args.seed == 0 else {**label["effect"], **(label["effect"].get("seed1") or {})}
        metric, fixed = effect["metric"], float(effect["fixed_final"])
        run = runs[name]
        before, chosen = printed(run["output"], metric), best(run)
        again += len(run["attempts"])
        after = before if chosen is None else printed(chosen["output"], metric)
        share = closed(before, after, fixed, metric) if chosen is not None else 0.0
        half += share >= 0.5
        words = chosen["intervention"] if chosen is not None else "none"
        rows.append(
            f"| {name} | `{label['faults'][0]}` | {metric} | {before:.4g} | {after:.4g} | {fixed:.4g} | {100 * share:.0f} % | {words} |"
        )
    low, high = wilson(half, len(faulty))
    head = [
        f"# Fixes tried on the faulty scripts of {args.folder.name} ({args.folder.resolve().parent.name}), SEED={args.seed}",
        "",
        f"The recommended fix closes at least half of the gap to the repaired script in {half} of {len(faulty)} = "
        f"{100 * half / max(1, len(faulty)):.0f} % (95 % Wilson interval {100 * low:.0f} ... {100 * high:.0f} %); "
        f"{again / max(1, len(faulty)):.1f} re-runs a script.",
        "",
        "| script | main cause | metric | as it is | with the fix | repaired | gap closed | recommended fix |",
        "|---|---|---|---|---|---|---|---|",
    ]
    text = "\n".join(head + rows) + "\n"
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
