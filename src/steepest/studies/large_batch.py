"""Large batches at equal epochs: rates scaled with the batch, warm-up, LARS and LAMB, and the batch beyond which nothing is won."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.optim.catalogue import find
from steepest.results import Claim, Figure, Interval
from steepest.studies.critical_batch import Race, fit, race, scale_on_the_way
from steepest.studies.digits import Digits, load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, geometric, seeded
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, slope, text, together

_METHODS: dict[str, tuple[str, float, dict[str, float]]] = {
    # Name in the catalogue, least rate of the grid, options. LARS' trust coefficient is raised from 0.001 with the few steps there are:
    # its rate is that of the biases too, which at the usual coefficient would diverge before the weights moved.
    "SGD with momentum": ("momentum", 0.025, {"momentum": 0.9}),
    "Adam": ("adam", 0.001, {}),
    "LARS": ("lars", 0.1, {"momentum": 0.9, "trust_coefficient": 0.02}),
    "LAMB": ("lamb", 0.0025, {}),
}


@dataclass(frozen=True)
class _Outcome:
    """Training loss on all data, and share answered rightly, at the end."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class LargeBatch(Study):
    """A dense network on digits, its batch from small to all data, equal epochs. Rates are tuned on seeds that are not judged on.

    Args:
        train: digits to train on.
        width: of the hidden layer.
        batches: from the smallest, to whose rate the rule of linear scaling refers.
        epochs: of every training but the races to a loss.
        warm: the share of them in which the rate rises to its value.
        tuning: seeds that rates are chosen on, by the mean training loss at the end.
        grid: how many rates each method has, each twice the last.
        race_batches: batches for the critical one, plain SGD.
        target: the training loss that they race to.
        limit: steps of a race at the smallest batch; fewer for larger ones, like the inverse of the square root.
    """

    name: ClassVar[str] = "large-batch"
    question: ClassVar[str] = "How far can the batch grow at equal epochs, and do scaled rates, warm-up, LARS and LAMB help?"
    seeds: int = 8
    train: int = 1280
    width: int = 64
    batches: tuple[int, ...] = (32, 128, 640, 1280)
    epochs: int = 20
    warm: float = 0.25
    tuning: int = 3
    grid: int = 8
    race_batches: tuple[int, ...] = (4, 16, 64, 256, 1280)
    target: float = 0.15
    limit: int = 1000

    def measure(self, progress: Progress) -> Findings:
        """Scaled rates, then methods at the largest batches, then the races.

        Raises:
            UsageError: without the extra that has LARS and LAMB.
        """
        for name, _, _ in _METHODS.values():
            find(name).load()
        data = load_digits(self.train)
        data = Digits(data.x.flatten(1), data.y, data.test_x.flatten(1), data.test_y)
        progress("rates tuned at each batch", 0.0)
        rates = geometric(0.0125, 0.0125 * 2.0 ** (self.grid + 1), 2.0)
        best = {b: self._tune(data, b, rates) for b in self.batches}
        progress("rates scaled", 0.2)
        base = sorted(best[self.batches[0]])[self.tuning // 2]
        scaled = self._scaled(data, base)
        methods: dict[tuple[str, int], tuple[float, list[_Outcome]]] = {}
        jobs = [(m, b) for m in _METHODS for b in self.batches[-2:]]
        for k, (method, batch) in enumerate(jobs):
            progress(f"{method}, batch {batch}", 0.3 + 0.4 * k / len(jobs))
            methods[method, batch] = self._method(data, method, batch)
        races: dict[int, Race] = {}
        for k, batch in enumerate(self.race_batches):
            progress(f"to the loss {self.target:g}, batch {batch}", 0.7 + 0.25 * k / len(self.race_batches))
            limit = max(4, round(self.limit * (self.race_batches[0] / batch) ** 0.5))
            races[batch] = race(
                self._make, data, batch, geometric(0.025, 0.025 * 2.0**self.grid, 2.0), range(self.seeds), self.target, limit
            )
        progress("noise scale", 0.95)
        scales = [self._scale(data, races, seed) for seed in range(self.seeds)]
        return Findings(
            f"64 inputs, {self.width} hidden ReLUs, {self.train} digits, {self.epochs} epochs at every batch; momentum 0.9, warm-up over "
            f"{self.warm:g} of the steps where not said otherwise; {self.grid} rates for each method, tuned on {self.tuning} other seeds",
            (
                *self._scaling_claims(best, scaled, base),
                *self._method_claims(scaled, methods),
                *self._critical_claims(races, scales),
            ),
            self._figures(scaled, methods, races, scales),
        )

    def _scaling_claims(
        self, best: dict[int, list[float]], scaled: dict[tuple[str, int], list[_Outcome]], base: float
    ) -> tuple[Claim, ...]:
        small, second, *large = self.batches
        reference = scaled["scaled, warm-up", small]

        def gap(kind: str, batch: int, other: list[_Outcome]) -> list[float]:
            return [a.accuracy - b.accuracy for a, b in zip(scaled[kind, batch], other, strict=True)]

        kept = {f"batch {b}": mean_interval(gap("scaled, warm-up", b, reference)) for b in self.batches[1:]}
        warm = {f"batch {b}": mean_interval(gap("scaled, warm-up", b, scaled["scaled, at once", b])) for b in large}
        gain = {
            f"batch {b}": ratio_interval([o.loss for o in scaled["not scaled", b]], [o.loss for o in scaled["scaled, warm-up", b]])
            for b in self.batches[1:]
        }
        logs = [math.log(b) for b in self.batches]
        slopes = mean_interval([slope(logs, [math.log(best[b][s]) for b in self.batches]) for s in range(self.tuning)])
        return (
            Claim(
                "A batch k times as large, at k times the rate and with warm-up, answers as well after as many epochs.",
                "Goyal et al. 2017, section 2.1 and figure 1",
                f"Test accuracy less that at batch {small} is within 0.01 at batch {second}.",
                inside(kept[f"batch {second}"], 0.01),
                f"The difference, rate {base:g} at batch {small}: {listed(kept)}.",
                {f"accuracy, {n} less {small}": i for n, i in kept.items()},
            ),
            Claim(
                "Scaling the rate with the batch is better than leaving it.",
                "Goyal et al. 2017, section 2.1; Krizhevsky 2014",
                "The training loss at the end, not scaled / scaled, is above 1.25 at every larger batch.",
                together(above(i, 1.25) for i in gain.values()),
                f"The ratio: {listed(gain)}.",
                {f"not scaled / scaled, {n}": i for n, i in gain.items()},
            ),
            Claim(
                "At large batches warm-up is needed for the scaled rate.",
                "Goyal et al. 2017, section 2.2 and table 1",
                "Test accuracy with warm-up less that without is above 0.01 at both of the largest batches.",
                together(above(i, 0.01) for i in warm.values()),
                f"The difference: {listed(warm)}.",
                {f"warm-up, {n}": i for n, i in warm.items()},
            ),
            Claim(
                "The best rate grows in proportion to the batch.",
                "Goyal et al. 2017, section 2.1; Shallue et al. 2019, section 4.7, who find exceptions",
                "The slope of log(best rate) on log(batch) is within 0.25 of 1.",
                inside(Interval(slopes.value - 1.0, slopes.low - 1.0, slopes.high - 1.0), 0.25),
                f"The slope is {text(slopes)}; best rates " + "; ".join(f"{_rates(best[b])} at batch {b}" for b in self.batches) + ".",
                {"slope": slopes},
            ),
        )

    def _method_claims(
        self, scaled: dict[tuple[str, int], list[_Outcome]], methods: dict[tuple[str, int], tuple[float, list[_Outcome]]]
    ) -> tuple[Claim, ...]:
        largest = self.batches[-2:]
        reference = scaled["scaled, warm-up", self.batches[0]]

        def against(method: str, other: str) -> Claim:
            gaps, losses = {}, {}
            for b in largest:
                both = list(zip(methods[method, b][1], methods[other, b][1], strict=True))
                gaps[f"batch {b}"] = mean_interval([m.accuracy - o.accuracy for m, o in both])
                losses[f"batch {b}"] = ratio_interval([o.loss for _, o in both], [m.loss for m, _ in both])
            source = {
                "LARS": "You, Gitman and Ginsburg 2017, section 5; Nado et al. 2021 find none of it",
                "LAMB": "You et al. 2020, section 4; Nado et al. 2021 find none of it",
            }
            return Claim(
                f"At large batches {method} answers better than {other}, each at its best rate.",
                source[method],
                "The difference of test accuracies is above 0.01 at both of the largest batches, equal budgets of tuning.",
                together(above(i, 0.01) for i in gaps.values()),
                f"The difference: {listed(gaps)}; training loss, {other} / {method}: {listed(losses)}; rates "
                + ", ".join(f"{methods[m, b][0]:.3g} ({m}, batch {b})" for m in (method, other) for b in largest)
                + ".",
                {f"{method} - {other}, {n}": i for n, i in gaps.items()},
            )

        best = {
            f"{m}, batch {b}": mean_interval([o.accuracy - r.accuracy for o, r in zip(methods[m, b][1], reference, strict=True)])
            for m in ("LARS", "LAMB")
            for b in largest
        }
        return (
            against("LARS", "SGD with momentum"),
            against("LAMB", "Adam"),
            Claim(
                "With LARS or LAMB the largest batches answer as well as a small one after as many epochs.",
                "You, Gitman and Ginsburg 2017, section 5; You et al. 2020, section 4",
                f"Test accuracy less that of SGD with momentum at batch {self.batches[0]} is within 0.01 for both and at both batches.",
                together(inside(i, 0.01) for i in best.values()),
                f"The difference: {listed(best)}.",
                {f"{n} less SGD at {self.batches[0]}": i for n, i in best.items()},
            ),
        )

    def _critical_claims(self, races: dict[int, Race], scales: list[list[tuple[int, float]]]) -> tuple[Claim, ...]:
        fits = [fit(self.race_batches, [self._steps(races, b, s) for b in self.race_batches]) for s in range(self.seeds)]
        misfit = mean_interval([f.misfit for f in fits])
        critical = ratio_interval([f.critical for f in fits], [1.0] * self.seeds)
        noise = [sum(v for _, v in found) / len(found) if found else math.inf for found in scales]
        scale = ratio_interval(noise, [1.0] * self.seeds)
        ratio = ratio_interval([f.critical for f in fits], noise)
        counts = {f"batch {b}": ratio_interval(list(races[b].steps), [1.0] * self.seeds) for b in self.race_batches}
        return (
            Claim(
                "Steps to a loss follow least steps times (1 + critical batch / batch).",
                "McCandlish et al. 2018, equation 2.11",
                "The root mean square of log(measured / fitted) is below 0.2.",
                below(misfit, 0.2),
                f"It is {text(misfit)}; steps: {listed(counts)}.",
                {"misfit": misfit, **{f"steps, {n}": i for n, i in counts.items()}},
            ),
            Claim(
                "The gradient noise scale on the way predicts the critical batch.",
                "McCandlish et al. 2018, section 2.3 and figure 4: within an order of magnitude",
                "The critical batch over the mean noise scale of the run is within a factor of 4 of 1.",
                together((above(ratio, 0.25), below(ratio, 4.0))),
                f"The critical batch is {text(critical)}, the noise scale {text(scale)} samples: the ratio is {text(ratio)}.",
                {"critical batch": critical, "noise scale": scale, "critical / noise scale": ratio},
            ),
        )

    def _figures(
        self,
        scaled: dict[tuple[str, int], list[_Outcome]],
        methods: dict[tuple[str, int], tuple[float, list[_Outcome]]],
        races: dict[int, Race],
        scales: list[list[tuple[int, float]]],
    ) -> tuple[Figure, ...]:
        kinds = ("scaled, warm-up", "scaled, at once", "not scaled")
        lines = [band(kind, self.batches, [[o.accuracy for o in scaled[kind, b]] for b in self.batches]) for kind in kinds]
        last = self.batches[-2:]
        tuned = [band(m, last, [[o.loss for o in methods[m, b][1]] for b in last], True) for m in _METHODS]
        steps = [[self._steps(races, b, s) for s in range(self.seeds)] for b in self.race_batches]
        fits = [fit(self.race_batches, [row[s] for row in steps]) for s in range(self.seeds)]
        model = [[f.least * (1.0 + f.critical / b) for f in fits] for b in self.race_batches]
        at = min(len(found) for found in scales)
        way = [band("noise scale", [scales[0][k][0] for k in range(at)], [[found[k][1] for found in scales] for k in range(at)], True)]
        return (
            Figure("Test accuracy after equal epochs", "batch", "test accuracy", tuple(lines), log_x=True),
            Figure("Training loss at the largest batches, rates tuned", "batch", "training loss", tuple(tuned), log_x=True, log_y=True),
            Figure(
                f"Steps to the training loss {self.target:g}",
                "batch",
                "steps",
                (band("measured", self.race_batches, steps, True), band("fitted", self.race_batches, model, True)),
                log_x=True,
                log_y=True,
            ),
            *([Figure("Gradient noise scale on the way", "step", "samples", tuple(way), log_y=True)] if at else []),
        )

    def _make(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, self.width), nn.ReLU(), nn.Linear(self.width, 10))

    def _count(self, batch: int) -> int:
        return self.epochs * (self.train // batch)

    def _ramp(self, batch: int, warm: bool) -> Tensor:
        """What the rate is multiplied by at each step: 1, or a linear rise to it."""
        steps = self._count(batch)
        rise = max(1, round(self.warm * steps)) if warm else 1
        return ((torch.arange(steps) + 1) / rise).clamp_max(1.0)

    def _sgd(self, data: Digits, batch: int, rates: Sequence[float], seeds: Sequence[int], warm: bool) -> list[list[_Outcome]]:
        """Outcomes ``[rates][seeds]`` with momentum 0.9."""
        members = Replicas([seeded(self._make, s) for _ in rates for s in seeds])
        order = orders(seeds, len(data.x), batch, self._count(batch)).repeat(len(rates), 1, 1)
        each = torch.tensor(rates).repeat_interleave(len(seeds))
        members.train(data.x, data.y, order, each[:, None] * self._ramp(batch, warm), 0.9)
        pairs = zip(members.losses(data.x, data.y).tolist(), members.accuracies(data.test_x, data.test_y).tolist(), strict=True)
        flat = [_Outcome(loss if math.isfinite(loss) else math.inf, accuracy) for loss, accuracy in pairs]
        return [flat[k * len(seeds) : (k + 1) * len(seeds)] for k in range(len(rates))]

    def _tuning_seeds(self) -> range:
        return range(1000, 1000 + self.tuning)

    def _tune(self, data: Digits, batch: int, rates: Sequence[float]) -> list[float]:
        """The best rate of each tuning seed."""
        found = self._sgd(data, batch, rates, self._tuning_seeds(), warm=True)
        return [rates[min(range(len(rates)), key=lambda k, s=s: found[k][s].loss)] for s in range(self.tuning)]

    def _scaled(self, data: Digits, base: float) -> dict[tuple[str, int], list[_Outcome]]:
        found = {}
        for batch in self.batches:
            k = batch / self.batches[0]
            for kind, rate, warm in (("scaled, warm-up", k * base, True), ("scaled, at once", k * base, False), ("not scaled", base, True)):
                found[kind, batch] = self._sgd(data, batch, [rate], range(self.seeds), warm)[0]
        return found

    def _method(self, data: Digits, method: str, batch: int) -> tuple[float, list[_Outcome]]:
        """The best rate over the tuning seeds, and the outcomes at it on the others."""
        low = _METHODS[method][1]
        rates = geometric(low, low * 2.0 ** (self.grid - 1), 2.0)

        def mean(rate: float) -> float:
            losses = [self._single(data, method, batch, rate, seed).loss for seed in self._tuning_seeds()]
            return sum(losses) / len(losses)

        best = min(rates, key=mean)
        return best, [self._single(data, method, batch, best, seed) for seed in range(self.seeds)]

    def _single(self, data: Digits, method: str, batch: int, rate: float, seed: int) -> _Outcome:
        name, _, options = _METHODS[method]
        model = seeded(self._make, seed)
        optimizer = find(name).build(model.parameters(), lr=rate, **options)
        for index, factor in zip(orders([seed], len(data.x), batch, self._count(batch))[0], self._ramp(batch, True).tolist(), strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad()
            functional.cross_entropy(model(data.x[index]), data.y[index]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(functional.cross_entropy(model(data.x), data.y))
            accuracy = float((model(data.test_x).argmax(1) == data.test_y).double().mean())
        return _Outcome(loss if math.isfinite(loss) else math.inf, accuracy)

    def _steps(self, races: dict[int, Race], batch: int, seed: int) -> float:
        """Steps to the loss; where no rate arrived, the limit, which is too few."""
        steps = races[batch].steps[seed]
        return steps if math.isfinite(steps) else float(max(4, round(self.limit * (self.race_batches[0] / batch) ** 0.5)))

    def _scale(self, data: Digits, races: dict[int, Race], seed: int) -> list[tuple[int, float]]:
        """Along the run at the middle batch and its best rate, until the loss is reached."""
        batch = self.race_batches[len(self.race_batches) // 2]
        steps = max(1, round(self._steps(races, batch, seed)))
        return scale_on_the_way(self._make, data, batch, races[batch].rates[seed], seed, steps, 10)


def _rates(rates: Sequence[float]) -> str:
    return ", ".join(f"{r:g}" for r in sorted(set(rates)))
