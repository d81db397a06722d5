"""Local l2 constants of the embedded digits CNN around test inputs.

    python benchmarks/local_l2.py [--inputs 100] [--searched 40] [--seconds 2] [--cache FILE] [-o benchmarks/results/local_l2.md]

The network is the embedded example, trained here with its fixed seed; radii are in the units of its input, pixels in [0, 1].
``upper``: LipSDP with slopes from linear bounds (``LocalLipSDP``), proven. ``linear``: the norm of the linear bounds of the Clarke
Jacobian. ``lower``: the steepest secant that the search finds in the same ball or in a smaller one of the table, for the first inputs
only. ``centre``: the norm of the Jacobian at the input, for which local constants are often given out. Seconds are CPU time of one thread
for an input, with its enclosures. With a cache, what is known is not computed again: a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from steepest.bounds import LinearJacobian, LipSDP, LocalLipSDP
from steepest.capture.load import load
from steepest.example import train_digits
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.ops.backward import tighten_ball
from steepest.ops.lure import lure_system
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain
from steepest.witnesses.ascent import GradientAscent

RADII = (0.05, 0.2, 0.5)
CHECKED = 3
"""Inputs whose certificates are written and checked."""


def measure(graph: Graph, x: torch.Tensor, radius: float, seconds: float, certify: bool) -> dict[str, float]:
    """All figures of one ball; no lower bound where there are no seconds for it."""
    domain = Domain("ball", centre=x.numpy(), radius=radius, norm=2.0)
    row: dict[str, float] = {"radius": radius}
    started = time.process_time()
    row["upper"] = LocalLipSDP().constants(graph, x[None], radius).item()
    row["seconds"] = time.process_time() - started
    started = time.process_time()
    row["linear"] = LinearJacobian().bound(graph, domain, 2.0).value
    row["linear_seconds"] = time.process_time() - started
    values = tighten_ball(graph, x[None], torch.tensor([radius], dtype=torch.float64), 2.0)
    system = lure_system(graph, [v.map(lambda t: t[0]) for v in values])
    assert system is not None
    row["uncertain"] = system.multipliers
    if seconds > 0:
        found = GradientAscent(seconds=seconds, starts=32).search(graph, domain, 2.0)
        row["lower"] = found.value if found else 0.0
    if certify:
        upper, record = LipSDP(deadline=Deadline(), steps=12, gap=1e-3).bound(graph, domain, 2.0), graph.record()
        started = time.process_time()
        verdict = check(write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None), record)
        assert verdict.holds, verdict.reasons
        row["check_seconds"] = time.process_time() - started
    return row


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2.0, help="for the search of each lower bound")
    parser.add_argument("--searched", type=int, default=40, help="inputs for which lower bounds are searched")
    parser.add_argument("--cache", type=Path, help="a file to which every figure is appended")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    example = train_digits()
    graph = load(example.model, sample=example.x[:1].float()).graph
    known: dict[tuple[int, float], dict[str, float]] = {}
    if options.cache and options.cache.exists():
        for line in options.cache.read_text().splitlines():
            row = json.loads(line)
            if row["digest"] == graph.record().digest:
                known[row["input"], row["radius"]] = row
    for i in range(options.inputs):
        x = example.x[i].reshape(graph.input_shape)
        for radius in RADII:
            if (i, radius) in known:
                continue
            known[i, radius] = measure(graph, x, radius, options.seconds * (i < options.searched), i < CHECKED)
            if options.cache:
                with options.cache.open("a") as file:
                    file.write(json.dumps({"digest": graph.record().digest, "input": i, **known[i, radius]}) + "\n")
            print(i, {k: round(v, 4) for k, v in known[i, radius].items()}, flush=True)
    started = time.process_time()
    whole = LipSDP(deadline=Deadline.after(40.0)).bound(graph, Domain("all"), 2.0).value
    whole_seconds = time.process_time() - started
    x = example.x[: options.inputs].reshape(-1, *graph.input_shape)
    jacobians = torch.func.vmap(torch.func.jacrev(graph.evaluate))(x).reshape(len(x), 10, 64)
    centre = torch.linalg.matrix_norm(jacobians, 2)
    lines = [
        "# Local l2 constants",
        "",
        f"`python benchmarks/local_l2.py --inputs {options.inputs} --searched {options.searched} --seconds {options.seconds:g}`:",
        "what the columns mean stands there.",
        f"Means over the first {options.inputs} test inputs, of lower bounds and ratios over the first {options.searched}.",
        f"Accuracy of the network {example.accuracy:.3f}; norm of the Jacobian at the",
        f"inputs {centre.mean():.1f} ({centre.min():.1f} to {centre.max():.1f}); over all inputs LipSDP proves {whole:.1f} in "
        f"{whole_seconds:.0f} s.",
        "",
        "| radius | uncertain neurons | lower | upper | upper / lower | worst | linear / lower | upper / centre "
        "| s | s, slowest | s: linear | s: check |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for radius in RADII:
        rows = [known[i, radius] for i in range(options.inputs)]
        some = rows[: options.searched]
        lower = [max(known[i, r]["lower"] for r in RADII if r <= radius) for i in range(len(some))]
        ratios = [row["upper"] / low for row, low in zip(some, lower, strict=True)]

        def mean(key: str, rows: list[dict[str, float]] = rows) -> float:
            found = [row[key] for row in rows if key in row]
            return sum(found) / len(found)

        linear = sum(row["linear"] / low for row, low in zip(some, lower, strict=True)) / len(some)
        above = sum(row["upper"] / centre[i].item() for i, row in enumerate(rows)) / len(rows)
        lines.append(
            f"| {radius} | {mean('uncertain'):.0f} | {sum(lower) / len(lower):.2f} | {mean('upper'):.2f} "
            f"| {sum(ratios) / len(ratios):.3f} | {max(ratios):.3f} | {linear:.2f} | {above:.2f} | {mean('seconds'):.2f} "
            f"| {max(row['seconds'] for row in rows):.2f} | "
            f"{mean('linear_seconds'):.2f} | {mean('check_seconds'):.2f} |"
        )
    print("\n".join(lines))
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
