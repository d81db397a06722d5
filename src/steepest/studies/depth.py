"""Depth and training error: plain networks, networks with skip connections, and what an identity skip needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from steepest.init import fixup_
from steepest.layers import FixupResidual
from steepest.results import Claim, Figure, Interval
from steepest.studies.deep import Plain, Residual, dense
from steepest.studies.digits import load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, he_, seeded
from steepest.studies.verdicts import above, below, mean_interval, text, together

_CHANCE = math.log(10)
_MARGIN = 0.05


class _Narrowing(nn.Module):
    """Residual stacks of decreasing widths, joined by residual blocks whose shortcut is a projection."""

    def __init__(self, depth: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for k, width in enumerate(widths):
            layers = dense(max(2, depth // len(widths) // 2 * 2), width)
            fixup_([nn.Sequential(*layers[i : i + 2]) for i in range(0, len(layers), 2)])
            parts.append(Residual(layers))
            if k + 1 < len(widths):
                shortcut = nn.Linear(width, widths[k + 1], bias=False)
                parts.append(FixupResidual([nn.Linear(width, width), nn.ReLU(), nn.Linear(width, widths[k + 1])], shortcut))
        self.parts = nn.Sequential(*parts)

    def forward(self, h: Tensor) -> Tensor:
        return self.parts(h)


@dataclass(frozen=True)
class Depth(Study):
    """Dense networks of several depths on digits; each kind and depth at its best rate of a grid, seed by seed.

    Args:
        steps: of stochastic gradient descent with momentum 0.9.
        batch: samples in one.
        depths: hidden layers, even numbers, increasing.
        rates: the grid.
        width: of the hidden layers, divisible by four.
    """

    name: ClassVar[str] = "depth"
    question: ClassVar[str] = "Do plain networks train worse the deeper they are, and do skip connections cure it?"
    seeds: int = 3
    steps: int = 200
    batch: int = 64
    depths: tuple[int, ...] = (4, 16, 48)
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    width: int = 48

    def measure(self, progress: Progress) -> Findings:
        """Train every kind at every depth."""
        kinds = ("plain", "plain, batch norm", "skips", "skips, batch norm", "skips, projections")
        losses: dict[str, dict[int, list[float]]] = {}
        for i, kind in enumerate(kinds):
            losses[kind] = {}
            for j, depth in enumerate(self.depths):
                progress(f"{kind}, {depth} layers", (i + j / len(self.depths)) / len(kinds))
                losses[kind][depth] = self._train(kind, depth)
        shallow, deep = self.depths[0], self.depths[-1]

        def rise(kind: str) -> Interval:
            return mean_interval([a - b for a, b in zip(losses[kind][deep], losses[kind][shallow], strict=True)])

        def less(kind: str, than: str) -> Interval:
            return mean_interval([a - b for a, b in zip(losses[than][deep], losses[kind][deep], strict=True)])

        plain, normal, skips, skips_normal, projected = (rise(kind) for kind in kinds)
        gain, kept = less("skips", "plain"), less("skips", "skips, projections")
        refused = _identity_is_refused(self.width)
        return Findings(
            f"dense layers of {self.width} on scikit-learn's digits, {', '.join(map(str, self.depths))} of them; {self.steps} steps of "
            f"SGD, momentum 0.9, batch {self.batch}, the best of {len(self.rates)} rates; plain: He's initialisation; skips: blocks of "
            "two layers, Fixup's; training loss of the last tenth of the steps",
            (
                Claim(
                    "Plain networks degrade in training error with depth.",
                    "He et al. 2016, section 1 and figure 1",
                    f"The training loss of {deep} layers less that of {shallow}, in nats, is above {_MARGIN}.",
                    above(plain, _MARGIN),
                    f"It rises by {text(plain)} nats.",
                    {"rise, plain": plain},
                ),
                Claim(
                    "Skip connections cure it.",
                    "He et al. 2016, section 4.1",
                    f"With them the rise is below {_MARGIN}, and at {deep} layers the loss is lower by more than {_MARGIN} than plain.",
                    together([below(skips, _MARGIN), above(gain, _MARGIN)]),
                    f"With skips it rises by {text(skips)} nats; at {deep} layers they take {text(gain)} nats off.",
                    {"rise, skips": skips, f"plain - skips at {deep}": gain, "rise, skips with batch norm": skips_normal},
                ),
                Claim(
                    "Batch normalisation alone does not cure it.",
                    "He et al. 2016, section 4.1, plain networks",
                    f"With batch normalisation and without skips the rise is above {_MARGIN}.",
                    above(normal, _MARGIN),
                    f"It rises by {text(normal)} nats.",
                    {"rise, plain with batch norm": normal},
                ),
                Claim(
                    "An identity skip needs equal dimensions; where they differ a projection serves as well.",
                    "He et al. 2016, section 3.2, equation 2, and section 4.1",
                    f"The identity is refused between unequal widths; with projections the rise is below {_MARGIN}, and so is the loss at "
                    f"{deep} layers beyond that of identity skips.",
                    together([below(projected, _MARGIN), below(kept, _MARGIN), above(mean_interval([refused] * 2), 0.5)]),
                    f"The identity is {'refused' if refused else 'taken'}; with projections the loss rises by {text(projected)} nats, "
                    f"and is {text(kept)} above that of identity skips.",
                    {"rise, projections": projected, f"projections - identity at {deep}": kept},
                ),
            ),
            (
                Figure(
                    "Training loss against depth, each at its best rate",
                    "hidden layers",
                    "training loss",
                    tuple(band(kind, self.depths, list(by_depth.values()), True) for kind, by_depth in losses.items()),
                    log_x=True,
                    log_y=True,
                    caption="A loss that diverged or ended above chance is drawn at chance, ln 10.",
                ),
            ),
        )

    def _train(self, kind: str, depth: int) -> list[float]:
        data = load_digits()
        seeds = range(self.seeds)
        members = Replicas([seeded(lambda: self._network(kind, depth), seed) for _ in self.rates for seed in seeds])
        order = orders(seeds, len(data.x), self.batch, self.steps).repeat(len(self.rates), 1, 1)
        losses = members.train(data.x, data.y, order, torch.tensor(self.rates).repeat_interleave(self.seeds), momentum=0.9)
        last = losses[:, -max(1, self.steps // 10) :].double().mean(1).view(len(self.rates), self.seeds)
        return torch.where(last.isfinite() & (last < _CHANCE), last, _CHANCE).amin(0).tolist()

    def _network(self, kind: str, depth: int) -> nn.Module:
        narrow = self.width // 2
        entry, head = nn.Linear(64, self.width), nn.Linear(narrow if kind == "skips, projections" else self.width, 10)
        layers = dense(depth, self.width)
        he_(nn.ModuleList([entry, *layers, head]))
        if kind == "skips, projections":
            body: nn.Module = _Narrowing(depth, (self.width, 3 * narrow // 2, narrow))
        elif kind.startswith("plain"):
            body = Plain(layers, normalised="batch" in kind)
        else:
            if "batch" not in kind:
                fixup_([nn.Sequential(*layers[i : i + 2]) for i in range(0, depth, 2)])
            body = Residual(layers, normalised="batch" in kind)
        return nn.Sequential(nn.Flatten(), entry, nn.ReLU(), body, head)


def _identity_is_refused(width: int) -> float:
    """1 where a residual block between unequal widths without a projection raises its error."""
    try:
        FixupResidual([nn.Linear(width, width // 2)])(torch.zeros(1, width))
    except ValueError:
        return 1.0
    return 0.0
