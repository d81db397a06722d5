"""Warm-up: the variance of Adam's adaptive rate in its first steps, and whether it is why small steps are needed there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RAdam

from steepest.results import Claim, Figure, Interval, Series
from steepest.studies.adaptive_variance import effective_length, predicted_variance, sampled_variance
from steepest.studies.digits import load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, geometric, he_, seeded
from steepest.studies.transformer import RowsTransformer
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, text, together

_CHANCE = math.log(10)


@dataclass(frozen=True)
class _Runs:
    """Mean training losses of the last tenth of the steps, ``[rates][seeds]``, none above chance."""

    rates: tuple[float, ...]
    losses: list[list[float]]

    def usable(self, seed: int) -> float:
        """The largest rate whose loss is below half of chance, interpolated to the next one in logarithms.

        The largest of the grid where that is usable, the smallest where none is.
        """
        rows = [(math.log(r), math.log(row[seed] / (0.5 * _CHANCE))) for r, row in zip(self.rates, self.losses, strict=True)]
        last = max((k for k, (_, over) in enumerate(rows) if over < 0.0), default=None)
        if last is None or last + 1 == len(rows):
            return self.rates[0 if last is None else -1]
        (rate, over), (next_rate, next_over) = rows[last : last + 2]
        return math.exp(rate - over * (next_rate - rate) / (next_over - over))

    def best(self, seed: int) -> float:
        """The least loss over the rates."""
        return min(row[seed] for row in self.losses)


@dataclass(frozen=True)
class WarmUp(Study):
    """Transformers on the rows of digits, layer normalisation after or before the branches, and a plain ReLU network, over learning rates.

    A rate is usable where the mean training loss over the last tenth of the steps is finite and below half of chance, (ln 10) / 2; the
    largest usable one is interpolated between rates of the grid.

    Args:
        depth, width, heads: of the transformers.
        plain_depth, plain_width: hidden layers of the plain network.
        steps: of training; warm: those in which the rate rises in proportion to its value.
        batch: images in one.
        beta: Adam's second.
        low, high: Adam's grid of rates with normalisation after the branches; pre_low, pre_high: before them; sgd_low, sgd_high: that
            of SGD with momentum 0.9; ratio: of all.
        gathered: steps for which the moments are gathered before the parameters move.
        samples: gradients of the simulated variance; at: the steps at which it is taken.
    """

    name: ClassVar[str] = "warm-up"
    question: ClassVar[str] = "What does warm-up allow, and is the variance of Adam's adaptive rate the reason?"
    seeds: int = 8
    depth: int = 6
    width: int = 16
    heads: int = 2
    plain_depth: int = 6
    plain_width: int = 32
    steps: int = 200
    warm: int = 40
    batch: int = 16
    beta: float = 0.98
    low: float = 1e-3
    high: float = 10**-1.75
    pre_low: float = 10**-2.5
    pre_high: float = 0.1
    sgd_low: float = 0.01
    sgd_high: float = 0.32
    ratio: float = 10**0.25
    gathered: int = 40
    samples: int = 40000
    at: tuple[int, ...] = (6, 10, 20, 50, 100, 300)

    def measure(self, progress: Progress) -> Findings:
        """Simulate the variance; then train every method at every rate."""
        progress("the variance of the adaptive rate", 0.0)
        sampled = [sampled_variance(self.beta, self.at, self.samples, seed) for seed in range(self.seeds)]
        runs: dict[str, _Runs] = {}
        jobs = self._jobs()
        for k, (name, job) in enumerate(jobs.items()):
            progress(name, 0.05 + 0.95 * k / len(jobs))
            runs[name] = job()
        return Findings(
            f"transformers of {self.depth} blocks and width {self.width} on the rows of scikit-learn's digits, layer normalisation "
            f"after or before the branches; a ReLU network of {self.plain_depth} hidden layers of {self.plain_width}; {self.steps} steps "
            f"of batch {self.batch}, warm-up over {self.warm}, betas (0.9, {self.beta:g}), rates {self.ratio:.3g} apart; variances from "
            f"{self.samples} normal gradients",
            (*self._variance_claims(sampled), *self._training_claims(runs)),
            (
                self._variance_figure(sampled),
                *(
                    Figure(
                        f"Training loss at the end, {title}",
                        "learning rate",
                        "training loss",
                        tuple(band(n, runs[n].rates, runs[n].losses, True) for n in runs if n.split(", ")[0] in kinds),
                        log_x=True,
                        log_y=True,
                        caption="A loss that diverged or ended above chance is drawn at chance, ln 10.",
                    )
                    for title, kinds in (
                        ("normalisation after the branches", ("post-LN",)),
                        ("normalisation before them, and a plain network", ("pre-LN", "plain")),
                    )
                ),
            ),
        )

    def _jobs(self) -> dict[str, Callable[[], _Runs]]:
        adam, early, sgd = (
            geometric(low, high, self.ratio)
            for low, high in ((self.low, self.high), (self.pre_low, self.pre_high), (self.sgd_low, self.sgd_high))
        )
        ramp = ((torch.arange(self.steps) + 1.0) / self.warm).clamp(max=1.0)
        untuned = ((torch.arange(self.steps) + 1.0) * (1.0 - self.beta) / 2.0).clamp(max=1.0)
        constant = torch.ones(self.steps)
        late = torch.cat([torch.zeros(self.gathered), constant])
        beta = (0.9, self.beta)

        def make_adam(p: list[nn.Parameter]) -> Optimizer:
            return Adam(p, 1.0, beta)

        def make_radam(p: list[nn.Parameter]) -> Optimizer:
            return RAdam(p, 1.0, beta)

        def make_sgd(p: list[nn.Parameter]) -> Optimizer:
            return SGD(p, 1.0, 0.9)

        def post() -> nn.Module:
            return RowsTransformer(self.depth, self.width, self.heads, False)

        def pre() -> nn.Module:
            return RowsTransformer(self.depth, self.width, self.heads, True)

        return {
            "post-LN, Adam": lambda: self._train(post, make_adam, adam, constant),
            "post-LN, Adam, warm-up": lambda: self._train(post, make_adam, adam, ramp),
            "post-LN, RAdam": lambda: self._train(post, make_radam, adam, constant),
            "post-LN, Adam, untuned warm-up": lambda: self._train(post, make_adam, adam, untuned),
            "post-LN, Adam, gathered": lambda: self._train(post, make_adam, adam, late),
            "pre-LN, Adam": lambda: self._train(pre, make_adam, early, constant),
            "pre-LN, Adam, warm-up": lambda: self._train(pre, make_adam, early, ramp),
            "plain, SGD": lambda: self._train(self._plain, make_sgd, sgd, constant),
            "plain, SGD, warm-up": lambda: self._train(self._plain, make_sgd, sgd, ramp),
        }

    def _plain(self) -> nn.Module:
        sizes = (64, *[self.plain_width] * self.plain_depth)
        hidden = (part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU()))
        return he_(nn.Sequential(nn.Flatten(), *hidden, nn.Linear(self.plain_width, 10)))

    def _train(
        self,
        make: Callable[[], nn.Module],
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        rates: tuple[float, ...],
        schedule: Tensor,
    ) -> _Runs:
        data, seeds = load_digits(), range(self.seeds)
        members = Replicas([seeded(make, seed) for _ in rates for seed in seeds])
        order = orders(seeds, len(data.x), self.batch, len(schedule)).repeat(len(rates), 1, 1)
        parts = torch.outer(torch.tensor(rates).repeat_interleave(self.seeds), schedule)
        losses = members.descend(data.x, data.y, order, optimizer, rates=parts)
        last = losses[:, -max(1, self.steps // 10) :].double().mean(1).view(len(rates), self.seeds)
        return _Runs(rates, torch.where(last.isfinite() & (last < _CHANCE), last, _CHANCE).tolist())

    def _variance_claims(self, sampled: Sequence[Sequence[float]]) -> tuple[Claim, ...]:
        predicted = [predicted_variance(effective_length(self.beta, t)) for t in self.at]
        errors = {f"step {t}": mean_interval([row[k] / predicted[k] - 1.0 for row in sampled]) for k, t in enumerate(self.at) if t >= 10}
        falls = ratio_interval([row[0] for row in sampled], [row[-1] for row in sampled])
        return (
            Claim(
                "For normal gradients the variance of Adam's adaptive rate is that of a scaled inverse chi distribution of rho_t degrees.",
                "Liu et al. 2020, theorem 1 and section 4.1",
                "The sampled variance over the predicted one, less 1, is within 0.1 at each step from 10 on.",
                together(inside(i, 0.1) for i in errors.values()),
                f"{listed(errors)}.",
                errors,
            ),
            Claim(
                "It is large in the first steps and falls.",
                "Liu et al. 2020, theorem 1",
                f"At step {self.at[0]} over that at step {self.at[-1]} it is above 10.",
                above(falls, 10.0),
                f"The ratio is {text(falls)}; up to step 2 the variance is infinite.",
                {"variance, early / late": falls},
            ),
        )

    def _training_claims(self, runs: dict[str, _Runs]) -> tuple[Claim, ...]:
        seeds = range(self.seeds)

        def usable(over: str, under: str) -> Interval:
            return ratio_interval([runs[over].usable(s) for s in seeds], [runs[under].usable(s) for s in seeds])

        def loss(over: str, under: str) -> Interval:
            return ratio_interval([runs[over].best(s) for s in seeds], [runs[under].best(s) for s in seeds])

        warm, rectified = usable("post-LN, Adam, warm-up", "post-LN, Adam"), usable("post-LN, RAdam", "post-LN, Adam")
        tuned, same = loss("post-LN, Adam", "post-LN, Adam, warm-up"), loss("post-LN, RAdam", "post-LN, Adam, untuned warm-up")
        gathered, pre = usable("post-LN, Adam, gathered", "post-LN, Adam"), usable("pre-LN, Adam, warm-up", "pre-LN, Adam")
        plain = usable("plain, SGD, warm-up", "plain, SGD")
        return (
            Claim(
                "Warm-up allows Adam larger rates, on a transformer with normalisation after the branches.",
                "Liu et al. 2020, section 1; Xiong et al. 2020, section 3",
                "The largest usable rate with warm-up over that without is above 1.25.",
                above(warm, 1.25),
                f"The ratio is {text(warm)}.",
                {"largest usable rate, warm-up / none": warm},
            ),
            Claim(
                "It gives a lower loss, each at its best rate.",
                "Liu et al. 2020, section 1; Xiong et al. 2020, section 3",
                "The least training loss over the rates, without / with warm-up, is above 1.1.",
                above(tuned, 1.1),
                f"The ratio is {text(tuned)}.",
                {"best loss, none / warm-up": tuned},
            ),
            Claim(
                "RAdam, which scales steps by how certain the adaptive rate is, allows larger rates as well, without a schedule.",
                "Liu et al. 2020, section 5",
                "The largest usable rate of RAdam over that of Adam is above 1.25.",
                above(rectified, 1.25),
                f"The ratio is {text(rectified)}.",
                {"largest usable rate, RAdam / Adam": rectified},
            ),
            Claim(
                "RAdam is hardly more than Adam with a linear warm-up over 2 / (1 - b2) steps.",
                "Ma and Yarats 2021, section 4",
                "The ratio of their least losses is within 0.25 of 1.",
                inside(Interval(same.value - 1.0, same.low - 1.0, same.high - 1.0), 0.25),
                f"RAdam's over that of the warm-up over {2 / (1 - self.beta):.0f} steps: {text(same)}.",
                {"best loss, RAdam / untuned warm-up": same},
            ),
            Claim(
                "The variance is the reason: moments gathered before the first step make warm-up needless (Adam-2k).",
                "Liu et al. 2020, section 3.2",
                f"With the moments of {self.gathered} batches gathered before the parameters move, the largest usable rate over that "
                f"without is above 1.25. First moments are gathered as well.",
                above(gathered, 1.25),
                f"The ratio is {text(gathered)}; warm-up's {text(warm)}.",
                {"largest usable rate, gathered / not": gathered},
            ),
            Claim(
                "With normalisation before the branches warm-up is not needed.",
                "Xiong et al. 2020, section 4",
                "The largest usable rate with warm-up over that without is below 1.25.",
                below(pre, 1.25),
                f"The ratio is {text(pre)}.",
                {"largest usable rate, warm-up / none": pre},
            ),
            Claim(
                "SGD, which has no adaptive rate, gains larger rates by warm-up as well.",
                "Goyal et al. 2017, section 2.2; Gotmare et al. 2019; Gilmer et al. 2022",
                "On the plain network, momentum 0.9, the largest usable rate with warm-up over that without is above 1.25.",
                above(plain, 1.25),
                f"The ratio is {text(plain)}.",
                {"largest usable rate, warm-up / none": plain},
            ),
        )

    def _variance_figure(self, sampled: Sequence[Sequence[float]]) -> Figure:
        every = [t for t in range(1, self.at[-1] + 1) if effective_length(self.beta, t) > 2.5]
        return Figure(
            "Variance of Adam's adaptive rate under normal gradients",
            "step",
            "variance of 1 / sqrt(v)",
            (
                band("sampled", self.at, list(zip(*sampled, strict=True)), True),
                Series("predicted", tuple(map(float, every)), tuple(predicted_variance(effective_length(self.beta, t)) for t in every)),
            ),
            log_x=True,
            log_y=True,
        )
