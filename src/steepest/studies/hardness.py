"""Exact Lipschitz constants of two-layer networks: max-cut in disguise, and what branch and bound pays per neuron."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from steepest.bounds import LipSDP, Signs
from steepest.capture.builder import Builder
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.results import Claim, Domain, Figure, Interval, UpperBound
from steepest.studies.figures import band
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import above, below, inside, mean_interval, text, together


@dataclass(frozen=True)
class Hardness(Study):
    """Two layers, one output, over all inputs in l2: networks of graphs, random ones with as many inputs as neurons, and with two.

    The network of a graph with Laplacian L is ``f(x) = sum_i |v_i x|`` with ``V V' = L``: its gradient at signs s is ``V's``, so its
    constant is ``max_s sqrt(s'L s) = 2 sqrt(max-cut)``. All signs occur but those that are all equal, which cut nothing.

    Args:
        graphs: neurons of the networks of graphs, each pair of vertices joined with probability 1/2.
        brute: up to how many vertices the largest cut is found by trying all.
        wide: neurons of random networks with as many inputs.
        plane: neurons of random networks with two inputs.
    """

    name: ClassVar[str] = "hardness"
    question: ClassVar[str] = "What does the exact Lipschitz constant of two layers cost?"
    seeds: int = 5
    graphs: tuple[int, ...] = (8, 12, 16, 20, 24, 28)
    brute: int = 16
    wide: tuple[int, ...] = (8, 16, 24, 32)
    plane: tuple[int, ...] = (8, 16, 32, 48)

    def measure(self, progress: Progress) -> Findings:
        """Branch over the patterns of every network until the constant is known."""
        kinds: dict[str, tuple[Sequence[int], Callable[[int, int], Graph]]] = {
            "graphs": (self.graphs, lambda n, seed: of_graph(draw_graph(n, seed))),
            "random": (self.wide, lambda n, seed: random_network(n, n, seed)),
            "two inputs": (self.plane, lambda n, seed: random_network(n, 2, seed)),
        }
        nodes: dict[str, dict[int, list[float]]] = {}
        gaps, ratios, wrong = [], [], []
        everything = Domain("all")
        for k, (kind, (sizes, make)) in enumerate(kinds.items()):
            nodes[kind] = {}
            for i, n in enumerate(sizes):
                progress(f"{kind}, {n} neurons", (k + i / len(sizes)) / len(kinds))
                nodes[kind][n] = []
                for seed in range(self.seeds):
                    graph = make(n, seed)
                    upper = Signs(deadline=Deadline()).bound(graph, everything, 2.0)
                    nodes[kind][n].append(float(size(upper)))
                    gaps.append(math.inf if upper.gap is None else upper.gap)
                    if kind != "graphs":
                        continue
                    # Not to more digits than two runs of an interior point share.
                    ratios.append(round(LipSDP(deadline=Deadline()).bound(graph, everything, 2.0).value / upper.value, 4))
                    if n <= self.brute:
                        wrong.append(upper.value / (2.0 * math.sqrt(largest_cut(n, draw_graph(n, seed)))) - 1.0)
        bits = {kind: self._slopes(by, lambda n: n) for kind, by in nodes.items()}
        power = self._slopes(nodes["two inputs"], math.log2)
        last = {kind: mean_interval([math.log2(v) / n for v in by[n]]) for kind, by in nodes.items() for n in [max(by)]}
        worst = Interval(max(ratios), max(ratios), max(ratios))
        deviation = mean_interval(wrong) if wrong else Interval(0.0, 0.0, 0.0)
        return Findings(
            f"f(x) = a' phi(W x + b) over all inputs in l2, {self.seeds} networks of each size, branch and bound over activation patterns "
            f"until the bound is within 1e-5 of a slope that was met (largest gap of the squares: {max(gaps):.1e}). Graphs: phi the "
            f"absolute value, a = 1, b = 0, W W' the Laplacian of a graph that joins each pair of n vertices with probability 1/2. Random: "
            f"ReLU, all entries normal, n inputs, or two. Cost: nodes of the tree that proves the constant",
            (
                Claim(
                    "The Lipschitz constant of two layers is as hard as max-cut: it is 2 sqrt(max-cut) for the network of a graph.",
                    "Virmaux and Scaman 2018, theorem 2 (NP-hardness, there by a quadratic over a cube); the network of a graph is our own",
                    f"The bound over 2 sqrt(max-cut), the cut found by trying all up to {self.brute} vertices, less 1, is within 1e-5.",
                    inside(deviation, 1e-5),
                    f"It is larger by {text(deviation)}.",
                    {"deviation": deviation},
                ),
                Claim(
                    "Its cost grows exponentially with the neurons of such networks.",
                    "Virmaux and Scaman 2018, section 3 (unless P = NP, in the worst case)",
                    "The slope of log2 of the nodes against the neurons is above 0.1 bits a neuron: twice the nodes for ten neurons more.",
                    above(bits["graphs"], 0.1),
                    f"The slope is {text(bits['graphs'])} bits a neuron.",
                    {"bits a neuron": bits["graphs"]},
                ),
                Claim(
                    "So it does for random networks with as many inputs as neurons, of which all patterns occur.",
                    "Virmaux and Scaman 2018, section 3 (who prove nothing of random ones)",
                    "The same slope is above 0.1 bits a neuron.",
                    above(bits["random"], 0.1),
                    f"The slope is {text(bits['random'])} bits a neuron.",
                    {"bits a neuron": bits["random"]},
                ),
                Claim(
                    "With two inputs it is polynomial: n lines cut the plane into no more than 1 + n (n + 1) / 2 regions.",
                    "Zaslavsky 1975; Montufar et al. 2014 for networks",
                    "The slope of the logarithm of the nodes against that of the neurons is below 3.",
                    below(power, 3.0),
                    f"The exponent is {text(power)}.",
                    {"exponent": power},
                ),
                Claim(
                    "Bounds that leave out patterns save most of them.",
                    "Bhowmick, D'Souza and Raghavan 2021",
                    "log2 of the nodes over the neurons, where 1 is all patterns, is below 0.75 at the largest networks of each kind.",
                    together(below(i, 0.75) for i in last.values()),
                    "; ".join(f"{text(i)} ({kind})" for kind, i in last.items()) + ".",
                    last,
                ),
                Claim(
                    "What is polynomial comes close: semidefinite multipliers exceed such a constant by a factor of sqrt(pi / 2) at most.",
                    "Nesterov 1998 (quadratics over a cube); Wang et al. 2022 for two layers",
                    f"The largest ratio of LipSDP's bound to the constant, of {len(ratios)} graphs, is below {math.sqrt(math.pi / 2):.4f}.",
                    below(worst, math.sqrt(math.pi / 2)),
                    f"The largest is {max(ratios):.4f}.",
                    {"largest ratio": worst},
                ),
            ),
            (
                Figure(
                    "Nodes of the tree that proves the constant",
                    "neurons",
                    "nodes",
                    tuple(band(kind, list(by), list(by.values()), True) for kind, by in nodes.items()),
                    log_y=True,
                    caption="A straight line is exponential growth.",
                ),
            ),
        )

    def _slopes(self, by: Mapping[int, Sequence[float]], of: Callable[[int], float]) -> Interval:
        """Of log2 of the nodes, seed by seed."""
        return mean_interval([slope([of(n) for n in by], [math.log2(by[n][s]) for n in by]) for s in range(self.seeds)])


def size(upper: UpperBound) -> int:
    """Nodes of the tree of a bound by patterns."""
    assert upper.patterns is not None
    return len(upper.patterns.cut)


def draw_graph(n: int, seed: int) -> np.ndarray:
    """Edges ``[count, 2]`` of a random graph, each pair with probability 1/2."""
    generator = np.random.default_rng([n, seed])
    return np.argwhere(np.triu(generator.random((n, n)) < 0.5, 1))


def largest_cut(n: int, edges: np.ndarray) -> int:
    """By trying all."""
    sides = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
    return int((sides[:, edges[:, 0]] != sides[:, edges[:, 1]]).sum(1).max())


def of_graph(edges: np.ndarray) -> Graph:
    """``sum_i |v_i x|`` with ``V V'`` the Laplacian; V its root."""
    n = int(edges.max()) + 1
    incidence = np.zeros((n, len(edges)))
    incidence[edges[:, 0], np.arange(len(edges))], incidence[edges[:, 1], np.arange(len(edges))] = 1.0, -1.0
    values, vectors = np.linalg.eigh(incidence @ incidence.T)
    weight = torch.from_numpy(vectors * np.sqrt(np.maximum(values, 0.0)))
    b = Builder()
    hidden = b.relu(b.dense(b.input((1, n)), weight), -1.0)
    return b.finish(b.dense(hidden, torch.ones(1, n, dtype=torch.float64)))


def random_network(neurons: int, inputs: int, seed: int) -> Graph:
    """``a' relu(W x + b)``, everything normal."""
    generator = torch.Generator().manual_seed(1000 * neurons + 10 * inputs + seed)
    weight = torch.randn(neurons, inputs, generator=generator, dtype=torch.float64)
    bias, last = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((neurons,), (1, neurons)))
    b = Builder()
    return b.finish(b.dense(b.relu(b.dense(b.input((1, inputs)), weight, bias)), last))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares."""
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else 0.0
