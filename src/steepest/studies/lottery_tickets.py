"""Winning tickets: networks pruned by magnitude, their weights set back to the start, against controls with as many weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.results import Claim, Figure, Interval
from steepest.studies.digits import Digits, load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, seeded
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, together

Masks = dict[str, Tensor]
"""Per weight 1 where it is kept and 0 where it is pruned."""


class MaskedLinear(nn.Linear):
    """A dense layer some of whose weights are zero and stay so: their gradient is zero."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", torch.ones(outputs, inputs))

    def forward(self, input: Tensor) -> Tensor:
        """``[n, inputs]`` to ``[n, outputs]``."""
        return functional.linear(input, self.weight * self.mask, self.bias)


def network(widths: Sequence[int]) -> nn.Sequential:
    """64 inputs, hidden ReLU layers, ten classes."""
    sizes = [64, *widths, 10]
    layers: list[nn.Module] = []
    for k in range(len(sizes) - 1):
        layers += [MaskedLinear(sizes[k], sizes[k + 1]), *([nn.ReLU()] if k < len(widths) else [])]
    return nn.Sequential(*layers)


def pruned(weights: Mapping[str, Tensor], masks: Masks, keep: float) -> Masks:
    """The masks after the smallest of the weights that are left have gone, over all layers at once, until a share of them is left.

    Source: J. Frankle, M. Carbin, The lottery ticket hypothesis: finding sparse, trainable neural networks, ICLR 2019, sections 1 and
    4 (over all layers at once: there for deeper networks).
    """
    sizes = torch.cat([(weights[n].abs() * m)[m > 0] for n, m in masks.items()])
    kept = max(1, round(keep * len(sizes)))
    bound = sizes.sort(descending=True).values[kept - 1]
    return {n: m * (weights[n].abs() >= bound) for n, m in masks.items()}


def shuffled(masks: Masks, generator: torch.Generator) -> Masks:
    """Each layer's mask in another order: as many weights in each layer, others."""
    return {n: m.flatten()[torch.randperm(m.numel(), generator=generator)].view_as(m) for n, m in masks.items()}


def scattered(masks: Masks, generator: torch.Generator) -> Masks:
    """As many weights as the masks keep, anywhere in the network."""
    total, kept = sum(m.numel() for m in masks.values()), int(sum(m.sum() for m in masks.values()))
    order = torch.randperm(total, generator=generator) < kept
    parts = order.float().split([m.numel() for m in masks.values()])
    return {n: p.view_as(m) for (n, m), p in zip(masks.items(), parts, strict=True)}


@dataclass(frozen=True)
class _Outcome:
    """Of one training: the mean training loss over all its steps, and the share answered rightly at the end."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class LotteryTickets(Study):
    """Iterative magnitude pruning of a dense network on digits, and controls at two sparsities.

    Args:
        widths: of the hidden layers.
        steps: of SGD with momentum 0.9, in each training.
        batch: samples in one.
        rate: of all training.
        keep: share of the weights left by each round of pruning.
        rounds: of pruning and training.
        levels: rounds after which the controls are trained.
        rewind: step to whose weights the rewound tickets are set back.
    """

    name: ClassVar[str] = "lottery-tickets"
    question: ClassVar[str] = "Do networks pruned by magnitude and set back to their start train as well as the dense ones?"
    seeds: int = 8
    widths: tuple[int, ...] = (128, 64)
    steps: int = 300
    batch: int = 64
    rate: float = 0.05
    keep: float = 0.6
    rounds: int = 8
    levels: tuple[int, ...] = (4, 7)
    rewind: int = 15

    def measure(self, progress: Progress) -> Findings:
        """Prune and train round by round, once from the start and once from the rewind step; then the controls."""
        data = load_digits()
        data = Digits(data.x.flatten(1), data.y, data.test_x.flatten(1), data.test_y)
        models = [seeded(lambda: network(self.widths), seed) for seed in range(self.seeds)]
        starts = [dict(m.state_dict()) for m in models]
        early, _ = self._train(data, starts, self.rewind, range(self.seeds))
        masks = {kind: [_full(s) for s in starts] for kind in ("ticket", "rewound")}
        outcomes: dict[tuple[str, int], list[_Outcome]] = {}
        found: dict[int, list[Masks]] = {}
        for k in range(self.rounds + 1):
            progress(f"round {k} of pruning", 0.7 * k / (self.rounds + 1))
            found[k] = masks["ticket"]
            states = [_with(s, m) for s, m in zip(starts, masks["ticket"], strict=True)]
            states += [_with(s, m) for s, m in zip(early, masks["rewound"], strict=True)]
            after, told = self._train(data, states, self.steps, [*range(self.seeds)] * 2)
            outcomes["ticket", k], outcomes["rewound", k] = told[: self.seeds], told[self.seeds :]
            masks["ticket"] = [pruned(s, m, self.keep) for s, m in zip(after, masks["ticket"], strict=False)]
            masks["rewound"] = [pruned(s, m, self.keep) for s, m in zip(after[self.seeds :], masks["rewound"], strict=True)]
        for k, level in enumerate(self.levels):
            progress(f"controls after {level} rounds", 0.7 + 0.3 * k / len(self.levels))
            states = [s for kind in _CONTROLS for s in self._control(kind, starts, found[level])]
            told = self._train(data, states, self.steps, [*range(self.seeds)] * len(_CONTROLS))[1]
            for c, kind in enumerate(_CONTROLS):
                outcomes[kind, level] = told[c * self.seeds : (c + 1) * self.seeds]
        return Findings(
            f"64 inputs, hidden ReLU layers of {', '.join(map(str, self.widths))}, digits; {self.steps} steps of SGD with momentum, "
            f"batch {self.batch}, rate {self.rate:g} in each training; {self.rounds} rounds, each keeps {self.keep:g} of the weights",
            (
                *self._ticket_claims(outcomes),
                *self._control_claims(outcomes),
                self._rewind_claim(outcomes),
                self._collapse_claim(starts, found),
            ),
            self._figures(outcomes),
        )

    def _left(self, level: int) -> str:
        return f"{100 * self.keep**level:.2g} %"

    def _ticket_claims(self, outcomes: dict[tuple[str, int], list[_Outcome]]) -> tuple[Claim, ...]:
        dense = outcomes["ticket", 0]
        gaps, speeds = {}, {}
        for level in self.levels:
            tickets = outcomes["ticket", level]
            gaps[self._left(level)] = mean_interval([t.accuracy - d.accuracy for t, d in zip(tickets, dense, strict=True)])
            speeds[self._left(level)] = ratio_interval([d.loss for d in dense], [t.loss for t in tickets])
        return (
            Claim(
                "Winning tickets answer as well as the dense network after as many steps.",
                "Frankle and Carbin 2019, sections 1 and 2",
                "Test accuracy of the ticket less that of the dense network is above -0.01 at both sparsities.",
                together(above(i, -0.01) for i in gaps.values()),
                f"The difference, by weights left: {listed(gaps)}.",
                {f"ticket - dense, {n} left": i for n, i in gaps.items()},
            ),
            Claim(
                "They learn faster than the dense network.",
                "Frankle and Carbin 2019, section 2 and figure 3",
                "The mean training loss over all steps, dense / ticket, is above 1.05 at both sparsities.",
                together(above(i, 1.05) for i in speeds.values()),
                f"The ratio, by weights left: {listed(speeds)}.",
                {f"dense / ticket, {n} left": i for n, i in speeds.items()},
            ),
        )

    def _control_claims(self, outcomes: dict[tuple[str, int], list[_Outcome]]) -> tuple[Claim, ...]:
        def claim(kind: str, statement: str, source: str) -> Claim:
            ratios: dict[str, Interval] = {}
            gaps: dict[str, Interval] = {}
            for level in self.levels:
                both = list(zip(outcomes[kind, level], outcomes["ticket", level], strict=True))
                ratios[self._left(level)] = ratio_interval([c.loss for c, _ in both], [t.loss for _, t in both])
                gaps[self._left(level)] = mean_interval([t.accuracy - c.accuracy for c, t in both])
            return Claim(
                statement,
                source,
                "The mean training loss over all steps, control / ticket, is above 1.1 at both sparsities.",
                together(above(i, 1.1) for i in ratios.values()),
                f"The ratio, by weights left: {listed(ratios)}. Test accuracy, ticket less control: {listed(gaps)}.",
                {f"{kind} / ticket, {n} left": i for n, i in ratios.items()},
            )

        return (
            claim(
                "new weights",
                "The tickets' own first weights matter: with new ones in the same places learning is slower.",
                "Frankle and Carbin 2019, section 2: random reinitialisation",
            ),
            claim(
                "random places",
                "Their places matter: as many random weights anywhere, at random values, learn more slowly.",
                "Frankle and Carbin 2019, section 2, random sparse networks",
            ),
            claim(
                "shuffled in layers",
                "The places matter within layers too: shuffled there, with the first weights kept, the network learns more slowly.",
                "Frankle, Dziugaite, Roy and Carbin 2021, section 5, on magnitude pruning after training",
            ),
        )

    def _rewind_claim(self, outcomes: dict[tuple[str, int], list[_Outcome]]) -> Claim:
        gaps = {}
        for level in self.levels:
            both = zip(outcomes["rewound", level], outcomes["ticket", level], strict=True)
            gaps[self._left(level)] = mean_interval([r.accuracy - t.accuracy for r, t in both])
        return Claim(
            f"On a small task going back to the start suffices: going back to step {self.rewind} finds no better tickets.",
            "Frankle et al. 2020, section 4: LeNet on MNIST needs no rewinding to a later step",
            "Test accuracy of the rewound less that of the ticket is within 0.01 at both sparsities.",
            together(inside(i, 0.01) for i in gaps.values()),
            f"The difference, by weights left: {listed(gaps)}; the rewound have had {self.rewind} steps more.",
            {f"rewound - ticket, {n} left": i for n, i in gaps.items()},
        )

    def _collapse_claim(self, starts: Sequence[Mapping[str, Tensor]], found: dict[int, list[Masks]]) -> Claim:
        level = self.rounds
        once = mean_interval([_least(pruned(s, _full(s), self.keep**level)) for s in starts])
        step_by_step = mean_interval([_least(m) for m in found[level]])
        return Claim(
            "Pruned by magnitude at once before training a layer is cut off altogether; round by round with training none is.",
            "Tanaka, Kunin, Yamins and Ganguli 2020, sections 3 and 5",
            "The share of a layer's weights that is left, its least over the layers, is below 0.001 at once, above 0.001 round by round, "
            f"at {self._left(level)} of all weights.",
            together((below(once, 0.001), above(step_by_step, 0.001))),
            f"The least share of a layer: {listed({'at once': once, 'round by round': step_by_step})}.",
            {"at once": once, "round by round": step_by_step},
        )

    def _figures(self, outcomes: dict[tuple[str, int], list[_Outcome]]) -> tuple[Figure, ...]:
        def lines(pick: str) -> dict[str, tuple[list[float], list[list[float]]]]:
            made = {}
            for kind in ("ticket", "rewound", *_CONTROLS):
                levels = [k for k in range(self.rounds + 1) if (kind, k) in outcomes]
                made[kind] = ([self.keep**k for k in levels], [[getattr(o, pick) for o in outcomes[kind, k]] for k in levels])
            return made

        return (
            Figure(
                "Test accuracy against the weights left",
                "share of the weights left",
                "test accuracy",
                tuple(band(kind, x, rows) for kind, (x, rows) in lines("accuracy").items()),
                log_x=True,
            ),
            Figure(
                "Mean training loss over all steps",
                "share of the weights left",
                "training loss",
                tuple(band(kind, x, rows, True) for kind, (x, rows) in lines("loss").items()),
                log_x=True,
                log_y=True,
            ),
        )

    def _control(self, kind: str, starts: Sequence[Mapping[str, Tensor]], masks: Sequence[Masks]) -> list[dict[str, Tensor]]:
        """The states that a control starts from, one per seed."""
        made = []
        for seed, (start, mask) in enumerate(zip(starts, masks, strict=True)):
            generator = torch.Generator().manual_seed(seed)
            fresh = seeded(lambda: network(self.widths), 1000 + seed).state_dict()
            if kind == "new weights":
                made.append(_with(fresh, mask))
            elif kind == "random places":
                made.append(_with(fresh, scattered(mask, generator)))
            else:
                made.append(_with(start, shuffled(mask, generator)))
        return made

    def _train(
        self, data: Digits, states: Sequence[Mapping[str, Tensor]], steps: int, seeds: Sequence[int]
    ) -> tuple[list[dict[str, Tensor]], list[_Outcome]]:
        """All networks from their states for some steps: the states after, and how it went."""
        modules = [network(self.widths) for _ in states]
        for module, state in zip(modules, states, strict=True):
            module.load_state_dict(state)
        members = Replicas(modules)
        losses = members.train(data.x, data.y, orders(seeds, len(data.x), self.batch, steps), torch.full((len(states),), self.rate), 0.9)
        accuracies = members.accuracies(data.test_x, data.test_y)
        after = [{n: p[k] for n, p in (members.parameters | members.buffers).items()} for k in range(len(states))]
        return after, [_Outcome(float(row.double().mean()), float(a)) for row, a in zip(losses, accuracies, strict=True)]


_CONTROLS = ("new weights", "random places", "shuffled in layers")


def _full(state: Mapping[str, Tensor]) -> Masks:
    return {n.replace("mask", "weight"): torch.ones_like(m) for n, m in state.items() if n.endswith("mask")}


def _with(state: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    return {**state, **{n.replace("weight", "mask"): m for n, m in masks.items()}}


def _least(masks: Masks) -> float:
    """The least share of a layer's weights that is left."""
    return min(float(m.mean()) for m in masks.values())
