"""Global l2 bounds of real networks, method by method, against the product of norms: what is left between upper and lower.

    python benchmarks/networks.py [NAME ...] --upper 70 --lower 30 -o benchmarks/results/networks.md

Networks are taken from $STEEPEST_SHARED/nets (or ../shared/nets); without them there is nothing to measure, and it says so. LipLT's
value is an estimate, from below, of a bound. Seconds are of computing time, one thread.
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

NETS = """
mnist_fc_256x2 kw_har acasxu_1_1 mnist_fc_256x6 cora_mnist_point cifar_resnet_2b cifar_sri_resnet_a kw_fashion_mnist
cifar_oval_base_kw cifar_marabou_medium mnist_verivital_avgpool collins_rul_full_window_40 ort_cnn_mnist_pytorch cifar_biasfield_base
""".split()


def measure(path: str, upper: float, lower: float) -> dict[str, object]:
    """One network, in this process."""
    import torch

    torch.set_num_threads(1)
    from steepest.bounds.lipsdp.starts import liplt
    from steepest.bracket import Bracketing, Effort
    from steepest.capture.load import load
    from steepest.numerics.deadline import Deadline
    from steepest.ops.lure import lure_system
    from steepest.ops.region import enclose_domain
    from steepest.proofs.check import check
    from steepest.results import Domain

    started = time.process_time()
    graph = load(path).graph
    bracket = Bracketing(Effort(lower, 32, upper)).run(graph, Domain("all"), 2.0)
    taken = time.process_time() - started
    started = time.process_time()
    verdict = check(json.loads(json.dumps(bracket.to_json()["certificate"])), graph.record())
    checking = time.process_time() - started
    system = lure_system(graph, enclose_domain(graph, Domain("all")))
    other = None if system is None else liplt(system, Deadline.after(60.0))
    return {
        "lower": bracket.lower,
        "upper": bracket.upper,
        "methods": {u.method: [u.value, u.seconds] for u in bracket.uppers},
        "gap": bracket.uppers[0].gap,
        "liplt": None if other is None else other.value,
        "seconds": taken,
        "check": checking,
        "holds": verdict.holds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("STEEPEST_SHARED", Path(__file__).resolve().parents[1] / "../shared"))
    parser.add_argument("names", nargs="*", default=NETS)
    parser.add_argument("--upper", type=float, default=70.0, help="seconds for the bounds")
    parser.add_argument("--lower", type=float, default=30.0, help="seconds for the search")
    parser.add_argument("--one", action="store_true", help="measure one file and print JSON")
    parser.add_argument("-o", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.names[0], options.upper, options.lower)))
        return 0
    if not (shared / "nets").is_dir():
        print(f"there are no networks in {shared / 'nets'}: set STEEPEST_SHARED")
        return 0
    lines = [
        "# Global l2 bounds against the product of norms",
        "",
        f"`python benchmarks/networks.py --upper {options.upper:g} --lower {options.lower:g}`; one thread, computing time.",
        "",
        "| network | product | LipLT | by channel | by neuron | upper | method | gap | / product | lower | upper / lower | s | check s |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in options.names:
        command = [
            sys.executable,
            __file__,
            "--one",
            f"--upper={options.upper}",
            f"--lower={options.lower}",
            str(shared / "nets" / f"{name}.onnx"),
        ]
        child = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if child.returncode:
            print(f"{name}: {child.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        row = json.loads(child.stdout)
        methods = row["methods"]

        def number(x: float | None, digits: int = 6) -> str:
            return "" if x is None or not math.isfinite(x) else f"{x:.{digits}g}"

        def of(method: str, methods: dict[str, list[float]] = methods) -> str:
            value, seconds = methods.get(method, [math.inf, 0.0])
            return f"{value:.6g} ({seconds:.0f} s)" if value < math.inf else ""

        product, best = methods["product"][0], min(methods, key=lambda m: methods[m][0])
        cells = [
            name,
            number(product),
            number(row["liplt"]),
            of("lipsdp-channel"),
            of("lipsdp"),
            number(row["upper"]),
            best,
            number(row["gap"], 2),
            f"{row['upper'] / product:.4g}",
            number(row["lower"]),
            f"{row['upper'] / max(row['lower'], 1e-300):.4g}",
            f"{row['seconds']:.0f}",
            f"{row['check']:.1f}{'' if row['holds'] else ' REFUSED'}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        if options.o:
            options.o.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
