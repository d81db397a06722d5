"""Exact constants of LipBaB's networks beside the published values.

    python benchmarks/exact.py [--nets FOLDER] [--seconds 120] [-o benchmarks/results/exact.md]

FOLDER holds the two networks as ONNX (weights rounded to float32); it defaults to $STEEPEST_SHARED/published (or ../shared/published).
One thread; seconds are CPU time, of branching over activation patterns and of the checker. The published values are of the box [0, 0.1]^10
and float64 weights.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch

from steepest.bounds import Signs
from steepest.capture.load import load
from steepest.numerics.deadline import Deadline
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain
from steepest.results.domain import NORM_NAMES
from steepest.witnesses.ascent import GradientAscent

HERE = Path(__file__).resolve().parent
# As LipBaB computes them (github.com/tsplittg/ExLipBaB_Code, applications/lipbab_comparison.py).
PUBLISHED = {
    "lipbab_SDnet_10_15_10_3": {2.0: 9.530716922306004, 1.0: 10.41286850374477, math.inf: 16.274810805318676},
    "lipbab_SDnet_10_20_15_10_3": {2.0: 40.05651016370293, 1.0: 48.04897158493324, math.inf: 72.28569774866806},
}
BOXES = ((0.0, 0.1), (0.0, 1.0), None)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("STEEPEST_SHARED", HERE.parent / "../shared"))
    parser.add_argument("--nets", type=Path, default=shared / "published")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the wall clock, for each constant")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Exact constants of LipBaB's networks",
        "",
        f"`python benchmarks/exact.py --seconds {options.seconds:g}`; one thread, CPU seconds. Published: by LipBaB, over [0, 0.1]^10; "
        "weights here are rounded to float32, so that values agree to about 1e-7. Lower: a proven secant at the steepest point met. Upper: "
        "proven by the checker; where upper / lower is 1 but for 2e-6, the margin of the proofs, it is the constant. All: R^10.",
        "",
        "| network | domain | norm | published | lower | upper | upper / lower - 1 | nodes of the tree | s | checker, s |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, values in PUBLISHED.items():
        graph = load(str(options.nets / f"{name}.onnx")).graph
        record = graph.record()
        for box in BOXES:
            ends = [] if box is None else [np.full(graph.input_shape, end) for end in box]
            domain = Domain("box", lo=ends[0], hi=ends[1]) if ends else Domain("all")
            for norm, value in values.items():
                started = time.process_time()
                upper = Signs(Deadline.after(options.seconds), nodes=200_000).bound(graph, domain, norm)
                taken = time.process_time() - started
                assert upper.patterns is not None and upper.point is not None
                point = torch.from_numpy(upper.point)[None]
                lower = GradientAscent(seconds=1.0, steps=10).search(graph, domain, norm, points=point)
                assert lower is not None
                started = time.process_time()
                verdict = check(write_certificate(record, output=None, norm=norm, domain=domain, upper=upper, lower=lower), record)
                checked = time.process_time() - started
                assert verdict.upper <= upper.value * (1 + 1e-9), verdict.reasons
                lines.append(
                    f"| {name.removeprefix('lipbab_')} | {'all' if box is None else f'[{box[0]:g}, {box[1]:g}]'} | {NORM_NAMES[norm]} | "
                    f"{f'{value:.6f}' if box == BOXES[0] else ''} | {verdict.lower:.6f} | {verdict.upper:.6f} | "
                    f"{verdict.upper / verdict.lower - 1:.1e} | {len(upper.patterns.cut)} | {taken:.2f} | {checked:.2f} |"
                )
                print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
