"""What steepest says of every network in a folder: lower, upper, ratio, seconds, method, or the refusal.

    python benchmarks/coverage.py [FOLDER] [--effort fast] [--norm 2] [--json out.json]

Each network runs in a process of its own, so that peak memory is its own too. FOLDER defaults to the networks under
$STEEPEST_SHARED (or ../shared); without them there is nothing to measure, and it says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

_CHILD = """
import json, resource, sys
import torch
torch.set_num_threads(int(sys.argv[4]))
from steepest import bound
from steepest.errors import SteepestError
try:
    b = bound(sys.argv[1], norm=sys.argv[2], effort=sys.argv[3])
    out = {"lower": b.lower, "upper": "inf" if b.upper == float("inf") else b.upper, "method": b.method, "notes": list(b.notes)}
except SteepestError as error:
    out = {"refusal": str(error), "code": error.exit_code}
out["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(out))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("STEEPEST_SHARED", Path(__file__).resolve().parents[1] / "../shared"))
    parser.add_argument("folder", nargs="?", type=Path, default=shared / "nets")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--norm", default="2")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    nets = sorted(options.folder.glob("*.onnx"))
    if not nets:
        print(f"there are no networks in {options.folder}: give a folder, or set STEEPEST_SHARED")
        return 0
    print(f"{'network':46} {'lower':>12} {'upper':>12} {'ratio':>9} {'s':>6} {'GiB':>5}  method or refusal")
    rows = []
    for net in nets:
        started = time.perf_counter()
        command = [sys.executable, "-c", _CHILD, str(net), options.norm, options.effort, str(options.threads)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if child.returncode:
            row = {"refusal": child.stderr.strip().splitlines()[-1], "memory": math.nan, "code": child.returncode}
        else:
            row = json.loads(child.stdout)
        rows.append({"network": net.stem, "seconds": seconds, **row})
        name, tail = net.stem[:46], f"{seconds:6.1f} {row['memory']:5.2f}"
        if "refusal" in row:
            print(f"{name:46} {'-':>12} {'-':>12} {'-':>9} {tail}  refused ({row['code']}): {row['refusal']}", flush=True)
        else:
            upper, lower = float(row["upper"]), row["lower"]
            ratio = upper / lower if lower > 0 else math.inf
            note = f" ({row['notes'][0]})" if row["notes"] and upper == math.inf else ""
            print(f"{name:46} {lower:12.5g} {upper:12.5g} {ratio:9.3g} {tail}  {row['method']}{note}", flush=True)
    answered = [r for r in rows if "refusal" not in r]
    finite = [r for r in answered if r["upper"] != "inf"]
    slowest, largest = max(r["seconds"] for r in rows), max(r["memory"] for r in rows)
    print(f"{len(rows)} networks, {len(answered)} answered, {len(finite)} finite; slowest {slowest:.1f} s, peak {largest:.2f} GiB")
    if options.json:
        options.json.write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
