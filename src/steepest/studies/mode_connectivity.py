"""Paths between networks that were trained apart: straight ones, bent ones, and straight ones after the units were matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, func, nn
from torch.nn import functional

from steepest.results import Claim, Figure, Series
from steepest.studies.digits import Digits, load_digits
from steepest.studies.figures import band
from steepest.studies.permutations import Dense, matched
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, seeded
from steepest.studies.verdicts import above, below, listed, mean_interval, ratio_interval, together

Point = dict[str, Tensor]
"""The parameters of one network, or with a first axis those of several."""


def network(width: int) -> nn.Sequential:
    """64 inputs, two hidden layers, ten classes."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def straight(start: Point, end: Point, t: Tensor) -> Point:
    """``(1 - t) start + t end`` for each t of ``[points]``."""
    return {n: torch.lerp(start[n], end[n], _column(t, start[n])) for n in start}


def bezier(start: Point, bend: Point, end: Point, t: Tensor) -> Point:
    """``(1 - t)^2 start + 2 t (1 - t) bend + t^2 end``."""
    return {n: (1 - s) ** 2 * p + 2 * s * (1 - s) * bend[n] + s**2 * end[n] for n, p in start.items() for s in (_column(t, p),)}


def barrier(values: Sequence[float]) -> float:
    """The most by which values at equidistant points of a path lie above the line between those at its ends; never negative.

    Source: R. Entezari, H. Sedghi, O. Saukh, B. Neyshabur, The role of permutation invariance in linear mode connectivity of neural
    networks, ICLR 2022, definition 3.1.
    """
    last = len(values) - 1
    return max(v - ((1 - k / last) * values[0] + k / last * values[-1]) for k, v in enumerate(values))


@dataclass(frozen=True)
class _Path:
    """Training loss and share of wrong answers on the test set along a path."""

    losses: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class ModeConnectivity(Study):
    """Pairs of dense networks trained on digits from different seeds, and pairs that part on the way.

    Args:
        widths: of both hidden layers, from the narrowest.
        steps: of SGD with momentum 0.9.
        batch: samples in one.
        rate: of all training.
        curve_steps: of SGD on the bend of the curve, at random points of it.
        points: at which a path is looked at.
        parting: after how many steps copies of one network go on with different orders of the data.
        parting_width: their width.
    """

    name: ClassVar[str] = "mode-connectivity"
    question: ClassVar[str] = "Are networks that were trained apart joined by paths of low loss, straight or bent?"
    seeds: int = 5
    widths: tuple[int, ...] = (16, 64, 256)
    steps: int = 600
    batch: int = 64
    rate: float = 0.05
    curve_steps: int = 600
    points: int = 21
    parting: tuple[int, ...] = (0, 30, 120)
    parting_width: int = 64

    def measure(self, progress: Progress) -> Findings:
        """Train the pairs of each width and look along three paths between them; then the pairs that part."""
        data = load_digits()
        data = Digits(data.x.flatten(1), data.y, data.test_x.flatten(1), data.test_y)
        paths: dict[tuple[str, int], list[_Path]] = {}
        for k, width in enumerate(self.widths):
            progress(f"width {width}, training", 0.8 * k / len(self.widths))
            pairs = [self._ends(trained, 2 * s) for trained in (self._train(data, width),) for s in range(self.seeds)]
            progress(f"width {width}, paths", 0.8 * (k + 0.5) / len(self.widths))
            bends = self._bend(data, width, pairs)
            t = torch.linspace(0.0, 1.0, self.points)
            for s, (start, end) in enumerate(pairs):
                ways = {"straight": straight(start, end, t), "curve": bezier(start, {n: b[s] for n, b in bends.items()}, end, t)}
                ways["matched"] = straight(start, _matched(end, start), t)
                for kind, way in ways.items():
                    paths.setdefault((kind, width), []).append(_along(data, width, way))
        progress("copies that part", 0.8)
        parted = self._part(data)
        return Findings(
            f"64 inputs, two hidden ReLU layers of {', '.join(map(str, self.widths))}, digits, {self.steps} steps of SGD "
            f"with momentum, batch {self.batch}, rate {self.rate:g}, {self.curve_steps} for a curve; {self.points} points of a path; "
            f"copies that part: width {self.parting_width}",
            (*self._claims(paths), *self._parting_claims(parted)),
            self._figures(paths, parted),
        )

    def _claims(self, paths: dict[tuple[str, int], list[_Path]]) -> tuple[Claim, ...]:
        barriers = {key: [barrier(p.losses) for p in found] for key, found in paths.items()}
        narrow, wide = self.widths[0], self.widths[-1]

        def per_width(kind: str) -> dict[str, list[float]]:
            return {f"width {w}": barriers[kind, w] for w in self.widths}

        line = {n: mean_interval(b) for n, b in per_width("straight").items()}
        curve = {n: mean_interval(b) for n, b in per_width("curve").items()}
        falls = {f"{narrow} / {wide}": ratio_interval(_positive(barriers["straight", narrow]), _positive(barriers["straight", wide]))}
        lowered = {f"width {w}": ratio_interval(_positive(barriers["matched", w]), _positive(barriers["straight", w])) for w in self.widths}
        left = {f"width {w}": mean_interval(barriers["matched", w]) for w in (narrow, wide)}
        return (
            Claim(
                "The straight line between networks trained from different seeds crosses a barrier.",
                "Garipov et al. 2018, section 1; Frankle et al. 2020, section 3",
                "The barrier in training loss is above 0.1 nats at every width.",
                together(above(i, 0.1) for i in line.values()),
                f"Nats above the line between the ends: {listed(line)}.",
                {f"barrier, {n}": i for n, i in line.items()},
            ),
            Claim(
                "A curve with one bend joins them without a barrier.",
                "Garipov et al. 2018, section 3; Draxler et al. 2018",
                "The barrier in training loss along a Bezier curve, its bend trained, is below 0.05 nats at every width.",
                together(below(i, 0.05) for i in curve.values()),
                f"Nats: {listed(curve)}.",
                {f"barrier of the curve, {n}": i for n, i in curve.items()},
            ),
            Claim(
                "The barrier of the straight line falls as networks widen.",
                "Entezari et al. 2022, section 3.1",
                f"The barrier at width {narrow} over that at width {wide} is above 1.25.",
                above(next(iter(falls.values())), 1.25),
                f"The ratio is {listed(falls)}.",
                {f"barrier, {n}": i for n, i in falls.items()},
            ),
            Claim(
                "Putting the units of one network into the order of the other's lowers it.",
                "Entezari et al. 2022, section 4; Ainsworth et al. 2023, section 5",
                "The barrier after matching over that before is below 0.5 at every width.",
                together(below(i, 0.5) for i in lowered.values()),
                f"After over before: {listed(lowered)}.",
                {f"matched / not, {n}": i for n, i in lowered.items()},
            ),
            Claim(
                "In wide networks it leaves none.",
                "Ainsworth et al. 2023, section 5.1, on wider networks; Entezari et al. 2022, conjecture 1",
                f"The barrier after matching is below 0.05 nats at width {wide}.",
                below(left[f"width {wide}"], 0.05),
                f"Nats after matching: {listed(left)}.",
                {f"barrier after matching, {n}": i for n, i in left.items()},
            ),
        )

    def _parting_claims(self, parted: dict[int, list[_Path]]) -> tuple[Claim, ...]:
        errors = {k: mean_interval([barrier(p.errors) for p in found]) for k, found in parted.items()}
        first, early = self.parting[0], self.parting[1]

        def claim(statement: str, source: str, at: int) -> Claim:
            return Claim(
                statement,
                source,
                f"The barrier in test error is below 0.02, parted after {at} of {self.steps} steps.",
                below(errors[at], 0.02),
                "Barrier in test error, parted after so many steps: " + listed({str(k): i for k, i in errors.items()}) + ".",
                {f"parted after {at}": errors[at]},
            )

        return (
            claim(
                "Copies that part early, and see the data in different orders from then on, end in minima that a straight line joins.",
                "Frankle et al. 2020, section 3, figure 3",
                early,
            ),
            claim(
                "On a small task they do so already where they part at the start.", "Frankle et al. 2020, section 3: LeNet on MNIST", first
            ),
        )

    def _figures(self, paths: dict[tuple[str, int], list[_Path]], parted: dict[int, list[_Path]]) -> tuple[Figure, ...]:
        t = [k / (self.points - 1) for k in range(self.points)]
        names = {"straight": "straight line", "curve": "curve with one bend", "matched": "straight line, units matched"}

        def losses(width: int) -> tuple[Series, ...]:
            return tuple(band(name, t, list(zip(*(p.losses for p in paths[kind, width]), strict=True))) for kind, name in names.items())

        rows = {name: [[barrier(p.losses) for p in paths[kind, w]] for w in self.widths] for kind, name in names.items()}
        return (
            Figure(f"Training loss along the paths, width {self.widths[0]}", "along the path", "training loss", losses(self.widths[0])),
            Figure(f"Training loss along the paths, width {self.widths[-1]}", "along the path", "training loss", losses(self.widths[-1])),
            Figure(
                "Barrier against width",
                "width",
                "barrier (nats)",
                tuple(band(name, self.widths, row) for name, row in rows.items()),
                log_x=True,
            ),
            Figure(
                "Test error between copies that parted",
                "along the straight line",
                "test error",
                tuple(band(f"after {k} steps", t, list(zip(*(p.errors for p in found), strict=True))) for k, found in parted.items()),
            ),
        )

    def _train(self, data: Digits, width: int) -> Point:
        """Two networks for each seed, from other weights and orders each."""
        seeds = range(2 * self.seeds)
        members = Replicas([seeded(lambda: network(width), 100 + s) for s in seeds])
        order = orders(seeds, len(data.x), self.batch, self.steps)
        members.train(data.x, data.y, order, torch.full((len(order),), self.rate), 0.9)
        return members.parameters

    def _ends(self, trained: Point, first: int) -> tuple[Point, Point]:
        return {n: p[first] for n, p in trained.items()}, {n: p[first + 1] for n, p in trained.items()}

    def _part(self, data: Digits) -> dict[int, list[_Path]]:
        """Two copies for each seed and step of parting, the same until then."""
        modules, sequences = [], []
        for at in self.parting:
            for seed in range(self.seeds):
                common, *own = orders([seed, 1000 + seed, 2000 + seed], len(data.x), self.batch, self.steps)
                for order in own:
                    modules.append(seeded(lambda: network(self.parting_width), 500 + seed))
                    sequences.append(torch.cat([common[:at], order[at:]]))
        members = Replicas(modules)
        members.train(data.x, data.y, torch.stack(sequences), torch.full((len(modules),), self.rate), 0.9)
        t = torch.linspace(0.0, 1.0, self.points)
        found = [_along(data, self.parting_width, straight(*self._ends(members.parameters, 2 * k), t)) for k in range(len(modules) // 2)]
        return {at: found[k * self.seeds : (k + 1) * self.seeds] for k, at in enumerate(self.parting)}

    def _bend(self, data: Digits, width: int, pairs: Sequence[tuple[Point, Point]]) -> Point:
        """For each pair the bend of a curve between them, trained from the middle on the loss at random points (Garipov et al. 2018)."""
        start, end = ({n: torch.stack([pair[k][n] for pair in pairs]) for n in pairs[0][k]} for k in (0, 1))
        bend = {n: 0.5 * (p + end[n]) for n, p in start.items()}
        velocity = {n: torch.zeros_like(p) for n, p in bend.items()}
        base = network(width)

        def loss(bend: Point, start: Point, end: Point, t: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return functional.cross_entropy(func.functional_call(base, bezier(start, bend, end, t), (x,)), y)

        gradient = func.vmap(func.grad(loss))
        order = orders([3000 + s for s in range(len(pairs))], len(data.x), self.batch, self.curve_steps)
        at = torch.rand(self.curve_steps, len(pairs), generator=torch.Generator().manual_seed(0))
        for step in range(self.curve_steps):
            batch = order[:, step]
            found = gradient(bend, start, end, at[step], data.x[batch], data.y[batch])
            for n, g in found.items():
                velocity[n].mul_(0.9).add_(g)
                bend[n] = bend[n] - self.rate * velocity[n]
        return bend


def _along(data: Digits, width: int, way: Point) -> _Path:
    base = network(width)
    answers = func.vmap(lambda p, x: func.functional_call(base, p, (x,)), in_dims=(0, None))
    with torch.no_grad():
        losses = [float(functional.cross_entropy(z, data.y)) for z in answers(way, data.x)]
        errors = [float((z.argmax(1) != data.test_y).double().mean()) for z in answers(way, data.test_x)]
    return _Path(tuple(losses), tuple(errors))


def _matched(point: Point, reference: Point) -> Point:
    names = [n.removesuffix(".weight") for n in point if n.endswith(".weight")]
    layers, wanted = ([Dense(p[f"{n}.weight"], p[f"{n}.bias"]) for n in names] for p in (point, reference))
    found = dict(zip(names, matched(layers, wanted), strict=True))
    return {f"{n}.{kind}": getattr(layer, kind) for n, layer in found.items() for kind in ("weight", "bias")}


def _positive(values: Sequence[float]) -> list[float]:
    """Barriers for ratios: at least a ten thousandth of a nat, so that none is divided by zero."""
    return [max(v, 1e-4) for v in values]


def _column(t: Tensor, like: Tensor) -> Tensor:
    """A point or points beside a parameter: as it is for one point, ``[points, 1, ...]`` for several."""
    return t.view(-1, *(1,) * like.dim()) if t.dim() else t
