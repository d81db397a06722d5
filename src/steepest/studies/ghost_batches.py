"""Batch normalisation as a regulariser: the size that normalises, apart from the size that the optimizer averages over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from steepest.layers import with_ghost_batches_
from steepest.results import Claim, Figure
from steepest.studies.covariate_shift import network
from steepest.studies.digits import load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import orders
from steepest.studies.study import Findings, Progress, Study, seeded
from steepest.studies.verdicts import above, mean_interval, text, together


@dataclass(frozen=True)
class _End:
    """Of one run: training and test loss with the running statistics, and the test error."""

    training: float
    test: float
    error: float


@dataclass(frozen=True)
class GhostBatches(Study):
    """A dense network trained to fit few digits, with ghost batches of several sizes and two batch sizes of the optimizer.

    Args:
        steps: of SGD with momentum 0.9.
        train: training images; few, so that there is something to over-fit.
        batches: sizes that the optimizer averages over; the last one is the largest.
        ghosts: sizes that normalise, increasing; those above a batch size are left out there.
        rate: of the optimizer.
        depth, width: of the network.
    """

    name: ClassVar[str] = "ghost-batches"
    question: ClassVar[str] = "Does batch normalisation regularise, and less so the more samples normalise together?"
    seeds: int = 8
    steps: int = 200
    train: int = 320
    batches: tuple[int, ...] = (32, 160)
    ghosts: tuple[int, ...] = (4, 8, 16, 32, 80, 160)
    rate: float = 0.02
    depth: int = 3
    width: int = 64

    def measure(self, progress: Progress) -> Findings:
        """Train every pair of sizes."""
        jobs = [(b, g) for b in self.batches for g in (0, *self.ghosts) if g <= b]
        ends: dict[tuple[int, int], list[_End]] = {}
        for k, (batch, ghost) in enumerate(jobs):
            progress(f"batch {batch}, ghost batches of {ghost}" if ghost else f"batch {batch}, no normalisation", k / len(jobs))
            ends[batch, ghost] = [self._train(seed, batch, ghost) for seed in range(self.seeds)]
        largest = self.batches[-1]
        ghosts = [g for g in self.ghosts if g <= largest]
        gaps = {g: [e.test - e.training for e in ends[largest, g]] for g in (0, *ghosts)}
        gap = mean_interval([a - b for a, b in zip(gaps[0], gaps[ghosts[-1]], strict=True)])
        test = mean_interval([a.test - b.test for a, b in zip(ends[largest, 0], ends[largest, ghosts[-1]], strict=True)])
        small = mean_interval([a.test - b.test for a, b in zip(ends[largest, ghosts[-1]], ends[largest, ghosts[1]], strict=True)])
        fit = mean_interval([_slope(ghosts[1:], [ends[largest, g][s].training for g in ghosts[1:]]) for s in range(self.seeds)])
        slope = mean_interval([_slope(ghosts[1:], [gaps[g][s] for g in ghosts[1:]]) for s in range(self.seeds)])
        common = [g for g in self.ghosts[1:] if g <= self.batches[0]]
        across = {b: [_slope(common, [_gap(ends[b, g][s]) for g in common]) for s in range(self.seeds)] for b in self.batches}
        both = {f"batch {b}": mean_interval(v) for b, v in across.items()}
        return Findings(
            f"{self.depth} dense layers of {self.width}, {self.train} of scikit-learn's digits to train on, the others to "
            f"test; {self.steps} steps of SGD, rate {self.rate:g}, momentum 0.9; losses with running statistics",
            (
                Claim(
                    "Batch normalisation regularises: the gap between test and training loss is smaller with it, at the full batch.",
                    "Ioffe and Szegedy 2015, section 3.4",
                    f"The gap without less the gap with statistics of {ghosts[-1]} samples, in nats, is above 0.01.",
                    above(gap, 0.01),
                    f"The gap is {text(gap)} nats larger without; the test loss {text(test)} nats.",
                    {"gap, none - batch": gap, "test loss, none - batch": test},
                ),
                Claim(
                    "It regularises less the more samples normalise together, the optimizer's batch being the same.",
                    "Luo et al. 2019, section 3; Hoffer et al. 2017, section 4",
                    "The gap between test and training loss grows by more than 0.002 nats with each doubling of the ghost batch.",
                    above(slope, 0.002),
                    f"A doubling changes the gap by {text(slope)} nats, and the training loss by {text(fit)}.",
                    {"gap per doubling": slope, "training loss per doubling": fit},
                ),
                Claim(
                    f"Ghost batches of {ghosts[1]} generalise better than normalising the full batch of {largest}.",
                    "Hoffer et al. 2017, section 4 and table 1",
                    "The test loss of the full batch less that of the ghost batches, in nats, is above 0.01.",
                    above(small, 0.01),
                    f"The test loss of the full batch is larger by {text(small)} nats.",
                    {"test loss, full - ghost": small},
                ),
                Claim(
                    "It is the size that normalises which matters, whatever the optimizer's batch.",
                    "Hoffer et al. 2017, section 4",
                    "The second claim's rule at each batch size of the optimizer, over ghost batches that fit into all of them.",
                    together(above(i, 0.002) for i in both.values()),
                    "A doubling of the ghost batch changes the gap by "
                    + "; ".join(f"{text(i)} nats at {name}" for name, i in both.items())
                    + ".",
                    {f"gap per doubling, {name}": i for name, i in both.items()},
                ),
            ),
            tuple(
                Figure(
                    title,
                    "samples that normalise together",
                    quantity,
                    tuple(
                        band(f"batch {b}", gs := [g for g in self.ghosts if g <= b], [[pick(e) for e in ends[b, g]] for g in gs])
                        for b in self.batches
                    )
                    + tuple(
                        band(
                            f"batch {b}, none",
                            [self.ghosts[0], self.ghosts[-1]],
                            [[pick(e) for e in ends[b, 0]]] * 2,
                        )
                        for b in self.batches[-1:]
                    ),
                    log_x=True,
                    caption="The level line is the same network without normalisation.",
                )
                for title, quantity, pick in (
                    ("Gap between test and training loss", "nats", _gap),
                    ("Test loss", "nats", lambda e: e.test),
                    ("Training loss, with running statistics", "nats", lambda e: e.training),
                )
            ),
        )

    def _train(self, seed: int, batch: int, ghost: int) -> _End:
        data = load_digits(self.train)
        model = seeded(lambda: network(self.depth, self.width, ghost > 0), seed)
        if ghost:
            with_ghost_batches_(model, ghost)
        optimizer = torch.optim.SGD(model.parameters(), self.rate, momentum=0.9)
        for rows in orders([seed], self.train, batch, self.steps)[0]:
            optimizer.zero_grad()
            functional.cross_entropy(model(data.x[rows]), data.y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            answers = model(data.test_x)
            return _End(
                _loss(model, data.x, data.y),
                functional.cross_entropy(answers, data.test_y).item(),
                (answers.argmax(1) != data.test_y).double().mean().item(),
            )


def _loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return functional.cross_entropy(model(x), y).item()


def _gap(end: _End) -> float:
    return end.test - end.training


def _slope(sizes: list[int], values: list[float]) -> float:
    """Least squares against the logarithm to base 2."""
    x = [math.log2(s) for s in sizes]
    middle, mean = sum(x) / len(x), sum(values) / len(values)
    return sum((a - middle) * (v - mean) for a, v in zip(x, values, strict=True)) / sum((a - middle) ** 2 for a in x)
