"""How well does ``steepest diagnose`` find root causes? Recall, root cause among the first two findings, false alarms.

    python benchmarks/diagnosis.py [FOLDER ...] [--seeds 0,1] [--jobs 2] [--cache DIR] [--rejudge] [-o results.md]

A folder holds scripts and ``labels.json``: ``{NAME: {"healthy": bool, "faults": [main cause, ...]}}``. Each script runs in its own
process with one thread, plainly and under ``steepest diagnose --json``; the JSON is kept in the cache, so that ``--rejudge``
judges recorded measurements anew
without running anything. Folders that do not exist are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("STEEPEST_SHARED", HERE.parent.parent / "shared"))
FOLDERS = (SHARED / "faults", HERE / "faults")


def wilson(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % Wilson interval of k successes in n."""
    if n == 0:
        return 0.0, 1.0
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def timed(command: list[str], seed: int, limit: float) -> tuple[str, str, float, int]:
    """stdout, stderr, CPU seconds and exit code of a command with one thread."""
    environment = {
        **os.environ,
        "SEED": str(seed),
        "OMP_NUM_THREADS": "1",
        "STEEPEST_DATA": os.environ.get("STEEPEST_DATA", str(SHARED / "data")),
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
    return out, err, _seconds(err), process.returncode


def _seconds(err: str) -> float:
    for line in reversed(err.splitlines()):
        if line.startswith("cpu_seconds="):
            return float(line.partition("=")[2])
    return math.nan


CHILD = """
import atexit, os, runpy, sys, time
atexit.register(lambda: print("cpu_seconds=%.3f" % time.process_time(), file=sys.__stderr__, flush=True))
mode, script = sys.argv[1], sys.argv[2]
if mode == "plain":
    sys.argv = [script]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")
else:
    sys.argv = ["steepest", "diagnose", "--json", script]
    from steepest.cli.main import main
    main()
"""


def observe(script: Path, seed: int, cache: Path, plain: bool, limit: float) -> dict[str, Any]:
    """The diagnosis of a script, from the cache where it is there."""
    kept = cache / f"seed{seed}" / f"{script.stem}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    out, err, seconds, code = timed([sys.executable, "-c", CHILD, "observed", str(script)], seed, limit)
    try:
        found = json.loads(out)
    except json.JSONDecodeError:
        found = {"findings": [], "measurements": {}, "notes": [f"no diagnosis (exit {code}): {err[-400:]}"]}
    found.pop("losses", None)
    found["seconds"] = seconds
    if plain:
        found["plain_seconds"] = timed([sys.executable, "-c", CHILD, "plain", str(script)], seed, limit)[2]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def observe_all(scripts: list[Path], seed: int, cache: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The diagnoses of all scripts, some at a time."""
    with ThreadPoolExecutor(args.jobs) as pool:
        done = pool.map(lambda s: observe(s, seed, cache, not args.no_plain, args.limit), scripts)
        return {s.stem: found for s, found in zip(scripts, done, strict=True)}


def causes(found: dict[str, Any], rejudge: bool) -> list[str]:
    """The ranked causes, as the run said them or as the present rules judge its measurements."""
    if rejudge:
        from steepest.diagnose import Case, judge_case

        return [f.cause.value for f in judge_case(Case.from_json(found["measurements"]))]
    return [f["cause"] for f in found["findings"]]


def table(labels: dict[str, Any], found: dict[str, list[str]]) -> Iterator[str]:
    """The scores and the confusion table as Markdown."""
    faulty = {n: v["faults"] for n, v in labels.items() if v["faults"] and n in found}
    healthy = [n for n, v in labels.items() if not v["faults"] and n in found]
    rates = (
        ("detected (any finding on a faulty script)", sum(bool(found[n]) for n in faulty), len(faulty)),
        ("main root cause among the first two findings", sum(f[0] in found[n][:2] for n, f in faulty.items()), len(faulty)),
        ("main root cause is the first finding", sum(f[0] in found[n][:1] for n, f in faulty.items()), len(faulty)),
        ("false alarms (any finding on a healthy script)", sum(bool(found[n]) for n in healthy), len(healthy)),
    )
    yield "| rate | | 95 % Wilson interval |"
    yield "|---|---|---|"
    for title, k, n in rates:
        low, high = wilson(k, n)
        yield f"| {title} | {k}/{n} = {100 * k / max(1, n):.1f} % | {100 * low:.1f} ... {100 * high:.1f} % |"
    yield ""
    yield "| main cause | scripts | detected | first two | first finding | findings given instead |"
    yield "|---|---|---|---|---|---|"
    for cause in sorted({f[0] for f in faulty.values()}):
        names = [n for n, f in faulty.items() if f[0] == cause]
        other = sorted({found[n][0] if found[n] else "none" for n in names if found[n][:1] != [cause]})
        yield (
            f"| `{cause}` | {len(names)} | {sum(bool(found[n]) for n in names)} | {sum(cause in found[n][:2] for n in names)} "
            f"| {sum(found[n][:1] == [cause] for n in names)} | {', '.join(other)} |"
        )
    for n in sorted(n for n in healthy if found[n]):
        yield f"| healthy: {n} | 1 | | | | {', '.join(found[n])} |"


def main() -> None:
    """Run, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one script")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "steepest-diagnosis")
    parser.add_argument("--rejudge", action="store_true", help="apply the present rules to what is in the cache")
    parser.add_argument("--only", default="", help="scripts whose name holds this")
    parser.add_argument("--no-plain", action="store_true", help="leave out the runs without observation")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    lines = ["# Diagnosis of training", ""]
    for folder in args.folders or FOLDERS:
        if not (folder / "labels.json").exists():
            print(f"{folder}: no labels.json, left out", file=sys.stderr)
            continue
        labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        scripts = [folder / f"{n}.py" for n in sorted(labels) if args.only in n]
        for seed in (int(s) for s in args.seeds.split(",")):
            cache = args.cache / folder.resolve().parent.name / folder.name
            runs = observe_all(scripts, seed, cache, args)
            found = {n: causes(r, args.rejudge) for n, r in runs.items()}
            ratios = sorted(r["seconds"] / r["plain_seconds"] for r in runs.values() if r.get("plain_seconds", 0) > 0 and r["seconds"] > 0)
            lines += [f"## {folder.name} of {folder.resolve().parent.name}, SEED={seed}", "", *table(labels, found), ""]
            if ratios:
                lines += [
                    f"CPU time of the whole process, observed / plain: median {ratios[len(ratios) // 2]:.2f}, largest {ratios[-1]:.2f} "
                    f"({sum(r['seconds'] for r in runs.values()):.0f} s observed in all).",
                    "",
                ]
            for n in sorted(found):
                want = labels[n]["faults"]
                right = not found[n] if not want else want[0] in found[n][:2]
                if not right:
                    print(f"seed {seed} {n}: want {', '.join(want) or 'healthy'}; got {', '.join(found[n]) or 'healthy'}", file=sys.stderr)
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")
    print(f"peak memory of a child: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB", file=sys.stderr)


if __name__ == "__main__":
    main()
