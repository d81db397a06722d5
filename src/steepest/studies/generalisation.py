"""Norms and margins against what networks generalise: true and random labels, more and fewer samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from steepest.measures.generalisation import generalise
from steepest.measures.margin_bound import margins
from steepest.measures.spectral_complexity import chain
from steepest.results import Claim, Figure, Generalisation, Interval, Series
from steepest.studies.bounded import proven_constant, relu_graph
from steepest.studies.digits import Digits, load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, he_, seeded
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, slope, text, together


def network(width: int) -> nn.Module:
    """64 inputs, two hidden ReLU layers, ten classes, without biases, as the theorem has it."""
    layers = [nn.Linear(64, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False), nn.ReLU(), nn.Linear(width, 10, bias=False)]
    return he_(nn.Sequential(*layers))


def noisy_labels(labels: Tensor, share: float, seed: int) -> Tensor:
    """Labels of which a share, drawn at random, is drawn anew among the ten classes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(labels), generator=generator) < share
    return torch.where(drawn, torch.randint(0, 10, labels.shape, generator=generator), labels)


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's rank correlation: pairs in the same order less pairs in opposite order, over all pairs."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    return sum(_sign(x[i] - x[j]) * _sign(y[i] - y[j]) for i, j in pairs) / len(pairs)


def exceeds(a: Tensor, b: Tensor) -> float:
    """The probability that an entry of a is above one of b, ties counting half."""
    ordered = b.sort().values
    under = torch.searchsorted(ordered, a) + torch.searchsorted(ordered, a, right=True)
    return float(under.double().mean()) / (2 * len(b))


@dataclass(frozen=True)
class _Case:
    """One training: what share of labels is random, how many samples, which seed."""

    share: float
    samples: int
    seed: int


@dataclass(frozen=True)
class _Moment:
    """One network at one step."""

    train: float
    test: float
    product: float
    complexity: float
    margin: float

    @property
    def gap(self) -> float:
        """Excess risk: test error less training error."""
        return self.test - self.train


@dataclass(frozen=True)
class _Trained:
    """One network at the end, and on the way there."""

    course: tuple[_Moment, ...]
    found: Generalisation
    proven: float


@dataclass(frozen=True)
class GeneralisationStudy(Study):
    """Dense networks without biases on digits, some of whose labels (in training and test) are random.

    Args:
        width: of both hidden layers.
        steps: of SGD with momentum 0.9, in all training.
        batch: samples in one.
        rate: of all training.
        shares: of random labels, rising from 0 to 1.
        samples: to train on; the smaller ones with true labels alone.
    """

    name: ClassVar[str] = "generalisation"
    question: ClassVar[str] = "Do Lipschitz constants, norms and margins tell networks that generalise from those that do not?"
    seeds: int = 8
    width: int = 128
    steps: int = 1280
    batch: int = 50
    rate: float = 0.02
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    samples: tuple[int, ...] = (125, 250, 500, 1000)

    def measure(self, progress: Progress) -> Findings:
        """Train all networks side by side, then measure each."""
        most = self.samples[-1]
        data = load_digits(most)
        cases = [_Case(share, most, seed) for share in self.shares for seed in range(self.seeds)]
        cases += [_Case(0.0, n, seed) for n in self.samples[:-1] for seed in range(self.seeds)]
        trained = self._train(data, cases, progress)
        by_share = {s: [t for c, t in trained.items() if c.share == s and c.samples == most] for s in self.shares}
        by_samples = {n: [t for c, t in trained.items() if c.share == 0.0 and c.samples == n] for n in self.samples}
        return Findings(
            f"64-{self.width}-{self.width}-10 ReLU networks without biases, {most} digits or fewer, the other {len(data.test_y)} to test; "
            f"{self.steps} steps of SGD with momentum 0.9, batch {self.batch}, rate {self.rate:g}; a share of all labels, of the test's "
            f"too, drawn at random; norms as proven, from zero; the margin of a network is the median over its training samples",
            (
                self._fit_claim(by_share),
                self._complexity_claim(by_share),
                *self._margin_claims(by_share),
                *self._course_claims(by_share),
                self._order_claim(by_share),
                self._samples_claim(by_samples),
                self._vacuous_claim([*trained.values()]),
            ),
            self._figures(by_share, by_samples),
        )

    def _train(self, data: Digits, cases: Sequence[_Case], progress: Progress) -> dict[_Case, _Trained]:
        x, test_x = data.x.flatten(1), data.test_x.flatten(1)
        labels = [noisy_labels(torch.cat([data.y, data.test_y]), c.share, c.seed) for c in cases]
        members = Replicas([seeded(lambda: network(self.width), c.seed) for c in cases])
        # One training set for each network, one behind the other.
        order = torch.cat([orders([c.seed], c.samples, self.batch, self.steps) + k * len(x) for k, c in enumerate(cases)])
        kept: dict[int, dict[str, Tensor]] = {}

        def each_step(step: int) -> None:
            if step % 20 == 0:
                progress(f"step {step} of {self.steps}", 0.8 * step / self.steps)
            if step in self._steps_seen():
                kept[step] = dict(members.parameters)

        rates = torch.full((len(cases),), self.rate)
        members.train(x.repeat(len(cases), 1), torch.cat([y[: len(x)] for y in labels]), order, rates, 0.9, each_step)
        kept[self.steps] = dict(members.parameters)
        trained = {}
        for k, (case, y) in enumerate(zip(cases, labels, strict=True)):
            progress(f"network {k + 1} of {len(cases)}", 0.8 + 0.2 * k / len(cases))
            n = case.samples
            course = tuple(_moment([p[k] for p in kept[s].values()], x[:n], y[:n], test_x, y[len(x) :]) for s in self._steps_seen())
            graph = relu_graph([p[k] for p in members.parameters.values()])
            found = generalise(graph, x[:n, None].double(), y[:n])
            trained[case] = _Trained(course, found, proven_constant(graph))
        return trained

    def _steps_seen(self) -> tuple[int, ...]:
        """Steps after which networks are looked at: the last one and halves of it."""
        return tuple(sorted({max(1, self.steps >> k) for k in range(8)}))

    def _fit_claim(self, by_share: dict[float, list[_Trained]]) -> Claim:
        wrong = mean_interval([t.course[-1].train for t in by_share[1.0]])
        rest = mean_interval([t.course[-1].test for t in by_share[0.0]])
        return Claim(
            "The same network learns true labels, and labels that are noise by heart.",
            "Zhang et al. 2017, section 2",
            "With random labels alone the training error is below 0.01; with true labels the test error is below 0.1.",
            together((below(wrong, 0.01), below(rest, 0.1))),
            f"Training error with random labels {text(wrong)}; test error with true ones {text(rest)}.",
            {"training error, random": wrong, "test error, true": rest},
        )

    def _complexity_claim(self, by_share: dict[float, list[_Trained]]) -> Claim:
        r = {s: [t.found.complexity for t in runs] for s, runs in by_share.items()}
        ratio = ratio_interval(r[1.0], r[0.0])
        order = mean_interval([kendall(self.shares, [r[s][k] for s in self.shares]) for k in range(self.seeds)])
        return Claim(
            "The more labels are random, the greater is the spectral complexity that training ends at.",
            "Bartlett, Foster and Telgarsky 2017, section 1: it scales with the difficulty of the task",
            "Complexity with random over that with true labels is above 1.25, and Kendall's rank correlation with the share of random "
            "labels above 0.5.",
            together((above(ratio, 1.25), above(order, 0.5))),
            f"With random labels it is {text(ratio)} times as great; the correlation is {text(order)}.",
            {"random / true": ratio, "correlation": order},
        )

    def _margin_claims(self, by_share: dict[float, list[_Trained]]) -> tuple[Claim, ...]:
        middle = self.shares[len(self.shares) // 2]
        pairs = {"true labels": (0.0, 1.0), "half of them": (middle, 1.0), "true, half": (0.0, middle)}
        names = {"true labels": "true above random", "half of them": "half above random", "true, half": "true above half"}

        def found(normalised: bool) -> dict[str, Interval]:
            def values(t: _Trained) -> Tensor:
                return torch.from_numpy(t.found.normalised_margins if normalised else t.found.margins)

            return {
                names[key]: mean_interval([exceeds(values(p), values(q)) for p, q in zip(by_share[a], by_share[b], strict=True)])
                for key, (a, b) in pairs.items()
            }

        bare, normalised = found(False), found(True)
        return (
            Claim(
                "Normalised margins tell true labels from random ones.",
                "Bartlett et al. 2017, figure 2 (b)",
                "The probability that a sample's normalised margin is greater with fewer random labels is above 0.75 for each pair of "
                "none, half and all.",
                together(above(i, 0.75) for i in normalised.values()),
                f"The probabilities are {listed(normalised)}.",
                normalised,
            ),
            Claim(
                "Margins that are not normalised hardly do.",
                "Bartlett et al. 2017, figure 2 (a)",
                "The same probability of margins as they are is within 0.25 of 0.5 for each pair.",
                together(inside(_less(i, 0.5), 0.25) for i in bare.values()),
                f"The probabilities are {listed(bare)}.",
                bare,
            ),
        )

    def _course_claims(self, by_share: dict[float, list[_Trained]]) -> tuple[Claim, ...]:
        kinds = {"true": 0.0, "random": 1.0}
        tau = {
            n: mean_interval([kendall([m.product for m in t.course], [m.gap for m in t.course]) for t in by_share[s]])
            for n, s in kinds.items()
        }
        true = by_share[0.0]
        early = -4  # an eighth of all steps
        growth = ratio_interval([t.course[-1].product for t in true], [t.course[early].product for t in true])
        settled = mean_interval([t.course[-1].gap - t.course[early].gap for t in true])
        pairs = [(t.course[-1], t.course[early]) for t in true]
        scaled = ratio_interval([a.product / a.margin for a, _ in pairs], [b.product / b.margin for _, b in pairs])
        return (
            Claim(
                "In the course of training the Lipschitz constant, as the product of spectral norms, follows the excess risk.",
                "Bartlett et al. 2017, figure 1",
                "Kendall's correlation of the two over the steps looked at is above 0.5, with true and with random labels.",
                together(above(i, 0.5) for i in tau.values()),
                f"The correlations are {listed(tau)}.",
                tau,
            ),
            Claim(
                "The product goes on growing when the excess risk no longer does; over the margin it does not.",
                "Bartlett et al. 2017, section 1",
                "With true labels, over the last seven eighths of all steps: the product grows by a factor above 1.1, the excess risk "
                "changes by less than 0.02, and the product over the median margin grows by a factor below 1.1.",
                together((above(growth, 1.1), inside(settled, 0.02), below(scaled, 1.1))),
                f"The product grows {text(growth)}-fold, the excess risk by {text(settled)}, the product over the margin "
                f"{text(scaled)}-fold.",
                {"growth": growth, "change of the excess risk": settled, "growth over margin": scaled},
            ),
        )

    def _order_claim(self, by_share: dict[float, list[_Trained]]) -> Claim:
        found = {}
        for name in _measures(by_share[0.0][0]):
            rows = [[_measures(by_share[s][k])[name] for s in self.shares] for k in range(self.seeds)]
            gaps = [[by_share[s][k].course[-1].gap for s in self.shares] for k in range(self.seeds)]
            found[name] = mean_interval([kendall(row, gap) for row, gap in zip(rows, gaps, strict=True)])
        return Claim(
            "Over the margin, Lipschitz constants, spectral complexity and path norms order networks by their generalisation gap.",
            "Neyshabur et al. 2017, section 3; Bartlett et al. 2017",
            "Over the shares of random labels Kendall's correlation with the gap is above 0.5 for each measure.",
            together(above(i, 0.5) for i in found.values()),
            f"The correlations are {listed(found)}.",
            found,
        )

    def _samples_claim(self, by_samples: dict[int, list[_Trained]]) -> Claim:
        logs = [math.log(n) for n in self.samples]

        def exponent(value: Mapping[int, list[float]]) -> Interval:
            return mean_interval([slope(logs, [math.log(value[n][k]) for n in self.samples]) for k in range(self.seeds)])

        bound = exponent({n: [t.found.bound.complexity for t in runs] for n, runs in by_samples.items()})
        # No error at all would have no logarithm.
        error = exponent({n: [max(t.course[-1].test, 1e-3) for t in runs] for n, runs in by_samples.items()})
        return Claim(
            "With more samples the error falls and the bound rises.",
            "Nagarajan and Kolter 2019, section 2",
            "Over the numbers of samples, with true labels, the exponent of the bound's part from norms is above 0 and that of the test "
            "error below 0.",
            together((above(bound, 0.0), below(error, 0.0))),
            f"The bound's exponent is {text(bound)}, the error's {text(error)}.",
            {"exponent of the bound": bound, "exponent of the error": error},
        )

    def _vacuous_claim(self, trained: Sequence[_Trained]) -> Claim:
        least = min(math.log10(t.found.bound.value) for t in trained)
        logs = mean_interval([math.log10(t.found.bound.value) for t in trained[: self.seeds]])
        tighter = mean_interval([math.log10(t.found.product / t.proven) for t in trained[: self.seeds]])
        return Claim(
            "As a promise the bound is worth nothing at this size: it allows an error above 1.",
            "Dziugaite and Roy 2017, section 1, of such bounds",
            "The common logarithm of the whole bound with true labels is above 0; so it would be with the proven Lipschitz constant in "
            "place of the product of norms.",
            together((above(logs, 0.0), above(_difference(logs, tighter), 0.0))),
            f"The logarithm is {text(logs)}, the least of all networks' {least:.3g}; the proven constant would take off {text(tighter)}, "
            "if the theorem's proof allowed it.",
            {"log10 of the bound": logs, "log10 of product / proven constant": tighter},
        )

    def _figures(self, by_share: dict[float, list[_Trained]], by_samples: dict[int, list[_Trained]]) -> tuple[Figure, ...]:
        shown = (self.shares[0], self.shares[len(self.shares) // 2], self.shares[-1])
        names = {s: f"{100 * s:g} % random" for s in shown}
        levels = [k / 20 for k in range(1, 20)]

        def course(kind: str) -> tuple[Series, ...]:
            lines = []
            for s in shown:
                rows = [[getattr(m, kind) for m in moments] for moments in zip(*(t.course for t in by_share[s]), strict=True)]
                lines.append(band(names[s], self._steps_seen(), rows, kind == "complexity"))
            return tuple(lines)

        gaps = [sum(t.course[-1].gap for t in by_share[s]) / self.seeds for s in self.shares]
        measures = {s: [_measures(t) for t in runs] for s, runs in by_share.items()}
        relative = {
            n: [[m[n] / true[n] for m, true in zip(measures[s], measures[0.0], strict=True)] for s in self.shares] for n in measures[0.0][0]
        }
        quantiles = {s: [[float(np.quantile(t.found.normalised_margins, q)) for t in by_share[s]] for q in levels] for s in shown}
        return (
            Figure("Excess risk in training", "step", "test error - training error", course("gap"), log_x=True),
            Figure("Spectral complexity in training", "step", "R", course("complexity"), log_x=True, log_y=True),
            Figure(
                "Normalised margins",
                "share of the training samples below",
                "margin n / (R |X|)",
                tuple(band(names[s], levels, quantiles[s]) for s in shown),
                caption="Each curve is one distribution; the higher, the easier the task.",
            ),
            Figure(
                "Measures over the margin against the gap, each over its value with true labels",
                "excess risk",
                "factor",
                tuple(band(n, gaps, rows, True) for n, rows in relative.items()),
                log_y=True,
            ),
            Figure(
                "The bound with more samples, true labels",
                "samples",
                "bound of the error",
                (
                    band("whole bound", self.samples, [[t.found.bound.value for t in by_samples[n]] for n in self.samples], True),
                    band("test error", self.samples, [[max(t.course[-1].test, 1e-3) for t in by_samples[n]] for n in self.samples], True),
                ),
                log_x=True,
                log_y=True,
            ),
        )


def _moment(weights: Sequence[Tensor], x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> _Moment:
    layers = chain(relu_graph(weights))
    found, other = margins(_outputs(weights, x), y), margins(_outputs(weights, test_x), test_y)
    middle = max(float(found.median()), 1e-6)
    return _Moment(float((found <= 0).double().mean()), float((other <= 0).double().mean()), layers.product, layers.complexity, middle)


def _outputs(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    for k, w in enumerate(weights):
        x = (x.relu() if k else x) @ w.T
    return x


def _measures(t: _Trained) -> dict[str, float]:
    """What is held against the gap, each over the median margin."""
    margin, found = t.course[-1].margin, t.found
    assert found.path_norms is not None
    values = {"complexity": found.complexity, "product": found.product, "proven constant": t.proven}
    values |= {"l1 path norm": found.path_norms[0], "l2 path norm": found.path_norms[1]}
    return {name: v / margin for name, v in values.items()}


def _less(interval: Interval, shift: float) -> Interval:
    return Interval(interval.value - shift, interval.low - shift, interval.high - shift)


def _difference(a: Interval, b: Interval) -> Interval:
    """Of two intervals, as if their ends fell together at the worst."""
    return Interval(a.value - b.value, a.low - b.high, a.high - b.low)


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)
