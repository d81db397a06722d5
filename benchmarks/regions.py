"""Bounds over smaller and smaller regions, where those over all inputs are far apart.

    python benchmarks/regions.py [--nets FOLDER] [--seconds 10] [-o benchmarks/results/regions.md] [NAME ...]

FOLDER holds ONNX networks; it defaults to those under $STEEPEST_SHARED (or ../shared). Regions are l2 balls around a fixed point, drawn
once from the unit cube with a seed (or its half, where inputs are centred), and all inputs. One thread; seconds are CPU time of all
that is in the row, the search for a witness and the checker included.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch

from steepest.bracket import EFFORTS, Bracketing, Effort
from steepest.capture.load import load
from steepest.results import Domain

HERE = Path(__file__).resolve().parent
NETS = (
    "mnist_fc_256x6",
    "mnist_sigmoid_6x200",
    "acasxu_1_1",
    "cifar_biasfield_base",
    "marabou_mnist5x20_leaky_relu",
    "tll_n2_NM16_1_0",
    "reach_vdp",
    "nn4sys_lindex",
)
RADII = (math.inf, 1.0, 0.3, 0.1, 0.03, 0.01)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(os.environ.get("STEEPEST_SHARED", HERE.parent / "../shared"))
    parser.add_argument("names", nargs="*", default=NETS)
    parser.add_argument("--nets", type=Path, default=shared / "nets")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the bounds that optimise, each region")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Bounds over smaller regions",
        "",
        f"`python benchmarks/regions.py --seconds {options.seconds:g}`; l2 balls around one point, all: R^n; every bound checked.",
        "",
        "| network | radius | lower | upper | upper / lower | method | product | product / lower | s |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for name in options.names:
        graph = load(str(options.nets / f"{name}.onnx")).graph
        centre = np.random.default_rng(0).uniform(0.0, 1.0, graph.input_shape)
        if math.prod(graph.input_shape) <= 16:
            centre -= 0.5
        for radius in RADII:
            domain = Domain("all") if radius == math.inf else Domain("ball", centre=centre, radius=radius, norm=2.0)
            started = time.process_time()
            search = EFFORTS["fast"]
            effort = Effort(search.seconds, search.starts, options.seconds)
            found = Bracketing(effort).run(graph, domain, 2.0, name=name)
            seconds = time.process_time() - started
            product = next(u.value for u in found.uppers if u.method == "product")
            factor = product / found.lower if found.lower > 0 else math.inf
            row = [
                name,
                "all" if radius == math.inf else f"{radius:g}",
                f"{found.lower:.4g}",
                f"{found.upper:.4g}",
                f"{found.ratio:.3g}",
                found.method,
                f"{product:.4g}",
                f"{factor:.3g}",
                f"{seconds:.1f}",
            ]
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
            if options.output is not None:
                options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
