"""How the time of a LipSDP bound grows with neurons and with depth, on random chains; one thread, processor time.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--largest 4100] [-o benchmarks/results]

Each chain has weights of variance 1.5 / n. Two ways: the interior point to a gap of 1e-5 with its proof, dense or for deep chains layer
by layer, and 100 first-order steps with theirs. Writes ``scaling.md`` and one SVG each for time against neurons (depth 4) and against
depth (width 32 and 64).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from steepest.bounds import LipSDP
from steepest.capture.builder import Builder
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.results import Domain

WAYS = {"interior point": LipSDP(deadline=Deadline()), "100 first-order steps": LipSDP(deadline=Deadline(), exact=0, steps=100)}
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")


def chain(width: int, depth: int) -> Graph:
    generator = torch.Generator().manual_seed(width + depth)
    b = Builder()
    x = b.input((1, width))
    for k in range(depth + 1):
        x = b.dense(x if k == 0 else b.relu(x), torch.randn(width, width, generator=generator, dtype=torch.float64) * (1.5 / width) ** 0.5)
    return b.finish(x)


def seconds(way: str, width: int, depth: int) -> tuple[float, float]:
    """Processor time and the gap."""
    graph = chain(width, depth)
    started = time.process_time()
    upper = WAYS[way].bound(graph, Domain("all"), 2.0)
    return time.process_time() - started, math.nan if upper.gap is None else upper.gap


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Of the power law through the last three points."""
    x, y = np.log(np.array(points[-3:])).T
    return float(np.polyfit(x, y, 1)[0])


def chart(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], across: str) -> str:
    """Seconds on two logarithmic axes, with powers of two and of ten."""
    points = np.log10(np.array([p for _, line in lines for p in line]))
    (left, low), (right, high) = points.min(0) - 0.05, points.max(0) + 0.1
    width, height, edge = 640, 360, 60

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log10(x) - left) / (right - left), (math.log10(y) - low) / (high - low)
        return edge + across * (width - edge - 10), height - edge - up * (height - edge - 10)

    parts = []
    for x in sorted({x for _, line in lines for x, _ in line}):
        here, _ = at(x, 10**low)
        parts.append(f'<line x1="{here:.1f}" x2="{here:.1f}" y1="10" y2="{height - edge}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{here:.1f}" y="{height - edge + 18}" text-anchor="middle">{x:g}</text>')
    for k in range(math.ceil(low), math.floor(high) + 1):
        _, here = at(10**left, 10.0**k)
        parts.append(f'<line x1="{edge}" x2="{width - 10}" y1="{here:.1f}" y2="{here:.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{edge - 8}" y="{here + 4:.1f}" text-anchor="end">{10.0**k:g} s</text>')
    for i, (label, line) in enumerate(lines):
        places = [at(*p) for p in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[i]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLOURS[i]}"/>' for x, y in places]
        parts.append(f'<text x="{edge + 10}" y="{26 + 18 * i}" fill="{COLOURS[i]}">{label}: exponent {exponent(line):.2f}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 14}" text-anchor="middle">{across}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    return head + f'<rect width="{width}" height="{height}" fill="white"/>' + "".join(parts) + "</svg>\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=4100, help="most neurons for the interior point")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = ["| chain | neurons | way | s | gap |", "|---|---:|---|---:|---:|"]
    seconds("interior point", 16, 2)

    def measured(way: str, shapes: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], float]]:
        out = []
        for width, depth in shapes:
            if way == "interior point" and width * depth > options.largest:
                continue
            taken, gap = seconds(way, width, depth)
            out.append(((width, depth), taken))
            rows.append(f"| {width} x {depth} | {width * depth} | {way} | {taken:.2f} | " + ("|" if math.isnan(gap) else f"{gap:.0e} |"))
            print(rows[-1], flush=True)
        return out

    wide = [(way, [(w * d, s) for (w, d), s in measured(way, [(n, 4) for n in (16, 32, 64, 128, 256)])]) for way in WAYS]
    deep = []
    for way in WAYS:
        for width in (32, 64):
            found = measured(way, [(width, d) for d in (4, 8, 16, 32, 64, 128)])
            deep.append((f"{way}, width {width}", [(d, s) for (_, d), s in found]))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "scaling_neurons.svg").write_text(chart(wide, "neurons (depth 4)"))
    (options.output / "scaling_depth.svg").write_text(chart(deep, "depth"))
    command = "python benchmarks/scaling.py " + " ".join(sys.argv[1:])
    images = "![time against neurons](scaling_neurons.svg)\n\n![time against depth](scaling_depth.svg)\n"
    text = f"# How LipSDP's time grows\n\n`{command.strip()}`, one thread, processor time.\n\n{images}\n" + "\n".join(rows) + "\n"
    (options.output / "scaling.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
