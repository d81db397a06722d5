"""Arguments by activation patterns: a tree of cuts at the kinks of neurons, leaves without an interior, and multipliers for the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steepest.proofs.checker.box import Array, Box, norm_above, slack
from steepest.proofs.checker.definite import definite
from steepest.proofs.checker.linear import NodeLike, linear_part

_BATCH = 128
_ENTRIES = 2**24
_FLOOR = 2.0**-900
"""Added to every bound of a magnitude, so that what underflows is covered by a part of it."""


@dataclass(frozen=True)
class Patterns:
    """As in the certificate: trees in preorder, multipliers of leaves, and what shows that a leaf has no interior."""

    first: Array
    cut: Array
    chosen: Array
    multipliers: Array
    weights: Array
    counts: Array
    codes: Array
    shares: Array


def patterns_prove(nodes: Sequence[NodeLike], region: Box, boxes: Sequence[Box], patterns: Patterns, p: float, bound: float) -> float:
    """``bound``, where the leaves of the trees prove it for ``|f(x) - f(y)| <= bound |x - y|`` over the region.

    A state holds for every neuron the pieces that it may be on, at first all that the boxes allow, and a cut at a kink gives two states
    that together hold all inputs of the first. At almost every input f is differentiable, and its derivative is that of the pattern of
    pieces there, which some leaf allows. A leaf is left out if its inequalities, of neurons that read an affine function of x in it,
    contradict each other on the region. In the others z = A x + B v + const, and the derivative is that of ``C x + D v`` with ``v_i =
    delta_i z_i``, ``|delta_i| <= 1`` for the slopes that are open, so that multipliers ``t >= 0`` and weights w for which ``sum w x^2 -
    sum t (z^2 - v^2) - |C x + D v|^2`` is semidefinite bound its square by ``w`` in l2, if all weights are one number, and by their sum
    for a row from linf. In l1 it is done with the transposes of all matrices, for each column.

    Args:
        nodes: the network.
        region: a box around the domain.
        boxes: around every node's output over it.
        patterns: the argument.
        p: the norm.
        bound: what is claimed.

    Raises:
        ValueError: saying what is not proven.
    """
    walk = _Walk(nodes, region)
    rows = {1.0: walk.inputs, 2.0: 1, math.inf: math.prod(nodes[-1].shape)}[p]
    if walk.inputs == 0 or rows == 0:
        return 0.0
    columns = {1.0: math.prod(nodes[-1].shape), 2.0: 0, math.inf: walk.inputs}[p]
    if patterns.multipliers.shape[1:] != (walk.count,) or patterns.weights.shape[1:] != (columns,):
        raise ValueError(f"The multipliers are not for {walk.count} neurons, or the weights not for {columns} entries.")
    if not all((np.isfinite(t) & (t >= 0)).all() for t in (patterns.multipliers, patterns.weights, patterns.shares)):
        raise ValueError("Multipliers and weights must be finite and not negative.")
    together = max(1, min(_BATCH, _ENTRIES // max(1, walk.columns * max(math.prod(n.shape) for n in nodes))))
    waiting: dict[bool, list[_Leaf]] = {False: [], True: []}
    for leaf in _leaves(walk, walk.first(boxes, patterns.first), rows, patterns):
        kind = waiting[leaf.base is not None]
        kind.append(leaf)
        if len(kind) == together:
            _settle(walk, kind, patterns, p, bound)
            kind.clear()
    for kind in waiting.values():
        if kind:
            _settle(walk, kind, patterns, p, bound)
    return bound


@dataclass(frozen=True)
class _Leaf:
    """Of a row of the Jacobian: with a range of multipliers, or, where it has a base, of constraints that contradict each other."""

    low: Array
    high: Array
    row: int
    base: int | None
    first: int
    last: int


def _leaves(walk: _Walk, state: tuple[Array, Array], rows: int, patterns: Patterns) -> Iterator[_Leaf]:
    """Every leaf, in preorder, or an error where the trees and what is said of their leaves do not fit."""
    kinks = walk.kinks.shape[1]
    waiting = [(row, *state) for row in range(rows - 1, -1, -1)]
    chosen, counts = iter(patterns.chosen.tolist()), iter(patterns.counts.tolist())
    used = 0
    for cut in patterns.cut.tolist():
        if not waiting:
            raise ValueError("The patterns have more nodes than their trees.")
        row, low, high = waiting.pop()
        if cut == -1:
            which = next(chosen, -1)
            if not 0 <= which < min(len(patterns.multipliers), len(patterns.weights)):
                raise ValueError("A leaf of the patterns has no multipliers.")
            yield _Leaf(low, high, row, None, which, which + 1)
            continue
        if cut <= -2:
            count = next(counts, -1)
            if not 0 <= count <= len(patterns.codes) - used or -2 - cut > max(walk.levels):
                raise ValueError("A leaf of the patterns has no constraints.")
            yield _Leaf(low, high, row, -2 - cut, used, used + count)
            used += count
            continue
        neuron, kink = divmod(cut, kinks) if kinks else (-1, 0)
        if not 0 <= neuron < walk.count or not low[neuron] <= kink < high[neuron]:
            raise ValueError(f"The patterns are cut at {cut}, which is no kink that is left open there.")
        below, above = high.copy(), low.copy()
        below[neuron], above[neuron] = kink, kink + 1
        waiting += [(row, above, high), (row, low, below)]
    if waiting or next(chosen, None) is not None or next(counts, None) is not None or used != len(patterns.codes):
        raise ValueError("The patterns are not whole: their trees end early, or something is left over.")


def _settle(walk: _Walk, leaves: Sequence[_Leaf], patterns: Patterns, p: float, bound: float) -> None:
    bases = np.array([leaf.base or 0 for leaf in leaves])
    forms = walk.forms(np.stack([leaf.low for leaf in leaves]), np.stack([leaf.high for leaf in leaves]), bases)
    if leaves[0].base is not None:
        if not all(_contradict(walk, forms, leaf, i, patterns) for i, leaf in enumerate(leaves)):
            raise ValueError("The constraints of a leaf of the patterns do not show that it has no interior.")
        return
    which = np.array([leaf.first for leaf in leaves])
    t, w = patterns.multipliers[which], patterns.weights[which]
    if not _multipliers_prove(forms, t, w, np.array([leaf.row for leaf in leaves]), p, bound):
        raise ValueError(f"The multipliers of a leaf of the patterns do not prove {bound!r}.")


@dataclass(frozen=True)
class _Forms:
    """For a batch of states, computed numbers and bounds of what they are off by: see ``patterns_prove``.

    ``z``, ``z_off``: ``[batch, neurons, 1 + inputs + neurons]``, the constant first; ``y``, ``y_off`` of the outputs.
    ``known``: neurons whose z has no part of any v that is open; ``some``: where z is not surely zero;
    ``open``: more than one slope.
    """

    z: Array
    z_off: Array
    y: Array
    y_off: Array
    known: Array
    some: Array
    open: Array


class _Walk:
    """The network, and for every neuron its kinks and the slope and the offset of every piece."""

    def __init__(self, nodes: Sequence[NodeLike], region: Box) -> None:
        self.nodes = nodes
        lo, hi = region.lo.ravel(), region.hi.ravel()
        self.lo, self.hi = lo, hi
        self.free = lo < hi
        if not np.isfinite(lo[~self.free]).all():
            raise ValueError("An input without room is not finite.")
        self.centre = np.where(self.free, 0.0, lo)
        self.inputs = int(self.free.sum())
        self.of: dict[int, slice] = {}
        tables = []
        self.count = 0
        self.levels: list[int] = [0]
        for node in nodes[1:]:
            linear = linear_part(node, nodes[node.inputs[0]].shape) is not None or node.op in ("add", "concat")
            self.levels.append(max(self.levels[i] for i in node.inputs) + (not linear))
        for k, node in enumerate(nodes[1:], start=1):
            if linear_part(node, nodes[node.inputs[0]].shape) is not None or node.op in ("add", "concat"):
                continue
            size = math.prod(node.shape)
            self.of[k] = slice(self.count, self.count + size)
            self.count += size
            tables.append(_pieces(node, size))
        most = max((len(kinks) for kinks, _, _ in tables), default=0)
        self.kinks = np.full((self.count, most), np.inf)
        self.slopes, self.offsets = np.zeros((self.count, most + 1)), np.zeros((self.count, most + 1))
        self.last = np.zeros(self.count, dtype=np.int64)
        for rows, (kinks, slopes, offsets) in zip(self.of.values(), tables, strict=True):
            self.kinks[rows, : len(kinks)] = kinks
            self.slopes[rows, : len(kinks) + 1], self.offsets[rows, : len(kinks) + 1] = slopes, offsets
            self.last[rows] = len(kinks)
        self.columns = 1 + self.inputs + self.count

    def first(self, boxes: Sequence[Box], claimed: Array) -> tuple[Array, Array]:
        """The claimed pieces, where they hold all that neurons may be on over the region."""
        low, high = np.zeros(self.count, dtype=np.int64), np.zeros(self.count, dtype=np.int64)
        for k, rows in self.of.items():
            box = boxes[self.nodes[k].inputs[0]]
            low[rows] = (box.lo.ravel()[:, None] >= self.kinks[rows]).sum(1)
            high[rows] = (box.hi.ravel()[:, None] > self.kinks[rows]).sum(1)
        low = np.minimum(low, self.last)
        high = np.clip(high, low, self.last)
        if (
            claimed.shape != (2, self.count)
            or not ((claimed[0] >= 0) & (claimed[0] <= low) & (high <= claimed[1]) & (claimed[1] <= self.last)).all()
        ):
            raise ValueError("The patterns begin with pieces that are not all that neurons may be on.")
        return claimed[0], claimed[1]

    def forms(self, low: Array, high: Array, bases: Array) -> _Forms:
        """What neurons read and what comes out, in states ``[batch, neurons]``.

        With a base, a number for each of the batch that is not zero, what neurons of this level read, if they have one slope, are
        variables of their own, in the place of their v.
        """
        batch = len(low)
        piece = np.arange(self.slopes.shape[1])
        among = (low[..., None] <= piece) & (piece <= high[..., None])
        least = np.where(among, self.slopes, np.inf).min(2)
        most = np.where(among, self.slopes, -np.inf).max(2)
        open_ = least < most
        middle = np.where(open_, least / 2 + most / 2, least)
        radius = np.where(open_, np.nextafter(np.maximum(most - middle, middle - least), np.inf), 0.0)
        shift = np.where(
            open_, 0.0, np.take_along_axis(np.broadcast_to(self.offsets, (batch, *self.offsets.shape)), low[..., None], 2)[..., 0]
        )
        start = np.zeros((1, self.columns, len(self.free)))
        start[0, 0] = self.centre
        start[0, 1 : 1 + self.inputs] = np.eye(len(self.free))[self.free]
        start = start.reshape(1, self.columns, *self.nodes[0].shape)
        # Computed values, bounds of their magnitudes, whether they are not surely zero, and how many roundings lie behind them.
        part = np.zeros(start.shape)
        part[0] = (start[0] != 0).astype(np.float64)
        found = [(start, np.abs(start) + _FLOOR, part, 0)]
        read: list[tuple[Array, Array, Array]] = []
        for k, node in enumerate(self.nodes[1:], start=1):
            xs = [found[i] for i in node.inputs]
            x, size, part, terms = xs[0]
            source = self.nodes[node.inputs[0]].shape
            linear = linear_part(node, source)
            if linear is not None:
                lead = x.shape[:2]
                y, big, touched = (
                    linear.apply(t.reshape(-1, *source), power).reshape(*lead, *node.shape).copy()
                    for t, power in ((x, 1), (size, 0), (part, 0))
                )
                bias = linear.bias()
                big = big + _FLOOR
                if bias is not None:
                    y[:, 0] += bias
                    big[:, 0] += np.abs(bias)
                    touched[:, 0] += bias != 0
                found.append((y, big, (touched > 0).astype(np.float64), terms + linear.terms + 2))
            elif node.op in ("add", "concat"):
                wide = max(len(t) for t, _, _, _ in xs)
                parts = [[np.broadcast_to(t, (wide, *t.shape[1:])) for t in entry[:3]] for entry in xs]
                if node.op == "concat":
                    axis = node.attributes["axis"] + 2
                    y, big, touched = (np.concatenate([entry[i] for entry in parts], axis) for i in range(3))
                else:
                    signs = node.attributes["signs"]
                    y = sum((entry[0] if s > 0 else -entry[0] for entry, s in zip(parts, signs, strict=True)), np.zeros(parts[0][0].shape))
                    big, touched = (sum((entry[i] for entry in parts), np.zeros(parts[0][0].shape)) for i in (1, 2))
                found.append((y, big + _FLOOR, (touched > 0).astype(np.float64), max(e[3] for e in xs) + len(xs)))
            else:
                rows = self.of[k]
                flat = [
                    np.broadcast_to(t.reshape(len(t), self.columns, -1), (batch, self.columns, rows.stop - rows.start))
                    for t in (x, size, part)
                ]
                own = np.arange(rows.stop - rows.start)
                column = 1 + self.inputs + rows.start + own
                cut = (bases == self.levels[k])[:, None] & ~open_[:, rows]
                if cut.any():
                    unit = np.zeros((self.columns, len(own)))
                    unit[column, own] = 1.0
                    flat = [np.where(cut[:, None], unit, t) for t in flat]
                read.append((flat[0], np.where(cut[:, None], 0.0, 2 * slack(terms) * flat[1]), flat[2]))
                y, big = flat[0] * middle[:, None, rows], flat[1] * np.abs(middle[:, None, rows]) + _FLOOR
                touched = flat[2] * (middle[:, None, rows] != 0)
                y[:, 0] += shift[:, rows]
                big[:, 0] += np.abs(shift[:, rows])
                touched[:, 0] += shift[:, rows] != 0
                y[:, column, own] += radius[:, rows]
                big[:, column, own] += radius[:, rows]
                touched[:, column, own] = np.maximum(touched[:, column, own], open_[:, rows])
                shape = (batch, self.columns, *node.shape)
                found.append((y.reshape(shape), big.reshape(shape), touched.reshape(shape), terms + 3))
        out, size, _, terms = found[-1]
        out, off = (np.broadcast_to(t.reshape(len(t), self.columns, -1), (batch, self.columns, math.prod(self.nodes[-1].shape)))
                    for t in (out, 2 * slack(terms) * size))  # fmt: skip
        z, z_off, touched = (np.concatenate([r[i] for r in read], 2).swapaxes(1, 2) for i in range(3))
        known = np.logical_not(((touched[:, :, 1 + self.inputs :] > 0) & open_[:, None]).any(2))
        return _Forms(z, z_off, out.swapaxes(1, 2), off.swapaxes(1, 2), known, touched > 0, open_)


def _pieces(node: NodeLike, size: int) -> tuple[Array, Array, Array]:
    """Kinks, and for every entry the slope and the offset of each piece."""
    if node.op == "leaky_relu":
        slope = np.broadcast_to(node.arrays["slope"], node.shape).ravel()
        return np.zeros(1), np.stack([slope, np.ones(size)], 1), np.zeros((size, 2))
    if node.op == "clamp":
        low, high = node.attributes["low"], node.attributes["high"]
        pieces = [(0.0, low)] * (low is not None) + [(1.0, 0.0)] + [(0.0, high)] * (high is not None)
        kinks = np.array([float(end) for end in (low, high) if end is not None])
        return kinks, np.tile([s for s, _ in pieces], (size, 1)).astype(float), np.tile([o for _, o in pieces], (size, 1)).astype(float)
    raise ValueError(f"Node {node.name!r} ({node.op}) is not piecewise linear entry by entry.")


def _contradict(walk: _Walk, forms: _Forms, leaf: _Leaf, i: int, patterns: Patterns) -> bool:
    """Whether the constraints of a leaf contradict each other on the region, or hold on no open set of it.

    They are ``g_j x + c_j <= 0``, with a base of x and of what its neurons read, as if these were independent; a combination of them with
    shares y >= 0 must be positive at every x of the region. Coordinates with an infinite end must drop out of it exactly: as many
    constraints as there are such coordinates come first, and their shares are those that solve the linear equations for this, given the
    others. They exist and are positive for every matrix within the error bounds, if with an approximate inverse R of the matrix G
    ``|I - R G| < 1`` and the computed solution is further from zero than its error. If no coordinate is bounded and all c are zero, the
    constraints hold with equality wherever they hold, which is on hyperplanes alone.
    """
    codes, shares = patterns.codes[leaf.first : leaf.last], patterns.shares[leaf.first : leaf.last]
    kinks = walk.kinks.shape[1]
    place, above = np.divmod(codes, 2)
    neuron, kink = np.divmod(place, max(1, kinks))
    if not (len(codes) and kinks and ((codes >= 0) & (neuron < walk.count)).all()):
        raise ValueError("A constraint of the patterns speaks of a neuron that is not there.")
    told = np.where(above == 1, leaf.low[neuron] > kink, leaf.high[neuron] <= kink)
    at = walk.kinks[neuron, kink]
    if not (told & forms.known[i, neuron] & np.isfinite(at)).all():
        raise ValueError("A constraint of the patterns does not hold in its leaf, or is not linear there.")
    signs = np.where(above == 1, -1.0, 1.0)
    # The variables: inputs, and what the neurons of the base read.
    n = walk.inputs + walk.count
    used = np.concatenate([np.ones(walk.inputs, dtype=bool), ~forms.open[i]])
    some = forms.some[i, neuron, 1:] & used
    g, g_off = (np.where(some, t, 0.0) for t in (signs[:, None] * forms.z[i, neuron, 1:], forms.z_off[i, neuron, 1:]))
    c = signs * (forms.z[i, neuron, 0] - at)
    c_off = forms.z_off[i, neuron, 0] + slack(1) * (np.abs(forms.z[i, neuron, 0]) + np.abs(at))
    zero = not forms.some[i, neuron, 0].any() and not at.any()
    everywhere = np.full(walk.count, np.inf)
    lo, hi = np.concatenate([walk.lo[walk.free], -everywhere]), np.concatenate([walk.hi[walk.free], everywhere])
    loose = (np.isinf(lo) | np.isinf(hi)) & some.any(0)
    bounded = np.isfinite(lo) & np.isfinite(hi) & some.any(0)
    k = int(loose.sum())
    e = 4 * slack(len(codes) + n)
    off = np.zeros(len(codes))
    shares = shares.copy()
    if k:
        if len(codes) < k:
            return False
        rest = shares[k:]
        square, square_off = g[:k, loose].T, g_off[:k, loose].T
        wanted = -(rest @ g[k:, loose])
        wanted_off = rest @ g_off[k:, loose] * (1 + e) + e * (rest @ np.abs(g[k:, loose])) + _FLOOR
        try:
            inverse = np.linalg.inv(square)
        except np.linalg.LinAlgError:
            return False
        found = inverse @ wanted
        if not (np.isfinite(inverse).all() and np.isfinite(found).all()):
            return False
        size, around = np.abs(found), np.abs(square)
        residual = (
            np.abs(wanted - square @ found) * (1 + e) + e * (np.abs(wanted) + around @ size) + wanted_off + square_off @ size * (1 + e)
        )
        apart = np.abs(np.eye(k) - inverse @ square) + e * (np.eye(k) + np.abs(inverse) @ around) + np.abs(inverse) @ square_off * (1 + e)
        distance = float(apart.sum(1).max()) * (1 + e)
        if not distance < 1:
            return False
        off[:k] = float((np.abs(inverse) @ residual).max()) * (1 + e) / (1 - distance) * (1 + e) + _FLOOR
        shares[:k] = found
        if not (found > 2 * off[:k]).all():
            return False
    if k and zero and not bounded.any():
        if not leaf.base:
            return True
        # What a neuron reads is zero on a hyperplane, unless it is so everywhere.
        plain = walk.forms(leaf.low[None], leaf.high[None], np.zeros(1, dtype=np.int64))
        sure = np.abs(plain.z[0, neuron, 1 : 1 + walk.inputs]) > plain.z_off[0, neuron, 1 : 1 + walk.inputs]
        return bool((sure.any(1) & plain.known[0, neuron] & (shares > 0)).any())
    # The combination at the bounded coordinates, with everything it may be off by.
    row = shares @ g[:, bounded]
    row_off = (off @ np.abs(g[:, bounded]) + (shares + off) @ g_off[:, bounded] + e * (shares @ np.abs(g[:, bounded]))) * (1 + e) + _FLOOR
    low, high = row - row_off, row + row_off
    corners = np.array([end * x for end in (low, high) for x in (lo[bounded], hi[bounded])])
    least = corners.min(0)
    total = float(shares @ c) + float(least.sum())
    lost = float(off @ np.abs(c) + (shares + off) @ c_off + e * (shares @ np.abs(c)) + e * np.abs(corners).max(0).sum()) * (1 + e) + _FLOOR
    return total > 2 * lost


def _multipliers_prove(forms: _Forms, t: Array, w: Array, row: Array, p: float, bound: float) -> bool:
    inputs = forms.z.shape[2] - forms.z.shape[1] - 1
    across = forms.open[:, :, None].astype(np.float64)
    g, g_off = forms.z[:, :, 1:] * across, forms.z_off[:, :, 1:] * across
    f, f_off = forms.y[:, :, 1:], forms.y_off[:, :, 1:]
    # What v has no part in is zero; and columns of neurons with one slope are.
    shut = np.concatenate([np.ones((len(t), inputs)), forms.open.astype(np.float64)], 1)[:, None]
    g, g_off, f, f_off = g * shut, g_off * shut, f * shut, f_off * shut
    square = bound * bound * (1 - 4 * slack(1))
    if p == 2:
        weights = np.full((len(t), inputs), square)
    else:
        if p == 1:
            (g, f), (g_off, f_off) = _transposed(g, f, inputs), _transposed(g_off, f_off, inputs)
            inputs = f.shape[2] - t.shape[1]
        f, f_off = (x[np.arange(len(t)), row][:, None] for x in (f, f_off))
        weights = w
        if any(not norm_above(v, 1.0) <= square for v in w):
            return False
    diagonal = np.concatenate([weights, np.where(forms.open, t, 1.0)], 1)
    root = np.sqrt(np.where(forms.open, t, 0.0))[:, :, None]
    g, g_off = g * root, g_off * root
    every, every_off = np.concatenate([f, g], 1), np.concatenate([f_off, g_off], 1)
    matrix = -every.swapaxes(1, 2) @ every
    size = np.abs(every) + every_off
    # Root, product and sum: a few roundings for each of the terms.
    e = 4 * slack(every.shape[1] + 8)
    cross = size.swapaxes(1, 2) @ every_off
    error = (cross + cross.swapaxes(1, 2)) * (1 + e) + e * (size.swapaxes(1, 2) @ size)
    n = matrix.shape[1]
    matrix[:, np.arange(n), np.arange(n)] += diagonal
    error[:, np.arange(n), np.arange(n)] += slack(1) * diagonal + _FLOOR
    main = matrix[:, np.arange(n), np.arange(n)]
    if not (np.isfinite(matrix).all() and np.isfinite(error).all() and (main > 0).all()):
        return False
    # Scaled to a diagonal of about one by powers of two, which is exact.
    scale = 2.0 ** -np.round(np.log2(np.clip(main, 2.0**-900, 2.0**900)) / 2)
    both = scale[:, :, None] * scale[:, None, :]
    return definite(matrix * both, float((error * both).sum(2).max()) * (1 + slack(n)))


def _transposed(g: Array, f: Array, inputs: int) -> tuple[Array, Array]:
    """``[A, B]`` and ``[C, D]`` become ``[D', B']`` and ``[C', A']``."""
    a, b, c, d = g[:, :, :inputs], g[:, :, inputs:], f[:, :, :inputs], f[:, :, inputs:]
    first, second = (np.concatenate([x.swapaxes(1, 2), y.swapaxes(1, 2)], 2) for x, y in ((d, b), (c, a)))
    return first, second
