"""How asynchronous and distributed descent scale with the number of workers, in the simulator; digits, a network with one hidden layer.

    OMP_NUM_THREADS=1 python benchmarks/distributed.py [--largest 1000] [-o benchmarks/results]

Each step of a worker takes a time of mean 1, exponentially distributed; one in fifty takes twenty times as long. For each method and number
of workers the best rate of a grid counts. Writes ``distributed.md``, and two SVGs into ``docs``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from steepest.distributed import (
    EASGD,
    BackupWorkers,
    DelayCompensated,
    Downpour,
    Exponential,
    Hogwild,
    LocalSGD,
    Problem,
    Shuffled,
    Stragglers,
    simulate,
)
from steepest.distributed.method import Method, OptimizerFactory

TARGET = 0.93
WORKERS = (1, 8, 64, 256, 1000)
RATES = (1.6, 0.4, 0.1, 0.025, 0.006, 0.0015)
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#475569")
SERVICE = Stragglers(Exponential(1.0), share=0.02, factor=20.0)
LATENCY = Exponential(0.02)


def sgd(lr: float) -> OptimizerFactory:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


# Per method the options for a rate and a number of workers, and whether workers move by themselves.
METHODS: dict[str, tuple[Callable[[float, int], Method], bool]] = {
    "asynchronous SGD": (lambda lr, p: Downpour(sgd(lr)), False),
    "DC-ASGD": (lambda lr, p: DelayCompensated(sgd(lr), strength=2.0, momentum=0.95), False),
    "Hogwild": (lambda lr, p: Hogwild(lr), False),
    "EASGD, tau 4": (lambda lr, p: EASGD(min(0.9 / p, 0.5), tau=4), True),
    "local SGD, period 8": (lambda lr, p: LocalSGD(8), True),
    "synchronous SGD": (lambda lr, p: BackupWorkers(sgd(lr)), False),
    "synchronous SGD, 5 % backup": (lambda lr, p: BackupWorkers(sgd(lr), -(-p // 20) if p > 1 else 0), False),
}


@dataclass(frozen=True)
class Row:
    method: str
    workers: int
    lr: float
    reached: bool
    time: float
    steps: int
    staleness: float
    accuracy: float
    cpu: float


def data() -> tuple[Shuffled, Tensor, Tensor]:
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return Shuffled(x[order[400:]], y[order[400:]], 32), x[order[:400]], y[order[:400]]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def measure(name: str, workers: int, lr: float, steps: int) -> Row:
    make, local = METHODS[name]
    batches, x, y = data()
    started = time.process_time()
    run = simulate(
        Problem(network(), nn.functional.cross_entropy, batches),
        make(lr, workers),
        workers,
        steps=steps,
        optimizer=sgd(lr) if local else None,
        service=SERVICE,
        latency=LATENCY,
        evaluate=lambda m: (m(x).argmax(1) == y).double().mean().item(),
        every=50,
        until=lambda accuracy: accuracy >= TARGET,
    )
    value = run.moments[-1].value
    late = statistics.fmean(run.staleness) if run.staleness else 0.0
    return Row(name, workers, lr, value >= TARGET, run.time, run.steps, late, value, time.process_time() - started)


def limit(workers: int) -> int:
    """Gradients, so that also synchronous methods have rounds enough."""
    return 4_000 + 20 * workers


def best(name: str, workers: int, near: float | None) -> Row:
    """The rate that reaches the target first; where none does, the one of the highest accuracy.

    Looks at the rate that was best for fewer workers, the next larger and the two next smaller ones; each at most for as many gradients as
    the best so far needed.
    """
    at = RATES.index(near) if near else 0
    rates = [RATES[k] for k in (at, at + 1, at - 1, at + 2) if 0 <= k < len(RATES)] if near else RATES
    rows: list[Row] = []
    for lr in rates:
        rows.append(measure(name, workers, lr, min([limit(workers), *(r.steps for r in rows if r.reached)])))
    return min(rows, key=lambda r: (not r.reached, r.time if r.reached else -r.accuracy))


def chain(name: str, largest: int) -> list[Row]:
    """One method, from few workers to many."""
    torch.set_num_threads(1)
    near, rows = None, []
    for workers in WORKERS:
        if workers <= largest:
            rows.append(best(name, workers, near))
            near = rows[-1].lr
            print(rows[-1], flush=True)
    return rows


def chart(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], across: str, up: str) -> str:
    """Points joined by lines on two logarithmic axes."""
    values = [(math.log10(a), math.log10(b)) for _, line in lines for a, b in line]
    left, right = min(a for a, _ in values) - 0.05, max(a for a, _ in values) + 0.1
    low, high = min(b for _, b in values) - 0.1, max(b for _, b in values) + 0.15
    width, height, edge, key = 760, 380, 60, 200

    def at(a: float, b: float) -> tuple[float, float]:
        x = edge + (a - left) / (right - left) * (width - edge - key)
        return x, height - 45 - (b - low) / (high - low) * (height - 65)

    parts = []
    for t in [k + math.log10(m) for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 3)]:
        if low <= t <= high:
            _, v = at(left, t)
            parts.append(f'<line x1="{edge}" x2="{width - key}" y1="{v:.1f}" y2="{v:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{edge - 8}" y="{v + 4:.1f}" text-anchor="end">{10**t:.3g}</text>')
    for t in range(math.floor(left), math.ceil(right) + 1):
        if left <= t <= right:
            h, _ = at(t, low)
            parts.append(f'<line y1="20" y2="{height - 45}" x1="{h:.1f}" x2="{h:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{h:.1f}" y="{height - 28}" text-anchor="middle">{10**t:g}</text>')
    for k, (label, line) in enumerate(lines):
        points = [at(math.log10(a), math.log10(b)) for a, b in line]
        path = " ".join(f"{h:.1f},{v:.1f}" for h, v in points)
        colour = COLOURS[k % len(COLOURS)]
        dash = ' stroke-dasharray="5 3"' if k >= len(COLOURS) else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{h:.1f}" cy="{v:.1f}" r="3" fill="{colour}"/>' for h, v in points]
        parts.append(f'<text x="{width - key + 10}" y="{34 + 20 * k}" fill="{colour}">{label}</text>')
    parts.append(f'<text x="{(edge + width - key) / 2}" y="{height - 8}" text-anchor="middle">{across}</text>')
    parts.append(f'<text x="{edge}" y="12">{up}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    return head + f'<rect width="{width}" height="{height}" fill="white"/>' + "".join(parts) + "</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Scaling of distributed descent in the simulator.")
    parser.add_argument("--largest", type=int, default=1000, help="number of workers")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--figures", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        rows = [row for found in pool.map(chain, METHODS, [options.largest] * len(METHODS)) for row in found]
    serial = {r.method: r.time for r in rows if r.workers == 1}
    speedup = {id(r): serial[r.method] / r.time for r in rows if r.reached}
    lines = [
        f"| {r.method} | {r.workers} | {r.lr:g} | {f'{r.time:.1f}' if r.reached else 'not reached'} | "
        f"{f'{speedup[id(r)]:.1f}' if r.reached else ''} | {r.steps} | {r.staleness:.1f} | {r.accuracy:.3f} | {r.cpu:.1f} |"
        for r in rows
    ]
    scaling = [(n, [(r.workers, speedup[id(r)]) for r in rows if r.method == n and r.reached]) for n in METHODS]
    late = [
        (n, [(r.staleness, speedup[id(r)]) for r in rows if r.method == n and r.reached and r.staleness > 0])
        for n in METHODS
        if "SGD" not in n or n.startswith(("asynchronous", "DC", "EA"))
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    (options.figures / "distributed_speedup.svg").write_text(chart([s for s in scaling if s[1]], "workers", "speed-up"))
    (options.figures / "distributed_staleness.svg").write_text(
        chart([s for s in late if s[1]], "mean staleness (updates between fetch and push)", "speed-up")
    )
    largest = max(r.workers for r in rows)
    dearest = max(r.cpu for r in rows if r.workers == largest)
    head = f"""# Workers against speed-up, simulated

By `make bench-distributed`. Digits, 64-32-10 with ReLU, batches of 32, until {TARGET:.0%} test accuracy of the centre (looked at
every 50 gradients) or 4,000 + 20 x workers gradients. Service times are exponential of mean 1, one in fifty twenty times as long; a
message takes 0.02 on average. Best of the rates {", ".join(f"{r:g}" for r in RATES)} (all with one worker; then the best of the row
before and its neighbours, one above and two below); one seed. Time is simulated, in mean service times; the speed-up is against one
worker of the same method; CPU seconds are those of the simulation of one row; {largest} workers took at most {dearest:.1f}.

| method | workers | rate | time to target | speed-up | gradients | mean staleness | accuracy | CPU s |
|---|---|---|---|---|---|---|---|---|
"""
    names = {"distributed_speedup": "speed-up against workers", "distributed_staleness": "speed-up against staleness"}
    images = "\n" + "".join(f"\n![{words}](../../docs/{name}.svg)\n" for name, words in names.items())
    (options.output / "distributed.md").write_text(head + "\n".join(lines) + images)


if __name__ == "__main__":
    main()
