"""Branch and bound over activation patterns."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from steepest.bounds.signs.forms import Forms, Network, unfit
from steepest.bounds.signs.multipliers import Inequality, tighten
from steepest.graph import Graph
from steepest.numerics.deadline import Deadline
from steepest.numerics.feasibility import balanced, rooms
from steepest.ops.cells import natural_scale
from steepest.ops.enclosures import Enclosures
from steepest.ops.kinds import Elementwise
from steepest.results import Domain, UpperBound
from steepest.results.patterns import Patterns

MARGIN = 1e-6
"""By how much the bound is raised above the worst leaf, so that every leaf can be proven in floating point."""

NOTHING = 1e-11
"""What a bound may be in any case, of that by magnitudes of all weights: computing with these loses more than nothing."""

FAR = 1e4
"""Over all inputs, half the side of the box that is searched for points, in units of the distance of typical kinks."""

LATER = 0.25
"""What the effect of a neuron counts whose argument is not yet an affine function of x, so that cutting it empties nothing."""


SUPPORT = (1e-6, 1e-9, 1e-12)
"""Shares of the largest multiplier below which others may be nothing but what an interior point leaves."""

TOGETHER = 2**20
"""Entries of matrices that are factored at once."""


@dataclass(frozen=True)
class Signs:
    """Branch and bound over activation patterns, for small piecewise linear networks.

    A node of the tree knows for some neurons on which side of a kink they are. Where all neurons before them are on known pieces, that
    is a linear inequality in x: if no x of the domain obeys all of them, the node is dropped. Otherwise multipliers (LipSDP) bound
    the norm of ``C + D T (I - B T)^-1 A`` over all diagonal T within the slopes that are left, which contains the Jacobian wherever it
    exists in the node; with every piece known it is the Jacobian, and the bound is its norm. The node with the largest bound is cut
    next, until none is above the norm of a Jacobian at a point inside a region that the search met: then the bound is the
    Lipschitz constant but for a relative ``MARGIN``. Stopped earlier it is the largest bound left. f is absolutely continuous on
    segments and its derivative almost everywhere that of a pattern which occurs, so that the largest of its nodes bounds the domain.

    Args:
        deadline: when to return.
        neurons: most of them whose piece is not known over the whole domain.
        entries: most numbers in the forms of one node.
        nodes: most of the tree.
        batch: nodes cut at once.
        steps: Newton steps on the multipliers of a node.
        enclosures: of the nodes over the domain, where they are known already.

    Source: Bhowmick, D'Souza and Raghavan 2021 (LipBaB) for branch and bound over half-spaces; Fazlyab et al. 2019 (LipSDP) for the bound.
    """

    deadline: Deadline = field(default_factory=lambda: Deadline.after(20.0))
    neurons: int = 128
    entries: int = 2**18
    nodes: int = 60_000
    batch: int = 64
    steps: int = 24
    enclosures: Enclosures | None = None
    name: str = "signs"

    def applies(self, graph: Graph, domain: Domain) -> bool:
        """Whether the network is piecewise linear entry by entry and small, and the domain a box, an linf ball or everything."""
        if unfit(graph) is not None or (domain.kind == "ball" and domain.norm != math.inf):
            return False
        count = sum(math.prod(node.shape) for node in graph.nodes if isinstance(node.op, Elementwise))
        inputs, widest = math.prod(graph.input_shape), max(math.prod(node.shape) for node in graph.nodes)
        return 0 < count <= 4 * self.neurons and (1 + inputs + count) * widest <= self.entries

    def bound(self, graph: Graph, domain: Domain, norm: float) -> UpperBound:
        """Bound ``|f(x) - f(y)| <= L |x - y|`` for x, y in the domain.

        Args:
            graph: the network.
            domain: where x and y lie.
            norm: 1, 2 or inf, at both ends.

        Returns:
            The bound with the tree that proves it, and the steepest point that was met.

        Raises:
            UnsupportedOperatorError: naming an operator that is not piecewise linear entry by entry.
        """
        return _Search(self, graph, domain, norm).run()


@dataclass(frozen=True, eq=False)
class _Shown:
    """Constraints that contradict each other, and multipliers: as functions of the inputs, or with a base of what its neurons read."""

    base: int
    codes: np.ndarray
    y: np.ndarray


class _Tree:
    """The nodes, in the order they were made; growing arrays."""

    def __init__(self, neurons: int, inputs: int, weights: int) -> None:
        self.size = 0
        self.low = np.zeros((0, neurons), dtype=np.int8)
        self.high = np.zeros((0, neurons), dtype=np.int8)
        self.row = np.zeros(0, dtype=np.int64)
        self.value = np.zeros(0)
        self.t = np.zeros((0, neurons))
        self.w = np.zeros((0, weights))
        self.x = np.zeros((0, inputs))
        self.cut = np.zeros(0, dtype=np.int64)
        self.child = np.zeros(0, dtype=np.int64)
        self.empty = np.zeros(0, dtype=bool)
        self.shown: dict[int, _Shown] = {}

    def add(self, **rows: np.ndarray) -> np.ndarray:
        """Append nodes; their indices."""
        count = len(rows["row"])
        first, self.size = self.size, self.size + count
        if self.size > len(self.row):
            room = max(256, 2 * self.size)
            for name, array in vars(self).items():
                if isinstance(array, np.ndarray):
                    grown = np.zeros((room, *array.shape[1:]), dtype=array.dtype)
                    grown[:first] = array[:first]
                    setattr(self, name, grown)
        for name, values in rows.items():
            getattr(self, name)[first : self.size] = values
        self.child[first : self.size] = -1
        return np.arange(first, self.size)


class _Search:
    def __init__(self, options: Signs, graph: Graph, domain: Domain, norm: float) -> None:
        self.options, self.graph, self.norm = options, graph, norm
        self.started = time.perf_counter()
        lo, hi = (torch.from_numpy(end.flatten()) for end in domain.bounds(graph.input_shape))
        self.network = Network(graph, lo, hi)
        self.enclosures = (options.enclosures or Enclosures.over(graph, domain)).headed(graph)
        self.whole = self.network.whole(self.enclosures.values)
        free = self.network.free
        # Points are looked for in a box; what is shown of it alone says nothing of more.
        far = FAR * natural_scale(graph)
        self.lo = torch.where(torch.isinf(lo), torch.where(torch.isinf(hi), 0.0, hi) - far, lo)[free]
        self.hi = torch.where(torch.isinf(hi), torch.where(torch.isinf(lo), 0.0, lo) + far, hi)[free]
        self.ends = lo[free], hi[free]
        self.loose = bool(torch.isinf(torch.cat(self.ends)).any())
        self.clipped = (lo[free] < self.lo) | (hi[free] > self.hi)
        self.rows = {1.0: self.network.inputs, 2.0: 1, math.inf: math.prod(graph.shape)}[norm]
        weights = {1.0: math.prod(graph.shape), 2.0: 0, math.inf: self.network.inputs}[norm]
        self.tree = _Tree(self.network.count, self.network.inputs, weights)
        self.floor = max(NOTHING * self.network.magnitude(), 1e-13)
        self.best, self.place = 0.0, None
        self.history: list[tuple[float, float]] = []

    @property
    def kinks(self) -> int:
        return self.network.kinks.shape[1]

    def run(self) -> UpperBound:
        options, tree = self.options, self.tree
        if self.network.inputs == 0 or self.rows == 0:
            return self._result(0.0)
        if (count := int((self.whole[0] < self.whole[1]).sum())) > options.neurons:
            taken = time.perf_counter() - self.started
            remark = f"Branching over activation patterns was left out: {count} neurons are not on one piece, more than {options.neurons}."
            return UpperBound(options.name, math.inf, (), taken, remark=remark)
        self._look(self._sample(256))
        low, high = (end.expand(self.rows, -1) for end in self.whole)
        row = torch.arange(self.rows)
        start = Inequality.of(self.network.forms(low, high), self.norm, row).start()
        nowhere = torch.full((self.rows, self.network.inputs), math.nan, dtype=torch.float64)
        none = torch.zeros(self.rows, tree.w.shape[1], dtype=torch.float64)
        frontier = self._add(low, high, row, nowhere, start, none, np.full(self.rows, math.inf))
        batch = max(1, min(options.batch, TOGETHER // (2 * (len(self.lo) + self.network.count) ** 2)))
        while True:
            top = float(tree.value[frontier].max()) if len(frontier) else 0.0
            if not self.history or math.sqrt(top) < self.history[-1][1]:
                self.history.append((time.perf_counter() - self.started, math.sqrt(top)))
            pending = frontier[(tree.value[frontier] > self._enough()) & (tree.cut[frontier] >= 0)]
            if not len(pending) or options.deadline.passed() or tree.size + 2 * batch > options.nodes:
                break
            order = np.argsort(-tree.value[pending], kind="stable")[:batch]
            chosen = pending[order]
            children = self._split(chosen)
            frontier = np.concatenate([np.setdiff1d(frontier, chosen, assume_unique=True), children])
        return self._result(math.sqrt(max(top, 0.0)))

    def _enough(self) -> float:
        """A square that a node need not be below."""
        return max(self.best * self.best * (1 + MARGIN), self.floor * self.floor)

    def _sample(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        place = torch.rand(count, len(self.lo), generator=generator, dtype=torch.float64)
        if not self.clipped.any():
            return torch.lerp(self.lo, self.hi, place)
        shrink = 10.0 ** (-6.0 * torch.rand(count, 1, generator=generator, dtype=torch.float64))
        middle = 0.0 * self.lo
        middle = torch.minimum(torch.maximum(middle, self.lo), self.hi)
        return torch.lerp(middle.expand(count, -1), torch.lerp(self.lo, self.hi, place), torch.where(self.clipped, shrink, 1.0))

    def _look(self, x: Tensor) -> None:
        """The norm of the Jacobian at points; the best is remembered."""
        if not len(x):
            return
        state = self.network.state_at(x)
        norms = torch.linalg.matrix_norm(self.network.forms(state, state).c, self.norm)
        top = int(norms.nan_to_num().argmax())
        if norms[top] > self.best:
            self.best, self.place = norms[top].item(), x[top]

    def _constraints(self, forms: Forms, low: Tensor, high: Tensor, base: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """``a x <= b`` for what is known of neurons that read affine functions, and the code of each: ``[batch, 2 q neurons, ...]``.

        With a base, x goes on with what its neurons read.
        """
        low0, high0 = self.whole
        parts_a, parts_b, codes = [], [], []
        neuron = torch.arange(self.network.count)
        affine = torch.cat([forms.a, torch.where(forms.open[:, None], 0.0, forms.b)], 2) if base else forms.a
        for k in range(self.kinks):
            kink = self.network.kinks[:, k]
            for above in (False, True):
                told = (low > k) & (low0 <= k) if above else (high <= k) & (high0 > k)
                told = told & forms.known
                sign = torch.where(told, -1.0 if above else 1.0, 0.0)
                parts_a.append(sign[..., None] * affine)
                parts_b.append(torch.where(told, sign * (kink - forms.offset), 1.0))
                codes.append(2 * (neuron * self.kinks + k) + int(above))
        return torch.cat(parts_a, 1), torch.cat(parts_b, 1), torch.cat(codes)

    def _split(self, chosen: np.ndarray) -> np.ndarray:
        tree = self.tree
        low, high = (torch.from_numpy(a[chosen]).repeat_interleave(2, 0) for a in (tree.low, tree.high))
        neuron, kink = (torch.from_numpy(part).repeat_interleave(2) for part in divmod(tree.cut[chosen], self.kinks))
        below = torch.arange(len(low)) % 2 == 0
        every = torch.arange(len(low))
        low[every[~below], neuron[~below]] = (kink[~below] + 1).to(torch.int8)
        high[every[below], neuron[below]] = kink[below].to(torch.int8)
        twice = np.repeat(chosen, 2)
        row, x, t, w = (torch.from_numpy(array[twice]) for array in (tree.row, tree.x, tree.t, tree.w))
        children = self._add(low, high, row, x, t, w, tree.value[twice])
        tree.child[chosen] = children[::2]
        return children[~tree.empty[children]]

    def _add(self, low: Tensor, high: Tensor, row: Tensor, x: Tensor, t: Tensor, w: Tensor, value: np.ndarray) -> np.ndarray:
        """New nodes, measured, from points, multipliers, weights and values of those that were cut."""
        tree, options = self.tree, self.options
        count = len(low)
        forms = self.network.forms(low, high)
        a, b, codes = self._constraints(forms, low, high)
        length = a.norm(dim=2)
        left = torch.where(length > 0, (b - (a @ x[..., None])[..., 0]) / length.clamp(min=1e-300), math.inf)
        outside = torch.isnan(x).any(1) | (left.amin(1) <= 0)
        empty = torch.zeros(count, dtype=torch.bool)
        shown: dict[int, _Shown] = {}
        doubtful = outside.nonzero()[:, 0]
        if len(doubtful):
            found = rooms(a[doubtful], b[doubtful], self.lo, self.hi, early=not self.loose)
            deep = found.depth > 0
            x = x.clone()
            x[doubtful] = torch.where(deep[:, None], found.x, math.nan)
            self._look(found.x[deep])
            if self.loose:
                # Of all inputs the box that is searched says nothing.
                shown = self._balanced(low, high, found.y, doubtful, ~deep)
            else:
                for i in found.empty.nonzero()[:, 0].tolist():
                    used = found.y[i].nonzero()[:, 0]
                    shown[int(doubtful[i])] = _Shown(0, codes[used].numpy(), found.y[i, used].numpy())
            empty[list(shown)] = True
        kept = (~empty).nonzero()[:, 0]
        part = Inequality.of(forms, self.norm, row).take(kept)
        # What holds of the node that was cut holds of its parts.
        start, above = torch.where(part.open, t[kept], 0.0), torch.from_numpy(value)[kept]
        best, found_w, found_t = tighten(part, start, options.steps, self._enough())
        worse = best > above
        values = np.zeros(count)
        values[kept.numpy()] = torch.where(worse, above, best).numpy()
        every_w, every_t = w.clone(), torch.zeros(count, self.network.count, dtype=torch.float64)
        every_t[kept] = torch.where(worse[:, None], start, found_t)
        if w.shape[1]:
            every_w[kept] = torch.where(worse[:, None], w[kept], found_w)
        cut = np.full(count, -1, dtype=np.int64)
        cut[kept.numpy()] = self._where(forms, kept, low[kept], high[kept])
        nodes = tree.add(
            low=low.numpy(),
            high=high.numpy(),
            row=row.numpy(),
            value=values,
            t=every_t.numpy(),
            w=every_w.numpy(),
            x=x.numpy(),
            cut=cut,
            empty=empty.numpy(),
        )
        tree.shown.update({int(nodes[i]): pair for i, pair in shown.items()})
        return nodes

    def _balanced(self, low: Tensor, high: Tensor, y: Tensor, doubtful: Tensor, among: Tensor) -> dict[int, _Shown]:
        """Which nodes are shown to have no interior, in the inputs or as functions of what the neurons of some level read."""
        shown: dict[int, _Shown] = {}
        count = self.network.count
        for base in range(max(self.network.levels)):
            left = [i for i in among.nonzero()[:, 0].tolist() if int(doubtful[i]) not in shown]
            if not left:
                break
            some = doubtful[left]
            forms = self.network.forms(low[some], high[some], base)
            a, b, codes = (t.numpy() for t in self._constraints(forms, low[some], high[some], True))
            # In the order of the constraints; what is said of a kink that is not zero has a constant.
            inputs = len(self.lo)
            used = torch.cat([torch.ones(len(some), inputs, dtype=torch.bool), ~forms.open], 1)[:, None]
            there = torch.cat([forms.some[:, :, 1:] & used, forms.some[:, :, :1]], 2).numpy()
            some_of = there[:, codes // 2 // self.kinks]
            some_of[..., -1] |= (self.network.kinks.flatten()[codes // 2] != 0).numpy()
            lo, hi = (np.concatenate([end.numpy(), np.full(count, far)]) for end, far in zip(self.ends, (-np.inf, np.inf), strict=True))
            for row, i in enumerate(left):
                right = np.where((a[row] != 0).any(1), b[row], 0.0)
                tried = (balanced(a[row], right, some_of[row], y[i].numpy(), lo, hi, least) for least in SUPPORT)
                found = next((pair for pair in tried if pair is not None), None)
                if found is None:
                    continue
                # Of what is zero everywhere equality says nothing.
                if not base or some_of[row, found[0], -1].any() or self._moves(low[some[row]], high[some[row]], codes[found[0]]):
                    shown[int(doubtful[i])] = _Shown(base, codes[found[0]], found[1])
        return shown

    def _moves(self, low: Tensor, high: Tensor, codes: np.ndarray) -> bool:
        """Whether any of the neurons of these constraints reads something that is not constant."""
        forms = self.network.forms(low[None], high[None])
        return bool((forms.a[0, codes // 2 // self.kinks].norm(dim=1) > 1e-9).any())

    def _where(self, forms: Forms, kept: Tensor, low: Tensor, high: Tensor) -> np.ndarray:
        """The kink of the neuron whose slope matters most to the norm, to first order; -1 where every slope is known."""
        open_ = forms.open[kept]
        effect = forms.d[kept].norm(dim=1) * forms.a[kept].norm(dim=2)
        effect = effect * torch.where(forms.known[kept], 1.0, LATER)
        score = torch.where(open_, effect + 1e-300, -1.0)
        most, neuron = score.max(1)
        # The kink in the middle of those that are left.
        first, last = (end.gather(1, neuron[:, None])[:, 0].long() for end in (low, high))
        kink = (first + last - 1) // 2
        return torch.where(most > 0, neuron * self.kinks + kink, -1).numpy()

    def _result(self, value: float) -> UpperBound:
        if not math.isfinite(value):
            taken = time.perf_counter() - self.started
            return UpperBound(self.options.name, math.inf, (), taken, remark="Branching over activation patterns found no multipliers.")
        bound = max(value * (1.0 + MARGIN), self.floor) if self.network.inputs and self.rows else 0.0
        taken = time.perf_counter() - self.started
        patterns = self._patterns(bound * bound) if self.network.inputs and self.rows else _nothing(self.network.count)
        gap = (
            0.0
            if value == 0.0
            else bound * bound / (self.best * self.best) - 1.0
            if self.best > 0
            else 0.0
            if bound <= self.floor
            else math.inf
        )
        history = [(s, max(v * (1.0 + MARGIN), bound)) for s, v in self.history] + [(taken, bound)]
        return UpperBound(
            self.options.name,
            bound,
            (),
            taken,
            gap=gap,
            history=tuple(history),
            work=self.enclosures.work,
            patterns=patterns,
            point=self._point(),
        )

    def _point(self) -> np.ndarray | None:
        if self.place is None:
            return None
        full = self.network.centre.clone()
        full[self.network.free] = self.place
        return full.reshape(self.graph.input_shape).numpy()

    def _patterns(self, square: float) -> Patterns:
        """The trees, cut back to nodes whose own multipliers prove the bound."""
        tree = self.tree
        cut, leaves, counts, codes, shares = [], [], [], [], []
        waiting = list(range(self.rows - 1, -1, -1))
        while waiting:
            i = waiting.pop()
            if tree.empty[i]:
                shown = tree.shown[i]
                cut.append(-2 - shown.base)
                counts.append(len(shown.codes))
                codes.append(shown.codes)
                shares.append(shown.y)
            elif tree.child[i] < 0 or tree.value[i] * (1.0 + MARGIN) <= square:
                cut.append(-1)
                leaves.append(i)
            else:
                cut.append(int(tree.cut[i]))
                waiting += [int(tree.child[i]) + 1, int(tree.child[i])]
        rows = np.array(leaves, dtype=np.int64)
        # Scaled to the bound, so that the matrix of the proof is definite and not only semidefinite.
        scale = np.where(tree.value[rows] > 0, square * (1.0 - 1e-9) / np.maximum(tree.value[rows], 1e-300), 1.0)[:, None]
        return Patterns(
            torch.stack(self.whole).to(torch.int64).numpy(),
            np.array(cut, dtype=np.int64),
            np.arange(len(rows)),
            tree.t[rows] * np.minimum(scale, 2.0),
            np.where(tree.value[rows, None] > 0, tree.w[rows] * scale, square * (1.0 - 1e-9) / max(1, tree.w.shape[1])),
            np.array(counts, dtype=np.int64),
            np.concatenate([np.zeros(0, dtype=np.int64), *codes]),
            np.concatenate([np.zeros(0), *shares]),
        )


def _nothing(neurons: int) -> Patterns:
    whole, real = np.zeros(0, dtype=np.int64), np.zeros(0)
    return Patterns(np.zeros((2, neurons), dtype=np.int64), whole, whole, np.zeros((0, neurons)), np.zeros((0, 0)), whole, whole, real)
