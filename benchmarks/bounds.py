"""LipSDP bounds beside other solvers, on the same networks in one run.

    python benchmarks/bounds.py [--peers PYTHON] [--folder FOLDER] [--only NAME ...] [--limit 120] [--repeat 1] [-o FILE]

FOLDER holds chains of dense layers and ReLUs; it defaults to the networks with published bounds under $STEEPEST_SHARED (or
../shared). Each answer comes from a process of its own with one thread. Of everybody what counts is the processor time from
weights to bound, without imports and reading the file; ours includes the proof, and the checker's time stands beside it. Of a
semidefinite solver both the whole call and the share that it reports as its own (setup and solve, without cvxpy's translation)
are compared. A run of more than ten seconds is not repeated. PYTHON is an interpreter with the peers installed
(``make bench-bounds`` makes one).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("clarabel", "scs", "eclipse", "eclipse-fast")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}

_OURS = """
import json, sys, time
import torch
torch.set_num_threads(1)
from steepest.bounds import LipSDP, Product
from steepest.capture.load import load
from steepest.numerics.deadline import Deadline
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain
graph, whole = load(sys.argv[1]).graph, Domain("all")
started = time.process_time()
upper = LipSDP(deadline=Deadline.after(float(sys.argv[2]))).bound(graph, whole, 2.0)
seconds = time.process_time() - started
record = graph.record()
started = time.perf_counter()
holds = check(write_certificate(record, output=None, norm=2.0, domain=whole, upper=upper, lower=None), record).holds
product = Product().bound(graph, whole, 2.0).value
neurons = sum(n.op.shape[-1] for n in graph.nodes if type(n.op).__name__ == "LeakyRelu")
print(json.dumps({"upper": upper.value, "gap": upper.gap, "seconds": seconds, "checked": time.perf_counter() - started,
                  "holds": holds, "product": product, "neurons": neurons}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("STEEPEST_SHARED", HERE.parent / "../shared"))
    parser.add_argument("--folder", type=Path, default=shared / "published")
    parser.add_argument("--only", nargs="*", help="names of networks; all by default")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    nets = [n for n in sorted(options.folder.glob("*.onnx")) if not options.only or n.stem in options.only]
    if not nets:
        print(f"there are no networks in {options.folder}: give a folder, or set STEEPEST_SHARED")
        return 0
    names = PEERS if options.peers else ()
    lines = [
        "| network | neurons | product | steepest | gap | s | check s | "
        + "".join(f"{p} | s | " for p in names)
        + "whole call | solver alone |",
        "|---|" + "---:|" * (8 + 2 * len(names)),
    ]
    print("\n".join(lines), flush=True)
    for net in nets:
        ours = _median([sys.executable, "-c", _OURS, str(net), str(options.limit)], options.limit, options.repeat)
        if ours is None:
            continue
        peers = {}
        for p in names:
            command = [str(options.peers), str(HERE / "peers.py"), str(net), p, str(options.limit)]
            peers[p] = _median(command, options.limit, options.repeat)
        lines.append(_line(net.stem, ours, peers, options.limit))
        print(lines[-1], flush=True)
    if options.output:
        note = "the last columns say how many times longer the faster solver takes"
        command = "python benchmarks/bounds.py " + " ".join(sys.argv[1:])
        machine = platform.processor() or platform.machine()
        head = f"`{command}`; {machine}, one thread, processor time, medians of {options.repeat}; {note}.\n\n"
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(f"# LipSDP bounds beside other solvers\n\n{head}" + "\n".join(lines) + "\n")
    return 0


def _run(command: list[str], limit: float) -> dict[str, object] | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=1.5 * limit + 60, env={**os.environ, **ONE_THREAD}
        )
    except subprocess.TimeoutExpired:
        return {"upper": None, "seconds": math.inf, "status": "stopped"}
    if done.returncode:
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def _median(command: list[str], limit: float, repeat: int) -> dict[str, object] | None:
    """The first answer, with medians of its times."""
    runs: list[dict[str, object]] = []
    while len(runs) < repeat and (not runs or _number(runs[0]["seconds"]) < 10.0):
        run = _run(command, limit)
        if run is None:
            return None
        runs.append(run)
    times = {k: statistics.median(_number(r[k]) for r in runs) for k in ("seconds", "own") if k in runs[0]}
    return {**runs[0], **times}


def _number(value: object) -> float:
    return float(str(value))


def _line(name: str, ours: dict[str, object], peers: dict[str, dict[str, object] | None], limit: float) -> str:
    gap = "" if ours["gap"] is None else f"{ours['gap']:.0e}"
    cells = [name, f"{ours['neurons']}", f"{ours['product']:.6g}", f"{ours['upper']:.6g}" + ("" if ours["holds"] else " (unproven)"), gap]
    cells += [f"{ours['seconds']:.2f}", f"{ours['checked']:.2f}"]
    whole = alone = math.inf
    for p, r in peers.items():
        if r is None or r["upper"] is None:
            cells += ["-", f"> {limit:g}" if r is not None and _number(r["seconds"]) >= 0.9 * limit else "-"]
            continue
        late = str(r.get("status", "")) not in ("optimal", "done")
        cells += [f"{r['upper']:.6g}" + (" *" if late else ""), f"{float(str(r['seconds'])):.2f}"]
        if p in ("clarabel", "scs") and not late:
            whole, alone = min(whole, _number(r["seconds"])), min(alone, _number(r["own"]))
    cells += [f"{t / _number(ours['seconds']):.1f}x" if t < math.inf else "" for t in (whole, alone)]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
