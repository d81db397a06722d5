"""Problems on which the rule of the verdict is scored, in three parts: each was looked at only after the rule was fixed on those before.

Many seeds descend at once: a method of Adam's type works coordinate by coordinate, so the seeds are rows of one parameter. What the
monitor would say of each row comes from the product's own pieces (``test_held_out.py`` holds it equal to the monitor's report), and the
run goes on for long enough to see what in fact becomes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adagrad, Adam, NAdam, Optimizer, RMSprop

from steepest.monitors.adam_type_verdict import judge
from steepest.monitors.effective_step import rule
from steepest.monitors.windows import BLOCKS, Closed, Sampling, mean_and_error, moments_of
from steepest.optim import AdaFom
from steepest.results.convergence import AdamTypeReport

Oracle = Callable[[Tensor, int, torch.Generator], tuple[Tensor, Tensor]]
"""From points ``[seeds, coordinates]``, a step 0, 1, ... and a generator: gradients, and the losses that the run would record."""

HORIZONS = (255, 1023)
LONG = 8191


@dataclass(frozen=True)
class Problem:
    """A family of stochastic or cyclic gradients with the same objective.

    Args:
        oracle: what the method sees.
        gap: of points ``[seeds, coordinates]``: the objective less its least value, ``[seeds]``.
        start: ``[seeds, coordinates]`` for a number of seeds and a generator.
        box: projection onto ``[-box, box]``.
        seeds: how many make sense: few where nothing is random but the start.
    """

    oracle: Oracle
    gap: Callable[[Tensor], Tensor]
    start: Callable[[int, torch.Generator], Tensor]
    box: float | None = None
    seeds: int = 50


class Fate(StrEnum):
    """What becomes of a run in the long run."""

    CONVERGES = "converges"
    SLOWLY = "falls slowly"
    STAYS = "stays at a level"
    AWAY = "moves away"


def fate(start: float, middle: float, late: float, ratio: float) -> Fate:
    """From the gap at the start, its means over the second quarter and the second half of a long run, and their ratio over all seeds.

    Moves away: it ends above its start and does not fall, nor do all seeds together.
    Converges: it falls with the rate (a level that stays would have the ratio 1),
    or has vanished. Slowly: all seeds together still fall.
    """
    if not math.isfinite(late) or (late > 1.05 * start and late >= 0.99 * middle and ratio > 0.95):
        return Fate.AWAY
    if late <= 0.85 * middle or ratio <= 0.85 or late <= 1e-3 * start:
        return Fate.CONVERGES
    return Fate.SLOWLY if ratio <= 0.99 else Fate.STAYS


def uniform(low: float, high: float, coordinates: int = 1) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, g: low + (high - low) * torch.rand(n, coordinates, generator=g, dtype=torch.float64)


def cyclic(c: float, period: int, coordinates: int = 1) -> Problem:
    """``c x`` once in ``period`` steps and ``-x`` else, on [-1, 1], phases of their own; the best x is -1 (Reddi et al.)."""
    slope, phases = (c - period + 1) / period, torch.arange(coordinates)

    def oracle(x: Tensor, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        each = torch.where((t + phases) % period == 0, float(c), -1.0).double().expand_as(x)
        return each.clone(), (each * x).sum(1)

    return Problem(oracle, lambda x: slope * (x + 1.0).sum(1), uniform(-0.6, 0.8, coordinates), 1.0, seeds=8)


def at_random(c: float, d: float, p: float, coordinates: int = 1) -> Problem:
    """``c x`` with probability p, else ``-d x``, on [-1, 1], where the mean slope is positive (Reddi et al.)."""
    slope = p * c - (1 - p) * d
    assert slope > 0

    def oracle(x: Tensor, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        each = torch.where(torch.rand(x.shape, generator=g, dtype=x.dtype) < p, float(c), -float(d)).to(x.dtype)
        return each, (each * x).sum(1)

    return Problem(oracle, lambda x: slope * (x + 1.0).sum(1), uniform(-0.5, 0.5, coordinates), 1.0)


def sums_of_parabolas(n: int, coordinates: int, random: bool) -> Problem:
    """``n x^2 / 2`` once in n steps and ``-x^2 / 2`` else, in turn or at random: the mean is ``x^2 / 2n`` (Chen et al.: n = 11)."""

    def oracle(x: Tensor, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(n, (len(x), 1), generator=g) if random else torch.full((len(x), 1), t % n)
        curvature = torch.where(index == 0, float(n), -1.0).double()
        return curvature * x, 0.5 * (curvature * x * x).sum(1)

    return Problem(oracle, lambda x: x.square().sum(1) / (2 * n), uniform(0.5, 1.5, coordinates), seeds=50 if random else 8)


def quadratic(coordinates: int, condition: float, start: float, heavy: bool = False) -> Problem:
    """Eigenvalues from 1 / condition to 1, noise in every gradient: normal, or of Student's t with three degrees of freedom."""
    h = torch.logspace(-math.log10(condition), 0, coordinates, dtype=torch.float64)

    def oracle(x: Tensor, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn(x.shape, generator=g, dtype=x.dtype)
        if heavy:
            noise = noise / (torch.randn(3, *x.shape, generator=g, dtype=x.dtype).square().mean(0).sqrt())
        # The loss of the noisy quadratic h x^2 / 2 + noise x.
        return h * x + noise, (0.5 * h * x * x + noise * x).sum(1)

    return Problem(oracle, lambda x: 0.5 * (h * x * x).sum(1), lambda n, g: start * torch.ones(n, coordinates, dtype=torch.float64))


def logistic(seed: int, samples: int, coordinates: int, batch: int) -> Problem:
    """Regularised logistic regression on made-up data, in batches at random."""
    data = torch.Generator().manual_seed(seed)
    a = torch.randn(samples, coordinates, generator=data, dtype=torch.float64)
    w = torch.randn(coordinates, generator=data, dtype=torch.float64)
    y = torch.where(a @ w + 2 * torch.randn(samples, generator=data, dtype=torch.float64) > 0, 1.0, -1.0).double()
    rows, ridge = a * y[:, None], 0.01

    def objective(x: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-x @ rows.T).mean(1) + 0.5 * ridge * x.square().sum(1)

    best = torch.zeros(1, coordinates, dtype=torch.float64)
    for _ in range(30):
        s = torch.sigmoid(-rows @ best[0])
        gradient = -(rows * s[:, None]).mean(0) + ridge * best[0]
        hessian = rows.T @ (rows * (s * (1 - s))[:, None]) / samples + ridge * torch.eye(coordinates, dtype=torch.float64)
        best = best - torch.linalg.solve(hessian, gradient)[None]
    least = objective(best)

    def oracle(x: Tensor, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        taken = rows[torch.randint(samples, (len(x), batch), generator=g)]
        margin = (taken @ x[:, :, None])[:, :, 0]
        gradient = -(taken * torch.sigmoid(-margin)[:, :, None]).mean(1) + ridge * x
        return gradient, torch.nn.functional.softplus(-margin).mean(1) + 0.5 * ridge * x.square().sum(1)

    return Problem(oracle, lambda x: objective(x) - least, lambda n, g: torch.zeros(n, coordinates, dtype=torch.float64))


def digits(hidden: int, batch: int, relu: bool) -> Problem:
    """A network with one hidden layer on scikit-learn's digits, a start of its own for each seed; the least loss is taken as 0."""
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    x, y = torch.tensor(data / 16, dtype=torch.float64)[:300], torch.tensor(target)[:300]
    shapes = ((64, hidden), (1, hidden), (hidden, 10), (1, 10))

    def logits(w: Tensor, inputs: Tensor) -> Tensor:
        one, bias, two, last = (p.reshape(len(w), *s) for p, s in zip(w.split([a * b for a, b in shapes], 1), shapes, strict=True))
        between = inputs @ one + bias
        return (between.relu() if relu else between.tanh()) @ two + last

    def losses(w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits(w, inputs).flatten(0, 1), targets.flatten(), reduction="none").reshape(len(w), -1).mean(1)

    def oracle(w: Tensor, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (len(w), batch), generator=g)
        w = w.detach().requires_grad_()
        loss = losses(w, x[rows], y[rows])
        return torch.autograd.grad(loss.sum(), w)[0], loss.detach()

    def start(n: int, g: torch.Generator) -> Tensor:
        parts = [torch.randn(n, a * b, generator=g, dtype=torch.float64) / math.sqrt(a) * (a > 1) for a, b in shapes]
        return torch.cat(parts, 1)

    def gap(w: Tensor) -> Tensor:
        with torch.no_grad():
            return losses(w, x.expand(len(w), *x.shape), y.expand(len(w), -1))

    return Problem(oracle, gap, start, seeds=50)


Make = Callable[[list[Tensor], float], Optimizer]


def adam(beta1: float, beta2: float, amsgrad: bool = False) -> Make:
    return lambda p, a: Adam(p, a, (beta1, beta2), amsgrad=amsgrad)


METHODS: dict[str, Make] = {
    "Adam(0, .1)": adam(0.0, 0.1),
    "Adam(0, .9)": adam(0.0, 0.9),
    "Adam(.9, .99)": adam(0.9, 0.99),
    "Adam(.9, .999)": adam(0.9, 0.999),
    "NAdam(.9, .99)": lambda p, a: NAdam(p, a, (0.9, 0.99)),
    "RMSprop(.99)": lambda p, a: RMSprop(p, a, 0.99),
    "AMSGrad(0, .1)": adam(0.0, 0.1, True),
    "AMSGrad(.9, .999)": adam(0.9, 0.999, True),
    "AdaFom(.9)": lambda p, a: AdaFom(p, a, 0.9),
    "Adagrad": lambda p, a: Adagrad(p, a),
}
RATES: dict[str, Callable[[int], float]] = {"a / sqrt(t)": lambda t: (t + 1) ** -0.5, "a": lambda t: 1.0, "a / t": lambda t: 1 / (t + 1)}


@dataclass(frozen=True)
class Case:
    """One method at one rate on one problem."""

    family: str
    problem: str
    method: str
    rate: str
    a: float

    def __str__(self) -> str:
        return f"{self.problem}, {self.method}, {self.rate}, a = {self.a:g}"


_FAMILIES: dict[str, tuple[tuple[tuple[str, Callable[[], Problem]], ...], ...]] = {
    "Reddi, in turn": (
        (("C = 5 of 3", lambda: cyclic(5, 3)), ("C = 2 of 2", lambda: cyclic(2, 2)), ("C = 6 of 5, 4-d", lambda: cyclic(6, 5, 4))),
        (
            ("C = 10 of 3", lambda: cyclic(10, 3)),
            ("C = 2.5 of 3, 5-d", lambda: cyclic(2.5, 3, 5)),
            ("C = 12 of 10", lambda: cyclic(12, 10)),
        ),
    ),
    "Reddi, at random": (
        (("5, p = .2", lambda: at_random(5, 1, 0.2)), ("20, p = .06, 3-d", lambda: at_random(20, 1, 0.06, 3))),
        (("1010 and -10", lambda: at_random(1010, 10, 0.01)), ("3, p = .35, 6-d", lambda: at_random(3, 1, 0.35, 6))),
        (("200 and -4", lambda: at_random(200, 4, 0.03)), ("40, p = .03, 2-d", lambda: at_random(40, 1, 0.03, 2))),
    ),
    "Chen, parabolas": (
        (
            ("6 in turn", lambda: sums_of_parabolas(6, 1, False)),
            ("21 in turn, 3-d", lambda: sums_of_parabolas(21, 3, False)),
            ("6 at random, 2-d", lambda: sums_of_parabolas(6, 2, True)),
        ),
        (
            ("8 in turn, 2-d", lambda: sums_of_parabolas(8, 2, False)),
            ("15 in turn", lambda: sums_of_parabolas(15, 1, False)),
            ("15 at random, 4-d", lambda: sums_of_parabolas(15, 4, True)),
        ),
    ),
    "noisy quadratic": (
        (("10-d, condition 10", lambda: quadratic(10, 10, 1.0)), ("10-d, from the optimum", lambda: quadratic(10, 10, 0.0))),
        (
            ("40-d, condition 100, heavy tails", lambda: quadratic(40, 100, 1.0, True)),
            ("40-d, from the optimum", lambda: quadratic(40, 30, 0.0)),
            ("1-d", lambda: quadratic(1, 1, 2.0)),
        ),
        (("2-d", lambda: quadratic(2, 3, 3.0)), ("1-d, heavy tails", lambda: quadratic(1, 1, 0.5, True))),
    ),
    "logistic regression": (
        (("20-d, batches of 10", lambda: logistic(0, 300, 20, 10)),),
        (("50-d, batches of 32", lambda: logistic(1, 500, 50, 32)),),
    ),
    "digits MLP": (
        (("8 tanh, batches of 16", lambda: digits(8, 16, False)),),
        (("10 relu, batches of 16", lambda: digits(10, 16, True)),),
    ),
}
_HARD = ("Reddi, in turn", "Reddi, at random", "Chen, parabolas")
_HEALTHY = ("Adam(.9, .999)", "RMSprop(.99)", "AMSGrad(.9, .999)", "AdaFom(.9)")
_STEP = {"noisy quadratic": 0.02, "logistic regression": 0.02, "digits MLP": 0.003}


def cases(part: int) -> Iterator[Case]:
    """All of a part: 0, on which the rule was made, 1, after which "met" was given one window more, 2, seen last."""
    for family, halves in _FAMILIES.items():
        for name, _ in halves[part] if part < len(halves) else ():
            if family in _HARD:
                a = (0.1, 0.3, 0.2)[part]
                for method in METHODS:
                    yield Case(family, name, method, "a / sqrt(t)", a)
                for method in ("Adam(.9, .99)", "AMSGrad(0, .1)"):
                    yield Case(family, name, method, "a", a / 10)
                for method in ("Adam(0, .1)", "AdaFom(.9)"):
                    yield Case(family, name, method, "a / t", 3 * a)
            else:
                for method in _HEALTHY:
                    a = _STEP[family]
                    yield Case(family, name, method, "a / sqrt(t)", a * 5)
                    yield Case(family, name, method, "a", a)


@dataclass(frozen=True)
class Scored:
    """What the monitor said of each seed at each horizon, with recorded losses and without (silent), and what became of it."""

    case: Case
    reports: dict[int, tuple[AdamTypeReport, ...]]
    silent: dict[int, tuple[AdamTypeReport, ...]]
    levels: Tensor

    @property
    def fates(self) -> tuple[Fate, ...]:
        """Of each seed, from ``levels``: the gap at the start, over the second quarter, over the second half."""
        ratio = float(self.levels[2].mean() / self.levels[1].mean())
        return tuple(fate(start, middle, late, ratio) for start, middle, late in self.levels.T.tolist())


def score(case: Case, *, seeds: int | None = None, long: int | None = None, dense: int = 256) -> Scored:
    """Run a case."""
    problem = dict(found for half in _FAMILIES[case.family] for found in half)[case.problem]()
    long = long or (LONG if case.family in _HARD else LONG // 2)
    n, generator = seeds or problem.seeds, torch.Generator().manual_seed(0)
    x = torch.nn.Parameter(problem.start(n, generator))
    optimizer = METHODS[case.method]([x], case.a)
    group, rate = optimizer.param_groups[0], RATES[case.rate]
    watched = Rows(optimizer, x, dense)
    begin = problem.gap(x.detach())
    sums = torch.zeros(2, n, dtype=torch.float64)
    reports, silent = {}, {}
    for t in range(long):
        group["lr"] = case.a * rate(t)
        with torch.no_grad() if not case.family.startswith("digits") else torch.enable_grad():
            x.grad, loss = problem.oracle(x.detach(), t, generator)
        if t < HORIZONS[-1]:
            watched.before()
        optimizer.step()
        if t < HORIZONS[-1]:
            watched.after(loss)
        if problem.box is not None:
            x.data.clamp_(-problem.box, problem.box)
        if t + 1 in HORIZONS:
            reports[t + 1], silent[t + 1] = watched.reports(), watched.reports(losses=False)
        # Every thirteenth point, out of step with the cycles.
        if t >= long // 4 and t % 13 == 0:
            sums[int(t >= long // 2)] += problem.gap(x.detach())
    levels = torch.stack([begin, sums[0] / (long / 4 / 13), sums[1] / (long / 2 / 13)])
    return Scored(case, reports, silent, levels)


class Rows:
    """The monitor of Adam-type methods for each row of one parameter."""

    def __init__(self, optimizer: Optimizer, x: Tensor, dense: int) -> None:
        self.optimizer, self.x, self.rule, self.sampling = optimizer, x, rule(optimizer), Sampling(dense)
        self.steps = 0
        self.largest = torch.zeros_like(x)
        self.effective: Tensor | None = None
        self.rate = self.latest = float("nan")
        self.last = -1
        self.closed: list[list[Closed]] = [[] for _ in range(len(x))]
        self._open(1)

    def before(self) -> None:
        self.steps += 1
        if self.sampling.takes(self.steps):
            if self.last != self.steps - 1:
                self.effective = self._scale(self.rate) if self.steps > 1 else None
            self.start = self.x.detach().clone()

    @torch.no_grad()
    def after(self, loss: Tensor) -> None:
        group, g = self.optimizer.param_groups[0], self.x.grad
        assert g is not None
        self.losses.append(loss)
        if self.sampling.takes(self.steps):
            seen = self.largest > 0
            self.largest = torch.maximum(self.largest, g.abs())
            effective = self._scale(float(group["lr"]))
            change = torch.zeros_like(g) if self.effective is None else torch.where(seen, effective - self.effective, 0.0)
            least = self.rule.least(group, self.largest.amax(1), float(self.steps))
            a = (effective * g).square().sum(1)
            self.terms += torch.stack([a, change.abs().sum(1), change.square().sum(1), least], 1)
            block = (self.steps - self.first) * BLOCKS // self.first
            self.counts[block] += 1
            self.gradients[block] += g
            self.moves[block] += self.x.detach() - self.start
            self.effective, self.last = effective, self.steps
        self.rate = float(group["lr"])
        if self.steps + 1 == 2 * self.first:
            self._close()

    def reports(self, losses: bool = True) -> tuple[AdamTypeReport, ...]:
        group = self.optimizer.param_groups[0]
        momentum = float(group["betas"][0]) if "betas" in group else float(group.get("beta1", 0.0))
        return tuple(
            judge(
                "",
                self.steps,
                [w.read(1.0) if losses else replace(w.read(1.0), loss=None, loss_error=None) for w in windows],
                (),
                forgets=self.rule.forgets(group),
                largest=float(largest),
                momentum=momentum,
                smoothness=0.0,
            )
            for windows, largest in zip(self.closed, self.largest.amax(1), strict=True)
        )

    def _scale(self, rate: float) -> Tensor:
        group = {**self.optimizer.param_groups[0], "lr": rate}
        state = self.optimizer.state[self.x]
        v = self.rule.moment(group, state)
        assert v is not None
        return self.rule.step(group, v.double(), float(state["step"]))

    def _open(self, first: int) -> None:
        n = len(self.x)
        self.first = first
        self.terms = torch.zeros(n, 4, dtype=torch.float64)
        self.gradients, self.moves = torch.zeros(2, BLOCKS, *self.x.shape, dtype=torch.float64)
        self.counts, self.losses = [0] * BLOCKS, []

    def _close(self) -> None:
        counts = torch.tensor(self.counts, dtype=torch.float64)[:, None, None]
        whole = self.first >= BLOCKS and all(self.counts)
        g, d = (self.gradients / counts, self.moves / counts) if whole else (self.gradients, self.moves)
        losses = torch.stack(self.losses, 1).tolist()
        for row, windows in enumerate(self.closed):
            moments = moments_of(g[:, row], d[:, row]) if whole else None
            windows.append(Closed(self.first, sum(self.counts), self.terms[row], moments, *mean_and_error(losses[row])))
        self._open(2 * self.first)
