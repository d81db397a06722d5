"""How little it takes to change a network's answer, and what Lipschitz constants say of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.bounds import Product
from steepest.graph import Graph
from steepest.measures.jacobian import singular_values
from steepest.results import Claim, Domain, Figure, Interval, Series
from steepest.studies.bounded import proven_constant, radii, relu_graph
from steepest.studies.digits import Digits, load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, he_, seeded
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, text, together
from steepest.witnesses.ascent import GradientAscent


@dataclass(frozen=True, eq=False)
class _Seen:
    """One network, in l2.

    Args:
        error: on all test images.
        attacked: ``[n]``, distance of the nearest other answer that was found.
        scattered: ``[n]``, median distance to another answer along random directions.
        share: per multiple of the attacked radius, of images whose answer random perturbations that long change.
        transfer: per multiple, of other networks' answers that the attack on this one changes.
        random: per multiple, of their answers that random perturbations of that length change.
        certified: per kind of constant, ``[n]``, proven radii.
        constants: product, proven, found and median local ones.
    """

    error: float
    attacked: Tensor
    scattered: Tensor
    share: dict[float, float]
    transfer: dict[float, float]
    random: dict[float, float]
    certified: dict[str, Tensor]
    constants: dict[str, float]


@dataclass(frozen=True)
class Sensitivity(Study):
    """Dense ReLU networks trained as usual on digits, attacked in l2.

    Args:
        width: of both hidden layers.
        deep: hidden layers of deeper networks, of which the constants alone are looked at.
        steps: of SGD with momentum 0.9.
        batch: samples in one.
        rate: of training.
        images: of the test set, rightly answered by all networks, that are attacked.
        directions: random ones for each image.
        climbs: steps of the search for a lower bound.
        multiples: of the attacked radius, at which random perturbations and transfer are tried.
    """

    name: ClassVar[str] = "sensitivity"
    question: ClassVar[str] = "How little does it take to change an ordinary network's answer, and do Lipschitz constants tell?"
    seeds: int = 6
    width: int = 128
    deep: tuple[int, ...] = (64,) * 6
    steps: int = 600
    batch: int = 50
    rate: float = 0.05
    images: int = 100
    directions: int = 20
    climbs: int = 1200
    multiples: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)

    def measure(self, progress: Progress) -> Findings:
        """Train the networks, attack each, try its perturbations on the others."""
        data = load_digits()
        graphs = self._train(data, (self.width, self.width), progress)
        test = data.test_x.flatten(1).double()
        answers = torch.stack([_answer(g, test) for g in graphs])
        right = (answers == data.test_y).all(0).nonzero().flatten()[: self.images]
        x, y = test[right], data.test_y[right]
        same, other = _distances(x, y, data.x.flatten(1).double(), data.y)
        seen = []
        for k, graph in enumerate(graphs):
            progress(f"network {k + 1} of {len(graphs)}", 0.2 + 0.4 * k / len(graphs))
            error = float((answers[k] != data.test_y).double().mean())
            seen.append(self._look(graph, [g for g in graphs if g is not graph], x, error, k))
        deep = []
        for k, graph in enumerate(self._train(data, self.deep, lambda stage, fraction: progress(stage, 0.6 + fraction))):
            progress(f"deeper network {k + 1}", 0.8 + 0.2 * k / self.seeds)
            deep.append(self._constants(graph, data.test_x.flatten(1).double()[: self.images], k))
        return Findings(
            f"64-{self.width}-{self.width}-10 ReLU networks on digits, {self.steps} steps of SGD with momentum 0.9, batch {self.batch}, "
            f"rate {self.rate:g}; {len(x)} test images that all networks answer rightly; lengths in l2; attack: "
            f"DeepFool and projected descent; deeper networks with layers of {', '.join(map(str, self.deep))} for the constants alone",
            (
                self._small_claim(seen, other),
                self._neighbour_claim(seen, same, other),
                *self._random_claims(seen),
                self._transfer_claim(seen),
                *self._constant_claims([s.constants for s in seen], deep),
                *self._certificate_claims(seen),
            ),
            self._figures(seen, other),
        )

    def _train(self, data: Digits, hidden: Sequence[int], progress: Progress) -> list[Graph]:
        members = Replicas([seeded(lambda: _network(hidden), seed) for seed in range(self.seeds)])
        order = orders(range(self.seeds), len(data.x), self.batch, self.steps)

        def each_step(step: int) -> None:
            if step % 20 == 0:
                progress("training", 0.2 * step / self.steps)

        members.train(data.x.flatten(1), data.y, order, torch.full((self.seeds,), self.rate), 0.9, each_step)
        parameters = [[p[k] for p in members.parameters.values()] for k in range(self.seeds)]
        return [relu_graph(p[::2], p[1::2]) for p in parameters]

    def _look(self, graph: Graph, others: Sequence[Graph], x: Tensor, error: float, seed: int) -> _Seen:
        generator = torch.Generator().manual_seed(seed)
        constants = self._constants(graph, x, seed)
        found = radii(graph, x, {name: constants[name] for name in ("product", "proven")}, True, seed)
        attacked, towards = found.attacked, found.towards
        directions = functional.normalize(torch.randn(self.directions, *x.shape, generator=generator, dtype=torch.float64), dim=-1)
        share, transfer, random = {}, {}, {}
        for m in self.multiples:
            length = (m * attacked)[:, None]
            moved = x + length * directions
            share[m] = _changed(graph, x, moved)
            transfer[m] = _mean(_changed(g, x, (x + length * towards)[None]) for g in others)
            random[m] = _mean(_changed(g, x, moved) for g in others)
        scattered = _along(graph, x, directions).median(0).values
        return _Seen(error, attacked, scattered, share, transfer, random, found.proven, constants)

    def _constants(self, graph: Graph, x: Tensor, seed: int) -> dict[str, float]:
        found = GradientAscent(seconds=math.inf, seed=seed, starts=16, steps=self.climbs).search(graph, Domain("all"), 2.0, x[:, None])
        assert found is not None
        slopes = singular_values(lambda z: _outputs(graph, z), x)[:, 0]
        return {
            "product": Product().bound(graph, Domain("all"), 2.0).value,
            "proven": proven_constant(graph),
            "found": found.value,
            "local": float(slopes.median()),
        }

    def _small_claim(self, seen: list[_Seen], other: Tensor) -> Claim:
        small = mean_interval([float((s.attacked < 0.25 * other).double().mean()) for s in seen])
        ratio = mean_interval([float((s.attacked / other).median()) for s in seen])
        error = mean_interval([s.error for s in seen])
        return Claim(
            "Perturbations much smaller than the distance between classes change nearly every right answer.",
            "Szegedy et al. 2014, section 4",
            "For a share above 0.9 of the images the attacked radius is below a quarter of the distance to the nearest training image of "
            "another class; a half would be the most that is possible between the two.",
            above(small, 0.9),
            f"The share is {text(small)}, the median ratio {text(ratio)}, at a test error of {text(error)}.",
            {"share": small, "median ratio": ratio, "test error": error},
        )

    def _neighbour_claim(self, seen: list[_Seen], same: Tensor, other: Tensor) -> Claim:
        nearest = 0.5 * (other - same).clamp(min=0.0)
        ratio = ratio_interval([float(nearest.median())] * len(seen), [float(s.attacked.median()) for s in seen])
        return Claim(
            "More is possible: the nearest neighbour's answer is provably safe in a larger radius than the network's attacked one.",
            "Wang, Jha and Chaudhuri 2018, of the robustness of nearest neighbours; the comparison is ours",
            "The median over images of half the difference of the distances to the nearest training images of another and of the same "
            "class, over the median attacked radius, is above 1.25.",
            above(ratio, 1.25),
            f"The ratio is {text(ratio)}.",
            {"nearest neighbour / network": ratio},
        )

    def _random_claims(self, seen: list[_Seen]) -> tuple[Claim, ...]:
        harm = mean_interval([s.share[self.multiples[0]] for s in seen])
        ratio = ratio_interval([float((s.scattered / s.attacked).median()) for s in seen], [1.0] * len(seen))
        root = math.sqrt(64.0)
        return (
            Claim(
                "Random perturbations of the same size are harmless.",
                "Szegedy et al. 2014, section 4.1",
                "They change less than 0.01 of the answers.",
                below(harm, 0.01),
                f"They change {text(harm)}.",
                {"share changed": harm},
            ),
            Claim(
                "Along random directions another answer is farther by about the root of the dimension.",
                "Fawzi, Moosavi-Dezfooli and Frossard 2016, theorem 1",
                f"The median ratio of the two distances is between half of and twice sqrt(64) = {root:g}.",
                inside(_log(ratio, root), math.log(2.0)),
                f"The ratio is {text(ratio)}.",
                {"random / attacked": ratio},
            ),
        )

    def _transfer_claim(self, seen: list[_Seen]) -> Claim:
        at = self.multiples[len(self.multiples) // 2]
        changed = mean_interval([s.transfer[at] for s in seen])
        more = mean_interval([s.transfer[at] - s.random[at] for s in seen])
        return Claim(
            "What changes one network's answer changes those of others, trained from other weights in another order.",
            "Szegedy et al. 2014, section 4.2; Goodfellow et al. 2015, section 8",
            f"Perturbations found for one network, made {at:g} times as long, change above 0.25 of the others' answers, and "
            "random ones of that length fewer by more than 0.1.",
            together((above(changed, 0.25), above(more, 0.1))),
            f"They change {text(changed)}, that is {text(more)} more than random ones.",
            {"changed": changed, "more than random": more},
        )

    def _constant_claims(self, shallow: list[dict[str, float]], deep: list[dict[str, float]]) -> tuple[Claim, ...]:
        kinds = {"2 hidden layers": shallow, f"{len(self.deep)} hidden layers": deep}

        def over(a: str, b: str) -> dict[str, Interval]:
            return {f"{a} / {b}, {n}": ratio_interval([s[a] for s in seen], [s[b] for s in seen]) for n, seen in kinds.items()}

        loose, close, local = over("product", "found"), over("proven", "found"), over("found", "local")
        return (
            Claim(
                "The product of the layers' norms, by which the instability was explained, overstates the Lipschitz constant.",
                "Szegedy et al. 2014, section 4.3; Virmaux and Scaman 2018",
                "The product over the steepest secant found is above 2, at both depths.",
                together(above(i, 2.0) for i in loose.values()),
                f"It is {listed(loose)}; what is proven by LipSDP is {listed(close)}.",
                loose | close,
            ),
            Claim(
                "Where the images are, the network is less steep than it is somewhere.",
                "Hein and Andriushchenko 2017, section 2; Weng et al. 2018",
                "The steepest secant found over the median norm of the Jacobian at test images is above 1.25, at both depths.",
                together(above(i, 1.25) for i in local.values()),
                f"The ratios are {listed(local)}.",
                local,
            ),
        )

    def _certificate_claims(self, seen: list[_Seen]) -> tuple[Claim, ...]:
        shares = {n: mean_interval([float((s.certified[n] / s.attacked).median()) for s in seen]) for n in ("product", "proven", "local")}
        whole = {n: shares[n] for n in ("product", "proven")}
        medians = {n: [float(s.certified[n].median()) for s in seen] for n in shares}
        more = ratio_interval(medians["local"], medians["proven"])
        return (
            Claim(
                "Global constants of ordinary networks certify only a small part of the radius that the attack needs.",
                "Hein and Andriushchenko 2017, section 5; Tsuzuku et al. 2018, section 6",
                "The median ratio of proven to attacked radius is below 0.5 with the product and with LipSDP's bound.",
                together(below(i, 0.5) for i in whole.values()),
                f"The ratios are {listed(whole)}.",
                whole,
            ),
            Claim(
                "Bounds over the ball alone certify more.",
                "Hein and Andriushchenko 2017, theorem 2.1; Zhang et al. 2018 (CROWN)",
                "The median radius proven by linear bounds and intervals over that by LipSDP's global constant is above 1.25.",
                above(more, 1.25),
                f"It is {text(more)} times as large, and {text(shares['local'])} of the attacked one.",
                {"local / LipSDP": more, "local / attacked": shares["local"]},
            ),
        )

    def _figures(self, seen: list[_Seen], other: Tensor) -> tuple[Figure, ...]:
        levels = [k / 20 for k in range(1, 20)]

        def curve(name: str, values: Callable[[_Seen], Tensor]) -> Series:
            return band(name, levels, [[float(values(s).quantile(q)) for s in seen] for q in levels], True)

        def multiples(name: str, values: Callable[[_Seen], Mapping[float, float]]) -> Series:
            return band(name, self.multiples, [[values(s)[m] for s in seen] for m in self.multiples])

        return (
            Figure(
                "Radii, over the distance to the nearest image of another class",
                "share of the images below",
                "ratio",
                (
                    curve("random directions", lambda s: s.scattered / other),
                    curve("attacked", lambda s: s.attacked / other),
                    curve("proven, local bounds", lambda s: s.certified["local"] / other),
                    curve("proven, LipSDP", lambda s: s.certified["proven"] / other),
                    curve("proven, product", lambda s: s.certified["product"] / other),
                ),
                log_y=True,
                caption="The truth lies between proven and attacked; half would be ideal.",
            ),
            Figure(
                "Answers changed by perturbations of several lengths",
                "length over the attacked radius",
                "share changed",
                (
                    multiples("the attack, on other networks", lambda s: s.transfer),
                    multiples("random, on other networks", lambda s: s.random),
                    multiples("random, on the network itself", lambda s: s.share),
                ),
            ),
        )


def _network(hidden: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise((64, *hidden)):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return he_(nn.Sequential(*layers, nn.Linear(hidden[-1], 10)))


def _outputs(graph: Graph, x: Tensor) -> Tensor:
    """``[..., 64]`` to ``[..., 10]``."""
    return graph.evaluate(x.unsqueeze(-2)).squeeze(-2)


def _answer(graph: Graph, x: Tensor) -> Tensor:
    return _outputs(graph, x).argmax(-1)


def _changed(graph: Graph, x: Tensor, moved: Tensor) -> float:
    """The share of answers at ``moved`` that are not those at x."""
    return float((_answer(graph, moved) != _answer(graph, x)).double().mean())


def _along(graph: Graph, x: Tensor, directions: Tensor) -> Tensor:
    """``[directions, n]``: distance to the first other answer along each ray, to 5 %; a hundred times the image's norm at most."""
    farthest = 100.0 * x.norm(dim=1)
    length = (1e-3 * farthest).expand(directions.shape[:2]).clone()
    answer, open_ = _answer(graph, x), torch.ones(directions.shape[:2], dtype=torch.bool)
    while open_.any():
        open_ &= (_answer(graph, x + length[..., None] * directions) == answer) & (length < farthest)
        length = torch.where(open_, 1.05 * length, length)
    return length


def _distances(x: Tensor, y: Tensor, others: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each image to the nearest of the same and of another class."""
    apart = torch.cdist(x, others)
    same = y[:, None] == labels
    return torch.where(same, apart, math.inf).amin(1), torch.where(same, math.inf, apart).amin(1)


def _log(ratio: Interval, of: float) -> Interval:
    return Interval(*(math.log(v / of) for v in (ratio.value, ratio.low, ratio.high)))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
