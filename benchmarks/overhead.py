"""What watching costs: the time of a training step with the default probes over the time of one without, paired.

The same training runs in blocks of steps, alternately watched and not, in one process on one thread; the blocks of both kinds
are the same length and take turns at going first. Time is processor time of the process, which other work on the machine hardly
disturbs. The ratio of the whole run is the sum over its watched blocks by the sum over the others.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from steepest.monitors.observed import cheap_probes
from steepest.probes.defaults import default_probes
from steepest.watch.hooks import Hooks
from steepest.watch.observer import Observer
from steepest.watch.run import WatchedRun
from steepest.watch.schedule import Schedule

BLOCK = 10


def small_cnn() -> tuple[nn.Module, tuple[int, ...]]:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )
    return net, (1, 28, 28)


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 200), nn.ReLU(), nn.Linear(200, 10)
    ), (784,)


def training(make: Callable[[], tuple[nn.Module, tuple[int, ...]]], batch: int) -> Callable[[], None]:
    """One step of training on random data with a rule in it."""
    torch.manual_seed(0)
    net, shape = make()
    x = torch.randn(64 * batch, *shape)
    y = (x.flatten(1)[:, :10] + 0.1 * torch.randn(len(x), 10)).argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    order = torch.randperm(len(x))
    done = 0

    def step() -> None:
        nonlocal done
        rows = order[done % 64 * batch :][:batch]
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        loss.item()
        done += 1

    return step


def measure(
    make: Callable[[], tuple[nn.Module, tuple[int, ...]]], steps: int, batch: int, probes: bool
) -> tuple[list[float], list[float], WatchedRun, float]:
    """Seconds of the watched blocks and of the others, in order, the run, and seconds at its end."""
    step, control = training(make, batch), training(make, batch)
    for _ in range(5):
        control()
    run = WatchedRun()
    observer = Observer(run, (*default_probes(), *cheap_probes()) if probes else (), Schedule())
    watched: list[float] = []
    alone: list[float] = []
    chance = random.Random(0)

    def watch_block() -> None:
        hooks = Hooks(observer)
        try:
            watched.append(timed(step))
        finally:
            hooks.remove()

    def free_block() -> None:
        start = time.perf_counter()
        alone.append(timed(control))
        # The observer's budget is a share of the time in which it watches.
        observer.began += time.perf_counter() - start

    for _ in range(steps // BLOCK):
        blocks = [watch_block, free_block]
        chance.shuffle(blocks)
        for block in blocks:
            block()
    start = time.process_time()
    observer.finish()
    return watched, alone, run, time.process_time() - start


def timed(step: Callable[[], None]) -> float:
    start = time.process_time()
    for _ in range(BLOCK):
        step()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600, help="of each kind")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("-o", "--out", type=Path, help="write the table as Markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# What watching costs",
        "",
        f"{options.steps} steps watched and {options.steps} not, in turns of {BLOCK}, batch {options.batch}, one thread, "
        f"processor time; torch {torch.__version__}. The last column is what the probes do once, when the run has ended.",
        "",
        "| training | ms a step | hooks alone | default probes, whole run | first 100 steps | after them | median of pairs "
        "| s at the end |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, make in {"small CNN": small_cnn, "MLP, 2 M parameters": mlp}.items():
        bare, alone, _, _ = measure(make, options.steps // 2, options.batch, probes=False)
        hooks = sum(bare) / sum(alone)
        watched, alone, run, end = measure(make, options.steps, options.batch, probes=True)
        early = 100 // BLOCK
        pairs = [w / a for w, a in zip(watched[early:], alone[early:], strict=True)]
        cells = [
            name,
            f"{1e3 * sum(alone) / len(alone) / BLOCK:.2f}",
            f"{hooks:.3f}",
            f"{sum(watched) / sum(alone):.3f}",
            f"{sum(watched[:early]) / sum(alone[:early]):.3f}",
            f"{sum(watched[early:]) / sum(alone[early:]):.3f}",
            f"{statistics.median(pairs):.3f}",
            f"{end:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], *run.notes, sep="\n")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
