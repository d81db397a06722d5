"""What the monitors of the default cost: a training step with them over one without, in alternating blocks of one run.

    OMP_NUM_THREADS=1 python benchmarks/monitor_overhead.py [--blocks 40] [--runs 3]

Processor time of the thread, median over pairs of neighbouring blocks with its quartiles: other work on the machine disturbs single
pairs. The first steps are all looked at, later ones in part: a run of a few hundred steps pays in nearly every one of them, a longer one
less and less. The monitor of Adam-type methods by itself, and all theories that ``watch`` asks by default, without the rest of the
observer.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from overhead import mlp, small_cnn

from steepest.monitors.observed import AdamTypeProbe, cheap_probes
from steepest.probes.events import LossPoint, Step
from steepest.watch import WatchedRun

BLOCK = 5


def ratio(make, batch: int, blocks: int, probes) -> tuple[float, list[float]]:
    """Milliseconds of a bare step, and the quartiles of the ratio over pairs of blocks."""
    torch.manual_seed(0)
    net, shape = make()
    x, y = torch.randn(batch, *shape), torch.randint(10, (batch,))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    run, done = WatchedRun(), 0
    for probe in probes:
        probe.start(run)
    spent = {False: [], True: []}
    for block in range(2 * blocks + 2):
        watched = (block % 2 == 0) ^ (block // 2 % 2 == 0)
        begin = time.thread_time()
        for _ in range(BLOCK):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            value = loss.item()
            event = Step(done, False, optimizer, 0, done, (value,), 1, True)
            if watched:
                run.add_loss(LossPoint(done, value, 0, batch))
                done += 1
                with torch.no_grad():
                    for probe in probes:
                        probe.before_step(event)
            optimizer.step()
            if watched:
                with torch.no_grad():
                    for probe in probes:
                        probe.after_step(event)
        if block >= 2:
            spent[watched].append(time.thread_time() - begin)
    pairs = [a / b for a, b in zip(spent[True], spent[False], strict=True)]
    return 1e3 * statistics.median(spent[False]) / BLOCK, statistics.quantiles(pairs, n=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=40, help="pairs of blocks, at least 2")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, make, batch in (("small CNN", small_cnn, 64), ("MLP of 2 million", mlp, 64)):
        for _ in range(options.runs):
            step, alone = ratio(make, batch, options.blocks, (AdamTypeProbe(),))
            _, over = ratio(make, batch, options.blocks, cheap_probes())
            print(
                f"{name}: {step:.1f} ms a step, {text(alone)} with the monitor of Adam-type methods, {text(over)} with all by default",
                flush=True,
            )


def text(quartiles: list[float]) -> str:
    return f"{quartiles[1]:.3f}x [{quartiles[0]:.3f}, {quartiles[2]:.3f}]"


if __name__ == "__main__":
    main()
