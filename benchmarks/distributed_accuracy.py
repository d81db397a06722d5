"""EASGD and Downpour on four gloo processes beside one process: test accuracy on digits over seeds.

    OMP_NUM_THREADS=1 python benchmarks/distributed_accuracy.py [--seeds 5] [-o benchmarks/results/distributed_accuracy.md]

Rank 0 serves, three ranks train the network of ``examples/distributed_digits.py`` with SGD. A method reaches the serial accuracy where the
95 % interval of the mean difference, seed by seed, does not lie below zero and the mean is no more than a point below it: the standard
error of one accuracy of 96 % over 400 images is one point.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from steepest.distributed import EASGD, Downpour, Shuffled, join
from steepest.studies.verdicts import mean_interval

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from distributed_digits import digits, gradient, network, sgd

PROCESSES = 4
METHODS = {"EASGD, tau 4": EASGD(alpha=0.3, tau=4), "Downpour": Downpour(sgd)}
MARGIN = 0.01


@dataclass(frozen=True)
class Row:
    """Test accuracy of one seed.

    Args:
        serial: of one process, after as many steps as one worker takes.
        longer: of one process, after as many gradients as all workers take together.
        methods: of the centre, by the name of the method.
        staleness: mean of the gradients' delays, in updates.
    """

    seed: int
    serial: float
    longer: float
    methods: dict[str, float]
    staleness: dict[str, float]
    seconds: float


def alone(seed: int, steps: int) -> float:
    """Accuracy of serial SGD on the batches of the first worker."""
    data, model = digits(), network(seed)
    optimizer, batches = sgd(list(model.parameters())), Shuffled(data.x, data.y, 32, seed)
    for step in range(steps):
        gradient(model, optimizer, batches(0, step))
        optimizer.step()
    return data.accuracy(model)


def _rank(rank: int, port: int, name: str, seed: int, steps: int, found: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo")
    data, model = digits(), network(seed)
    optimizer, batches = sgd(list(model.parameters())), Shuffled(data.x, data.y, 32, seed)
    member = join(METHODS[name], model, optimizer)
    if member.serving:
        served = member.serve()
        assert served.lost == (), f"lost {served.lost}"
        found.put((data.accuracy(model), sum(served.staleness) / len(served.staleness)))
    else:
        with member:
            for step in range(steps):
                gradient(model, optimizer, batches(rank - 1, step))
                member.step()
    dist.destroy_process_group()


def together(name: str, seed: int, steps: int, limit: float = 600.0) -> tuple[float, float]:
    """Accuracy of the centre, and the mean staleness, of a real run with three workers."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "sklearn.datasets", "steepest.distributed"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = context.Queue()
    ranks = [context.Process(target=_rank, args=(r, port, name, seed, steps, found), daemon=True) for r in range(PROCESSES)]
    for process in ranks:
        process.start()
    try:
        return found.get(timeout=limit)
    finally:
        for process in ranks:
            process.join(60.0)
            if process.is_alive():
                process.kill()


def measure(seed: int, steps: int) -> Row:
    """All methods of one seed."""
    started = time.perf_counter()
    found = {name: together(name, seed, steps) for name in METHODS}
    return Row(
        seed,
        alone(seed, steps),
        alone(seed, (PROCESSES - 1) * steps),
        {name: accuracy for name, (accuracy, _) in found.items()},
        {name: staleness for name, (_, staleness) in found.items()},
        time.perf_counter() - started,
    )


def reaches(differences: Sequence[float]) -> bool:
    """Whether accuracies less the serial ones, seed by seed, speak for the serial accuracy."""
    interval = mean_interval(differences)
    return interval.high >= 0.0 and interval.value >= -MARGIN


def main() -> None:
    parser = argparse.ArgumentParser(description="Real processes beside one.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="of each worker")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "distributed_accuracy.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(options.seeds):
        rows.append(measure(seed, options.steps))
        print(rows[-1], flush=True)
    lines = []
    for r in rows:
        methods = " | ".join(f"{r.methods[n]:.4f} | {r.staleness[n]:.2f}" for n in METHODS)
        lines.append(f"| {r.seed} | {r.serial:.4f} | {r.longer:.4f} | {methods} |")
    verdicts = []
    for name in METHODS:
        for words, base in (("as many steps as one worker", "serial"), ("as many gradients as all workers", "longer")):
            differences = [r.methods[name] - getattr(r, base) for r in rows]
            found = mean_interval(differences)
            points = f"{100 * found.value:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
            verdicts.append(f"| {name} | {words} | {points} | {'reached' if reaches(differences) else 'not reached'} |")
    columns = " | ".join(f"{n} | its staleness" for n in METHODS)
    text = f"""# Four processes beside one

By `make bench-distributed`. Digits, 64-32-10 with ReLU, SGD of rate 0.1, batches of 32, {options.steps} steps of each of three
workers and a server over gloo; the centre's accuracy on 400 test images. A seed fixes initial weights and order of data; the
interleaving of the processes is what it happens to be. Serial: one process with the batches of worker 0, after as many steps as one
worker takes, and after as many gradients as all take together. Reached: the 95 % interval (Student's t) of the mean difference does
not lie below zero, and the mean is at most one point below.

| seed | serial | serial, 3 x steps | {columns} |
|---|---|---|{"---|---|" * len(METHODS)}
{chr(10).join(lines)}

| method | beside one process after | difference in points | serial accuracy |
|---|---|---|---|
{chr(10).join(verdicts)}
"""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text)


if __name__ == "__main__":
    main()
