"""Where Adam diverges and AMSGrad and AdaFom do not, and what the convergence monitor says of each run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steepest.monitors import AdamTypeMonitor
from steepest.optim import AdaFom
from steepest.results import Claim, Figure, Interval
from steepest.results.convergence import Verdict as Convergence
from steepest.studies.figures import band
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import above, below, mean_interval, text, together


@dataclass(frozen=True)
class Problem:
    """One coordinate, one gradient a step.

    Args:
        name: of the problem.
        gradient: at x, in step 0, 1, ..., from a generator of its own.
        objective: the mean loss at x.
        box: x is projected onto ``[-box, box]``.
    """

    name: str
    gradient: Callable[[Tensor, int, torch.Generator], Tensor]
    objective: Callable[[float], float]
    box: float


def _cyclic(x: Tensor, t: int, generator: torch.Generator) -> Tensor:
    return torch.full_like(x, 3.0 if t % 3 == 0 else -1.0)


def _stochastic(x: Tensor, t: int, generator: torch.Generator) -> Tensor:
    return torch.full_like(x, 3.0 if float(torch.rand((), generator=generator)) < 0.3 else -1.0)


def _eleven(x: Tensor, t: int, generator: torch.Generator) -> Tensor:
    return 11.0 * x if t % 11 == 0 else -x


PROBLEMS = (
    # 3x once in three steps and -x twice, on [-1, 1]: the mean is x / 3.
    Problem("Reddi, in turn", _cyclic, lambda x: x / 3.0, 1.0),
    # 3x with probability 0.3, else -x: the mean is 0.2 x.
    Problem("Reddi, at random", _stochastic, lambda x: 0.2 * x, 1.0),
    # 5.5 x^2 once in eleven steps and -x^2 / 2 ten times: the mean is x^2 / 22.
    Problem("Chen, eleven functions", _eleven, lambda x: x * x / 22.0, math.inf),
)

METHODS: dict[str, Callable[[list[Tensor], float], Optimizer]] = {
    "Adam": lambda p, rate: Adam(p, rate, (0.0, 0.1)),
    "AMSGrad": lambda p, rate: Adam(p, rate, (0.0, 0.1), amsgrad=True),
    "AdaFom": lambda p, rate: AdaFom(p, rate, beta1=0.0),
}


@dataclass(frozen=True)
class _Run:
    """The objective at some steps, and the monitor's verdict."""

    steps: tuple[int, ...]
    values: tuple[float, ...]
    verdict: Convergence

    @property
    def rise(self) -> float:
        """From the start to the end."""
        return self.values[-1] - self.values[0]


@dataclass(frozen=True)
class AdamDivergence(Study):
    """Problems of one coordinate on which Adam with beta = (0, 0.1) and falling rates goes the wrong way.

    Args:
        steps: of each run; one less than a power of two makes the last window complete.
        rate: at the first step; it falls like ``1 / sqrt(t)``.
    """

    name: ClassVar[str] = "adam-divergence"
    question: ClassVar[str] = "Does Adam diverge where AMSGrad and AdaFom converge, and can one tell from the run?"
    seeds: int = 5
    steps: int = 2047
    rate: float = 0.1

    def measure(self, progress: Progress) -> Findings:
        """Every method on every problem, from starts that the seeds give."""
        jobs = [(p, m) for p in PROBLEMS for m in METHODS]
        runs: dict[tuple[str, str], list[_Run]] = {}
        for k, (problem, method) in enumerate(jobs):
            progress(f"{problem.name}, {method}", k / len(jobs))
            runs[problem.name, method] = [self._descend(problem, method, seed) for seed in range(self.seeds)]
        rises = {key: mean_interval([r.rise for r in found]) for key, found in runs.items()}
        told = {
            "Adam": mean_interval([_share(runs, ("Adam",), s, (Convergence.FAILED,)) for s in range(self.seeds)]),
            "AMSGrad and AdaFom": mean_interval([_share(runs, ("AMSGrad", "AdaFom"), s, (Convergence.MET,)) for s in range(self.seeds)]),
        }
        wrong = mean_interval([_share(runs, ("Adam",), s, (Convergence.MET,)) for s in range(self.seeds)])
        adam = {p.name: rises[p.name, "Adam"] for p in PROBLEMS}
        others = {f"{m}, {p.name}": rises[p.name, m] for p in PROBLEMS for m in ("AMSGrad", "AdaFom")}
        return Findings(
            f"one coordinate, {self.steps} steps at {self.rate:g} / sqrt(t), beta = (0, 0.1), starts uniform in [0.2, 0.8]",
            (
                Claim(
                    "Adam moves away from the optimum, at rates that fall.",
                    "Reddi, Kale and Kumar 2018, theorems 1 and 3; Chen et al. 2019, section 3.2",
                    "The mean loss at the end less that at the start is above 0.02 on each problem.",
                    together(above(i, 0.02) for i in adam.values()),
                    "The loss rises by " + _list(adam) + ".",
                    adam,
                ),
                Claim(
                    "AMSGrad and AdaFom move towards it on the same problems.",
                    "Reddi, Kale and Kumar 2018, theorem 4; Chen et al. 2019, corollaries 3.1 and 3.2",
                    "The mean loss at the end less that at the start is below 0 on each problem.",
                    together(below(i, 0.0) for i in others.values()),
                    "The loss changes by " + _list(others) + ".",
                    others,
                ),
                Claim(
                    "The growth of the terms A, B and B' against the sum of effective steps tells the ones from the others.",
                    "Chen et al. 2019, section 3",
                    "More than 0.8 of Adam's runs are 'failed', more than 0.8 of the others' 'met so far', fewer than 0.01 of Adam's are.",
                    together([*(above(i, 0.8) for i in told.values()), below(wrong, 0.01)]),
                    f"Failed: {text(told['Adam'])} of Adam's; met: {text(told['AMSGrad and AdaFom'])} of the others', "
                    f"{text(wrong)} of Adam's.",
                    {"Adam, failed": told["Adam"], "AMSGrad and AdaFom, met": told["AMSGrad and AdaFom"], "Adam, met": wrong},
                ),
            ),
            tuple(_figure(p, runs) for p in PROBLEMS),
        )

    def _descend(self, problem: Problem, method: str, seed: int) -> _Run:
        generator = torch.Generator().manual_seed(seed)
        start = 0.2 + 0.6 * float(torch.rand((), generator=generator))
        x = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
        optimizer = METHODS[method]([x], self.rate)
        monitor = AdamTypeMonitor(optimizer, dense=1024)
        schedule = LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
        steps, values = [0], [problem.objective(start)]
        for t in range(self.steps):
            x.grad = problem.gradient(x.detach(), t, generator)
            optimizer.step()
            schedule.step()
            x.data.clamp_(-problem.box, problem.box)
            value = problem.objective(x.item())
            monitor.record_loss(value)
            if (t + 1) % max(1, self.steps // 40) == 0 or t + 1 == self.steps:
                steps.append(t + 1)
                values.append(value)
        return _Run(tuple(steps), tuple(values), monitor.report().verdict)


def _share(runs: dict[tuple[str, str], list[_Run]], methods: tuple[str, ...], seed: int, verdicts: tuple[Convergence, ...]) -> float:
    found = [r[seed].verdict in verdicts for (_, method), r in runs.items() if method in methods]
    return sum(found) / len(found)


def _list(intervals: dict[str, Interval]) -> str:
    return "; ".join(f"{text(i)} ({name})" for name, i in intervals.items())


def _figure(problem: Problem, runs: dict[tuple[str, str], list[_Run]]) -> Figure:
    series = []
    for method in METHODS:
        found = runs[problem.name, method]
        series.append(band(method, found[0].steps, list(zip(*(r.values for r in found), strict=True))))
    return Figure(problem.name, "steps", "mean loss", tuple(series))
