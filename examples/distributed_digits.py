"""Train a small network on scikit-learn's digits with several processes, and compare with one.

    torchrun --nproc-per-node 4 examples/distributed_digits.py --method easgd
    python -m steepest.distributed.launch -n 4 examples/distributed_digits.py --method downpour

Rank 0 serves the parameters, the others train; with ``--method local`` and ``hogwild`` all train. Under ``steepest.distributed.launch``
a killed worker does not stop the others. Needs ``pip install 'steepest[example]'``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

from steepest.distributed import EASGD, Averaged, Checkpoints, DelayCompensated, Downpour, Shuffled, join, share


@dataclass(frozen=True, eq=False)
class Digits:
    """Training and test data in [0, 1]."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def accuracy(self, model: nn.Module) -> float:
        with torch.no_grad():
            return (model(self.test_x).argmax(1) == self.test_y).double().mean().item()


def digits() -> Digits:
    data = load_digits()
    x, y = torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:400], order[400:]
    return Digits(x[train], y[train], x[test], y[test])


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def gradient(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()


def sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Digits with several processes.")
    parser.add_argument("--method", choices=["easgd", "downpour", "compensated", "hogwild", "local"], default="easgd")
    parser.add_argument("--steps", type=int, default=1500, help="of each worker")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and of the order of the data")
    parser.add_argument("--checkpoints", help="folder, for --method local")
    options = parser.parse_args()

    dist.init_process_group("gloo")
    rank, data, model = dist.get_rank(), digits(), network(options.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = Shuffled(data.x, data.y, size=32, seed=options.seed)

    if options.method == "hogwild":
        share(model)
        for step in range(options.steps):
            gradient(model, optimizer, batches(rank, step))
            optimizer.step()
        dist.barrier()
    elif options.method == "local":
        folder = Checkpoints(options.checkpoints, every=50) if options.checkpoints else None
        descent = Averaged(model, optimizer, PeriodicModelAverager(period=8), folder)
        for step in range(descent.steps, options.steps):
            gradient(model, optimizer, batches(rank, step))
            descent.step()
    else:
        workers = dist.get_world_size() - 1
        method = {
            "easgd": EASGD(alpha=0.9 / max(workers, 1), tau=4),
            "downpour": Downpour(sgd),
            "compensated": DelayCompensated(sgd, strength=0.04),
        }[options.method]
        member = join(method, model, optimizer)
        if member.serving:
            served = member.serve()
            print(
                f"{len(served.staleness)} updates, mean staleness {sum(served.staleness) / len(served.staleness):.2f}, lost {served.lost}"
            )
        else:
            with member:
                for step in range(options.steps):
                    gradient(model, optimizer, batches(rank - 1, step))
                    member.step()

    if rank == 0:
        print(f"{options.method}: accuracy {data.accuracy(model):.4f} with {dist.get_world_size()} processes")
        serial = network(options.seed)
        optimizer = torch.optim.SGD(serial.parameters(), lr=0.1)
        for step in range(options.steps):
            gradient(serial, optimizer, batches(0, step))
            optimizer.step()
        print(f"serial: accuracy {data.accuracy(serial):.4f} after as many steps as one worker")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
