"""Certified and attacked radii of 1-Lipschitz networks trained at several temperatures, against ordinary ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from steepest.bounds import Product
from steepest.capture.builder import Builder, Ref
from steepest.graph import Graph
from steepest.layers import MaxMin, orthogonalise
from steepest.ops import GroupSort
from steepest.results import Claim, Domain, Figure, Interval, Series
from steepest.studies.bounded import proven_constant, radii, relu_graph
from steepest.studies.digits import Digits, load_digits
from steepest.studies.figures import band
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import Findings, Progress, Study, he_, seeded
from steepest.studies.verdicts import above, below, listed, mean_interval, ratio_interval, text, together


class LipschitzNetwork(nn.Module):
    """Orthogonal layers with MaxMin between them; its outputs times a temperature, which is a constant.

    Source: Anil, Lucas and Grosse 2019.
    """

    temperature: Tensor

    def __init__(self, sizes: Sequence[int], temperature: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [orthogonalise(nn.Linear(a, b)), MaxMin()]
        self.body = nn.Sequential(*layers[:-1])
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs]`` to ``[n, classes]``."""
        return self.temperature * self.body(x)

    def graph(self) -> Graph:
        """Without the temperature, with its matrices as they are in float32."""
        layers = [layer for layer in self.body if isinstance(layer, nn.Linear)]
        builder = Builder()
        x = builder.input((1, layers[0].in_features))
        for k, layer in enumerate(layers):
            x = builder.dense(_max_min(builder, x) if k else x, layer.weight.detach().double(), layer.bias.detach().double())
        return builder.finish(x)


@dataclass(frozen=True, eq=False)
class _Seen:
    """One network.

    Args:
        train, test: share of wrong answers.
        certified: ``[n]`` for the test images looked at, zero where the answer is wrong.
        attacked: ``[n]``, likewise.
        constant: proven, over all inputs; what certified radii come from.
        local: ``[n]``, certified by bounds over the ball alone, of ordinary networks.
    """

    train: float
    test: float
    certified: Tensor
    attacked: Tensor
    constant: float
    local: Tensor | None = None

    def within(self, radius: float, certified: bool) -> float:
        """The share of images answered rightly, and unchanged within a radius."""
        return float(((self.certified if certified else self.attacked) > radius).double().mean())

    def locally(self, radius: float) -> float:
        """The share certified within a radius by local bounds."""
        assert self.local is not None
        return float((self.local > radius).double().mean())

    def median(self, certified: bool) -> float:
        """The median radius of those answered rightly."""
        found = self.certified if certified else self.attacked
        return float(found[self.attacked > 0].median()) if (self.attacked > 0).any() else 0.0


@dataclass(frozen=True)
class Temperature(Study):
    """Dense networks on digits in [0, 1]: orthogonal with MaxMin, at several temperatures, and ordinary ones with ReLU.

    Args:
        hidden: widths of the hidden layers, even numbers.
        temperatures: by which outputs are multiplied in the loss, rising.
        steps: of Adam.
        batch: samples in one.
        rate: of all training at its start; it falls to zero linearly.
        images: test images whose radii are looked for.
        radius: at which certified accuracies are compared.
    """

    name: ClassVar[str] = "robustness"
    question: ClassVar[str] = "What do a Lipschitz constant of 1 and the temperature of the loss do for robustness?"
    seeds: int = 6
    hidden: tuple[int, ...] = (64, 64)
    temperatures: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0, 256.0)
    steps: int = 1000
    batch: int = 50
    rate: float = 0.003
    images: int = 150
    radius: float = 0.25

    def measure(self, progress: Progress) -> Findings:
        """Train all networks side by side, bound and attack each."""
        data = load_digits()
        low, high = data.x.min(), data.x.max()
        data = replace(data, x=((data.x - low) / (high - low)).flatten(1), test_x=((data.test_x - low) / (high - low)).flatten(1))
        sizes = (64, *self.hidden, 10)
        bounded = [seeded(lambda t=t: LipschitzNetwork(sizes, t), seed) for t in self.temperatures for seed in range(self.seeds)]
        plain = [seeded(lambda: _ordinary(sizes), seed) for seed in range(self.seeds)]
        early = self._train(data, plain, progress, 0.0, 0.1)
        self._train(data, bounded, progress, 0.1, 0.6)
        seen = []
        for k, network in enumerate([*bounded, *plain]):
            progress(f"network {k + 1}", 0.6 + 0.4 * k / (len(bounded) + len(plain)))
            assert isinstance(network, (LipschitzNetwork, nn.Sequential))
            seen.append(self._look(network, data, k % self.seeds))
        by = {t: seen[k * self.seeds : (k + 1) * self.seeds] for k, t in enumerate(self.temperatures)}
        ordinary = seen[len(bounded) :]
        return Findings(
            f"dense networks on digits in [0, 1], hidden layers of {', '.join(map(str, self.hidden))}: orthogonal with MaxMin, "
            f"cross-entropy of outputs times {', '.join(f'{t:g}' for t in self.temperatures)}; ordinary with ReLU, times 1; "
            f"{self.steps} steps of Adam, rate {self.rate:g} falling to zero, batch {self.batch}; radii in l2 of {self.images} test "
            "images: proven by the margin over sqrt(2) times the proven constant, and attacked by DeepFool and projected descent",
            (
                self._accuracy_claim(by, ordinary),
                self._trade_claim(by),
                self._certified_claim(by, ordinary),
                *self._attacked_claims(by, ordinary),
                self._tight_claim(by, ordinary),
                self._growth_claim(early, ordinary),
            ),
            self._figures(by, ordinary),
        )

    def _train(self, data: Digits, networks: Sequence[nn.Module], progress: Progress, begin: float, end: float) -> list[float]:
        """Trains in place; the proven constants of ordinary networks after a quarter of the steps."""
        members = Replicas(networks)
        order = orders([k % self.seeds for k in range(len(networks))], len(data.x), self.batch, self.steps)
        early: list[float] = []
        made: list[torch.optim.Adam] = []

        def adam(parameters: list[nn.Parameter]) -> torch.optim.Adam:
            made.append(torch.optim.Adam(parameters, self.rate))
            return made[0]

        def each_step(step: int) -> None:
            made[0].param_groups[0]["lr"] = self.rate * (1.0 - step / self.steps)
            if step % 20 == 0:
                progress("training", begin + (end - begin) * step / self.steps)
            if step == self.steps // 4 and isinstance(networks[0], nn.Sequential):
                states = [[p[k] for p in members.parameters.values()] for k in range(len(networks))]
                early.extend(proven_constant(relu_graph(s[::2], s[1::2])) for s in states)

        members.descend(data.x, data.y, order, adam, each_step)
        for k, network in enumerate(networks):
            network.load_state_dict({n: p[k] for n, p in members.parameters.items()}, strict=False)
        return early

    def _look(self, network: LipschitzNetwork | nn.Sequential, data: Digits, seed: int) -> _Seen:
        if isinstance(network, LipschitzNetwork):
            graph = network.graph()
            constant = Product().bound(graph, Domain("all"), 2.0).value
        else:
            parameters = list(network.parameters())
            graph = relu_graph(parameters[::2], parameters[1::2])
            constant = proven_constant(graph)

        def outputs(x: Tensor) -> Tensor:
            return graph.evaluate(x[:, None])[:, 0]

        def wrong(x: Tensor, y: Tensor) -> float:
            return float((outputs(x.double()).argmax(1) != y).double().mean())

        x, y = data.test_x[: self.images].double(), data.test_y[: self.images]
        right = outputs(x).argmax(1) == y
        found = radii(graph, x, {"global": constant}, not isinstance(network, LipschitzNetwork), seed)
        # An answer that is wrong is not robust either.
        certified, local = (torch.where(right, found.proven[n], 0.0) if n in found.proven else None for n in ("global", "local"))
        assert certified is not None
        attacked = torch.where(right, found.attacked, 0.0)
        return _Seen(wrong(data.x, data.y), wrong(data.test_x, data.test_y), certified, attacked, constant, local)

    def _best(self, by: dict[float, list[_Seen]]) -> float:
        """The temperature with the best mean certified accuracy."""
        return max(by, key=lambda t: sum(s.within(self.radius, True) for s in by[t]))

    def _accuracy_claim(self, by: dict[float, list[_Seen]], ordinary: list[_Seen]) -> Claim:
        hot = by[self.temperatures[-1]]
        less = mean_interval([b.test - a.test for a, b in zip(ordinary, hot, strict=True)])
        fit = mean_interval([s.train for s in hot])
        return Claim(
            "A 1-Lipschitz network can answer as well as an ordinary one, and fit its training set as well.",
            "Bethune et al. 2022, section 3",
            "At the highest temperature its training error is below 0.005, and its test error above the ordinary network's by less "
            "than 0.01.",
            together((below(fit, 0.005), below(less, 0.01))),
            f"The training error is {text(fit)}; the test error is higher by {text(less)}.",
            {"training error": fit, "test error, 1-Lipschitz - ordinary": less},
        )

    def _trade_claim(self, by: dict[float, list[_Seen]]) -> Claim:
        cold, hot = by[self.temperatures[0]], by[self.temperatures[-1]]
        cost = mean_interval([a.test - b.test for a, b in zip(cold, hot, strict=True)])
        gain = ratio_interval([s.median(True) for s in cold], [s.median(True) for s in hot])
        return Claim(
            "The temperature trades accuracy for robustness: the lower, the larger the certified radii, and the more errors.",
            "Bethune et al. 2022, section 4",
            "From the highest to the lowest temperature the test error rises by more than 0.01, and the median certified radius of right "
            "answers grows by a factor above 1.25.",
            together((above(cost, 0.01), above(gain, 1.25))),
            f"The error rises by {text(cost)}, the radius by a factor of {text(gain)}.",
            {"rise of the error": cost, "factor of the radius": gain},
        )

    def _certified_claim(self, by: dict[float, list[_Seen]], ordinary: list[_Seen]) -> Claim:
        t = self._best(by)
        best = mean_interval([s.within(self.radius, True) for s in by[t]])
        plain = mean_interval([s.within(self.radius, True) for s in ordinary])
        clean = mean_interval([1.0 - s.test for s in by[t]])
        local = mean_interval([s.locally(self.radius) for s in ordinary])
        return Claim(
            "With a constant of 1 in training most answers can be certified, of ordinary networks hardly any.",
            "Tsuzuku, Sato and Sugiyama 2018; Anil, Lucas and Grosse 2019, section 5",
            f"Certified accuracy at {self.radius:g} is above 0.8 at the best temperature, and below 0.1 for ordinary networks.",
            together((above(best, 0.8), below(plain, 0.1))),
            f"It is {text(best)} at temperature {t:g}, with {text(clean)} right answers, against {text(plain)} by LipSDP's constant; "
            f"bounds over each ball alone certify {text(local)} of the ordinary networks' answers.",
            {"1-Lipschitz": best, "ordinary": plain, "accuracy": clean, "ordinary, local bounds": local},
        )

    def _attacked_claims(self, by: dict[float, list[_Seen]], ordinary: list[_Seen]) -> tuple[Claim, ...]:
        def over(t: float) -> Interval:
            return ratio_interval([s.median(False) for s in by[t]], [s.median(False) for s in ordinary])

        best, hot = self._best(by), self.temperatures[-1]
        return (
            Claim(
                "At a good temperature the attack needs larger perturbations too.",
                "Bethune et al. 2022, section 4",
                "The median attacked radius of right answers at the temperature of the best certified accuracy is above 1.25 times that of "
                "ordinary networks.",
                above(over(best), 1.25),
                f"It is {text(over(best))} times as large at temperature {best:g}.",
                {"1-Lipschitz / ordinary": over(best)},
            ),
            Claim(
                "At a high one a network with a constant of 1 is less robust against the attack than an ordinary one.",
                "Bethune et al. 2022, section 4, of the temperature; the comparison with ordinary networks is ours",
                "The same ratio at the highest temperature is below 0.9.",
                below(over(hot), 0.9),
                f"It is {text(over(hot))} at temperature {hot:g}.",
                {"1-Lipschitz / ordinary": over(hot)},
            ),
        )

    def _tight_claim(self, by: dict[float, list[_Seen]], ordinary: list[_Seen]) -> Claim:
        def ratio(seen: list[_Seen]) -> Interval:
            return ratio_interval([s.median(False) for s in seen], [s.median(True) for s in seen])

        each = {f"temperature {t:g}": ratio(seen) for t, seen in by.items()}
        plain = ratio(ordinary)
        return Claim(
            "Certificates of networks that keep gradient norms are nearly tight; those of ordinary ones are not.",
            "Anil, Lucas and Grosse 2019, section 5; Bethune et al. 2022, section 2",
            "Median attacked over median certified radius is below 1.5 at every temperature, and above 2 for ordinary networks.",
            together((*(below(i, 1.5) for i in each.values()), above(plain, 2.0))),
            f"The ratios are {listed(each)}; for ordinary networks {text(plain)}.",
            each | {"ordinary": plain},
        )

    def _growth_claim(self, early: list[float], ordinary: list[_Seen]) -> Claim:
        growth = ratio_interval([s.constant for s in ordinary], early)
        size = mean_interval([s.constant for s in ordinary])
        return Claim(
            "Without a constraint cross-entropy makes the Lipschitz constant grow as long as training goes on.",
            "Bethune et al. 2022, section 3",
            "The proven constant of ordinary networks grows by a factor above 1.25 over the last three quarters of training.",
            above(growth, 1.25),
            f"It grows {text(growth)}-fold, to {text(size)}.",
            {"growth": growth, "constant": size},
        )

    def _figures(self, by: dict[float, list[_Seen]], ordinary: list[_Seen]) -> tuple[Figure, ...]:
        best, hot = self._best(by), self.temperatures[-1]
        radii_shown = [0.02 * k for k in range(41)]

        def accuracy(name: str, seen: list[_Seen], certified: bool) -> Series:
            return band(name, radii_shown, [[s.within(r, certified) for s in seen] for r in radii_shown])

        def flat(name: str, certified: bool) -> Series:
            return band(name, self.temperatures, [[s.within(self.radius, certified) for s in ordinary]] * len(self.temperatures))

        kinds = {"accuracy": None, f"under attack at {self.radius:g}": False, f"certified at {self.radius:g}": True}
        lines = []
        for name, certified in kinds.items():
            rows = [[1.0 - s.test if certified is None else s.within(self.radius, certified) for s in by[t]] for t in self.temperatures]
            lines.append(band(name, self.temperatures, rows))
        return (
            Figure(
                "1-Lipschitz networks against the temperature",
                "temperature",
                "share of test images",
                (*lines, flat("ordinary, under attack", False), flat("ordinary, certified", True)),
                log_x=True,
            ),
            Figure(
                "Right answers that stay within a radius",
                "radius",
                "share of test images",
                (
                    accuracy(f"temperature {best:g}, attacked", by[best], False),
                    accuracy(f"temperature {best:g}, certified", by[best], True),
                    accuracy(f"temperature {hot:g}, attacked", by[hot], False),
                    accuracy("ordinary, attacked", ordinary, False),
                    band("ordinary, certified by local bounds", radii_shown, [[s.locally(r) for s in ordinary] for r in radii_shown]),
                    accuracy("ordinary, certified by LipSDP", ordinary, True),
                ),
            ),
        )


def _ordinary(sizes: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return he_(nn.Sequential(*layers[:-1]))


def _max_min(builder: Builder, x: Ref) -> Ref:
    """Pairs of neighbours, sorted."""
    pairs = builder.reshape(x, (x.shape[-1] // 2, 2))
    return builder.reshape(builder.append(GroupSort((pairs.shape,)), pairs), x.shape)
