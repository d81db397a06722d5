"""What the monitor of Adam-type methods costs: a training step with it over one without, in alternating blocks of one run.

Processor time of the process on one thread. The first steps are all looked at, later ones in part: ``dense`` as by default, so that a
run of up to that many steps pays in every one of them.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from overhead import mlp, small_cnn

from steepest.monitors import AdamTypeMonitor

BLOCK = 10


def ratio(make, batch: int, blocks: int) -> tuple[float, float]:
    """Milliseconds of a bare step, and the ratio."""
    torch.manual_seed(0)
    net, shape = make()
    x, y = torch.randn(batch, *shape), torch.randint(10, (batch,))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    monitor = AdamTypeMonitor(optimizer, attach=False)
    spent = {False: 0.0, True: 0.0}
    for block in range(2 * blocks + 2):
        watched = (block % 2 == 0) ^ (block // 2 % 2 == 0)
        begin = time.process_time()
        for _ in range(BLOCK):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            if watched:
                monitor.before_step()
            optimizer.step()
            if watched:
                monitor.after_step()
        if block >= 2:
            spent[watched] += time.process_time() - begin
    return 1e3 * spent[False] / blocks / BLOCK, spent[True] / spent[False]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, make, batch in (("small CNN", small_cnn, 64), ("MLP of 2 million", mlp, 64)):
        step, over = ratio(make, batch, options.blocks)
        print(f"{name}: {step:.1f} ms a step, {over:.3f}x with the monitor")


if __name__ == "__main__":
    main()
