"""Operators that mix entries or branches: values over boxes, cotangents pulled back, and Lipschitz constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from steepest.proofs.checker.box import Array, Box, add, add_along, image, middle, multiply, negative, overlap, slack, widen
from steepest.proofs.checker.linear import NodeLike

_UP = 1 + 2.0**-48


def value(node: NodeLike, xs: Sequence[Box]) -> Box:
    """Range over the boxes of the inputs."""
    x = xs[0]
    if node.op == "group_max":
        return x.moved(lambda t: _windows(node, t, -np.inf).max(-1))
    if node.op == "group_sort":
        return x.moved(lambda t: np.sort(t, -1))
    if node.op == "softmax":
        return _softmax(node.arrays["allowed"] != 0, x)
    if node.op == "log_softmax":
        return _log_softmax(x)
    if node.op == "normalize":
        return _normalized(node, x)[0]
    if node.op == "add":
        total: Box | None = None
        for sign, part in zip(node.attributes["signs"], xs, strict=True):
            term = part if sign > 0 else negative(part)
            total = term if total is None else add(total, term)
        assert total is not None
        return total
    if node.op == "concat":
        axis = node.attributes["axis"]
        return Box(np.concatenate([b.lo for b in xs], axis), np.concatenate([b.hi for b in xs], axis))
    if node.op == "multiply":
        return multiply(xs[0], xs[1])
    if node.op == "matmul":
        return _product(xs[0], xs[1])
    raise ValueError(f"unknown operator {node.op!r}")


def pulled(node: NodeLike, g: Box, xs: Sequence[Box]) -> list[Box]:
    """For cotangents ``[rows, *shape]``: boxes around those of every input."""
    x = xs[0]
    if node.op == "group_max":
        return [_pull_max(node, g, x)]
    if node.op == "group_sort":
        return [_pull_sort(g, x)]
    if node.op == "softmax":
        allowed = np.broadcast_to(node.arrays["allowed"] != 0, x.lo.shape)
        p = _softmax(allowed, x)
        mean = add_along(multiply(p, Box(np.where(allowed, g.lo, 0.0), np.where(allowed, g.hi, 0.0))), -1)
        least = np.where(allowed, g.lo, np.inf).min(-1, keepdims=True)
        most = np.where(allowed, g.hi, -np.inf).max(-1, keepdims=True)
        return [multiply(p, add(g, negative(overlap(mean, Box(least, most)))))]
    if node.op == "log_softmax":
        p = _softmax(np.ones(x.lo.shape, dtype=bool), x)
        return [add(g, negative(multiply(p, add_along(g, -1))))]
    if node.op == "normalize":
        y, inverse = _normalized(node, x)
        n = node.shape[-1]
        along = add_along(multiply(y, g), -1)
        share = multiply(along, widen(np.array(1.0 / n), np.array(1.0 / n)))
        first = _centred(g) if node.attributes["centred"] else g
        return [multiply(add(first, negative(multiply(y, share))), inverse)]
    if node.op == "add":
        return [g if sign > 0 else negative(g) for sign in node.attributes["signs"]]
    if node.op == "concat":
        axis = node.attributes["axis"]
        cuts = np.cumsum([b.lo.shape[axis] for b in xs])[:-1]
        return [Box(a, b) for a, b in zip(np.split(g.lo, cuts, axis + 1), np.split(g.hi, cuts, axis + 1), strict=True)]
    if node.op == "multiply":
        return [multiply(g, xs[1]), multiply(g, xs[0])]
    if node.op == "matmul":
        first, second = (b.moved(lambda t: t.swapaxes(-1, -2)) for b in xs)
        return [_product(g, second), _product(first, g)]
    raise ValueError(f"unknown operator {node.op!r}")


def pushed(node: NodeLike, ds: Sequence[Array], xs: Sequence[Box]) -> Box:
    """For directions ``[rows, *shape]`` at every input: a box around what any Jacobian over the boxes makes of them."""
    x, d = xs[0], ds[0]
    if node.op == "group_max":
        index = node.arrays["index"]
        can = (_windows(node, x.hi, -np.inf) >= _windows(node, x.lo, -np.inf).max(-1, keepdims=True)) & (index >= 0)
        own = d.reshape(len(d), -1)[:, np.maximum(index, 0)]
        return Box(np.where(can, own, np.inf).min(-1), np.where(can, own, -np.inf).max(-1))
    if node.op == "group_sort":
        possible, own = _places(x), d[..., :, None]
        return Box(np.where(possible, own, np.inf).min(-2), np.where(possible, own, -np.inf).max(-2))
    if node.op in ("softmax", "normalize"):
        # Their Jacobians are symmetric.
        return pulled(node, Box(d, d), xs)[0]
    if node.op == "log_softmax":
        p = _softmax(np.ones(x.lo.shape, dtype=bool), x)
        mean = overlap(add_along(multiply(p, Box(d, d)), -1), Box(d.min(-1, keepdims=True), d.max(-1, keepdims=True)))
        return add(Box(d, d), negative(mean))
    if node.op == "add":
        total = sum(part if sign > 0 else -part for sign, part in zip(node.attributes["signs"], ds, strict=True))
        # One rounding for each term but the first.
        off = slack(len(ds)) * np.sum([np.abs(part) for part in ds], 0) * (sum(bool(part.any()) for part in ds) > 1)
        return Box(total - off, total + off)
    if node.op == "concat":
        whole = np.concatenate(ds, node.attributes["axis"] + 1)
        return Box(whole, whole)
    if node.op == "multiply":
        return add(multiply(Box(d, d), xs[1]), multiply(xs[0], Box(ds[1], ds[1])))
    if node.op == "matmul":
        return add(_product(Box(d, d), xs[1]), _product(xs[0], Box(ds[1], ds[1])))
    raise ValueError(f"unknown operator {node.op!r}")


def constant(node: NodeLike, p: float, constants: Sequence[float], xs: Sequence[Box]) -> float:
    """A Lipschitz constant of the node as a map of the network's input, given those of its inputs."""
    if node.op == "add":
        return math.fsum(constants) * _UP if all(map(math.isfinite, constants)) else math.inf
    if node.op == "concat":
        if p == math.inf:
            return max(constants)
        if not all(map(math.isfinite, constants)):
            return math.inf
        if p == 1:
            return math.fsum(constants) * _UP
        return math.hypot(*constants) * _UP if sum(c > 0 for c in constants) > 1 else max(constants)
    if node.op == "multiply":
        return _both(constants, float(xs[1].size.max()), float(xs[0].size.max()))
    if node.op == "matmul":
        return _both(constants, _matrix_norm(xs[1].size.swapaxes(-1, -2), p), _matrix_norm(xs[0].size, p))
    return times(_gain(node, p, xs[0]), constants[0])


def times(a: float, b: float) -> float:
    """Product of two non-negative numbers, rounded up; zero times infinity is zero."""
    if a == 0 or b == 0:
        return 0.0
    return a if b == 1 else b if a == 1 else math.nextafter(a * b, math.inf)


def _both(constants: Sequence[float], first: float, second: float) -> float:
    return math.nextafter(times(first, constants[0]) + times(second, constants[1]), math.inf)


def _gain(node: NodeLike, p: float, x: Box) -> float:
    n = node.shape[-1] if node.shape else 1
    if node.op == "group_sort":
        return 1.0
    if node.op == "group_max":
        index = node.arrays["index"]
        most = int(np.bincount(index[index >= 0].ravel()).max())
        return 1.0 if p == math.inf or most == 1 else float(most) if p == 1 else math.sqrt(most) * _UP
    if node.op == "softmax":
        probability = _softmax(node.arrays["allowed"] != 0, x)
        nearest = np.clip(0.5, probability.lo, probability.hi)
        return min(0.5, float((2 * nearest * (1 - nearest)).max()) * _UP)
    if node.op == "log_softmax":
        if n == 1:
            return 0.0
        return 2.0 if p == math.inf else float(max(1, n - 1)) if p == 1 else math.sqrt(n) * _UP
    if node.op == "normalize":
        steepest = float(_normalized(node, x)[1].hi.max())
        eps = node.attributes["eps"]
        if eps > 0:
            steepest = min(steepest, _UP / math.sqrt(eps))
        return steepest if p == 2 else steepest * math.sqrt(n) * _UP
    raise ValueError(f"unknown operator {node.op!r}")


def _windows(node: NodeLike, x: Array, absent: float) -> Array:
    index = node.arrays["index"]
    return np.where(index < 0, absent, x.ravel()[np.maximum(index, 0)])


def _pull_max(node: NodeLike, g: Box, x: Box) -> Box:
    index = node.arrays["index"]
    lows, highs = _windows(node, x.lo, -np.inf), _windows(node, x.hi, -np.inf)
    can = (highs >= lows.max(-1, keepdims=True)) & (index >= 0)
    must = can & (can.sum(-1, keepdims=True) == 1)
    rows = len(g.lo)
    low = np.where(must, g.lo[..., None], np.where(can, np.minimum(g.lo[..., None], 0.0), 0.0)).reshape(rows, -1)
    high = np.where(must, g.hi[..., None], np.where(can, np.maximum(g.hi[..., None], 0.0), 0.0)).reshape(rows, -1)
    at, kept = index.ravel(), index.ravel() >= 0
    most = int(np.bincount(at[kept]).max())
    count = x.lo.size

    def gathered(t: Array) -> Array:
        total = np.zeros((rows, count))
        if most == 1:
            total[:, at[kept]] = t[:, kept]
        else:
            np.add.at(total.T, at[kept], t[:, kept].T)
        return total

    if most == 1:
        return Box(gathered(low).reshape(rows, *x.lo.shape), gathered(high).reshape(rows, *x.lo.shape))
    e = 2 * slack(most)
    lo, hi = gathered(low) - e * gathered(np.abs(low)), gathered(high) + e * gathered(np.abs(high))
    return widen(lo.reshape(rows, *x.lo.shape), hi.reshape(rows, *x.lo.shape))


def _places(x: Box) -> Array:
    """Whether entry j can take a place, ``[*shape, places]``."""
    n = x.lo.shape[-1]
    under = (x.hi[..., None, :] < x.lo[..., :, None]).sum(-1)
    over = (x.lo[..., None, :] > x.hi[..., :, None]).sum(-1)
    place = np.arange(n)
    return (place >= under[..., None]) & (place <= (n - 1 - over)[..., None])


def _pull_sort(g: Box, x: Box) -> Box:
    possible = _places(x)
    low = np.where(possible, g.lo[..., None, :], np.inf).min(-1)
    return Box(low, np.where(possible, g.hi[..., None, :], -np.inf).max(-1))


def _softmax(allowed: Array, x: Box) -> Box:
    """``1 / (1 + sum_{j != i} e^(x_j - x_i))`` rises in x_i and falls in the others."""
    allowed = np.broadcast_to(allowed, x.lo.shape)
    n = x.lo.shape[-1]
    other = ~np.eye(n, dtype=bool) & allowed[..., None, :]
    ends = []
    for own, others, unknown, sign in ((x.lo, x.hi, np.inf, -1), (x.hi, x.lo, -np.inf, 1)):
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.nan_to_num(others[..., None, :] - own[..., :, None], nan=unknown, posinf=np.inf, neginf=-np.inf)
            total = np.where(other, np.exp(np.where(other, apart, -np.inf)), 0.0).sum(-1)
        size = np.where(np.isfinite(own), np.abs(own), 0.0)
        reach = np.where(allowed & np.isfinite(others), np.abs(others), 0.0).max(-1, keepdims=True)
        e = slack(n + 16) * (1 + size + reach)
        ends.append(np.where(allowed, np.clip(1 / (1 + total) * (1 + sign * e) + sign * 2.0**-1000, 0.0, 1.0), 0.0))
    return Box(ends[0], ends[1])


def _log_softmax(x: Box) -> Box:
    ends = []
    n = x.lo.shape[-1]
    for own, others, sign in ((x.lo, x.hi, -1), (x.hi, x.lo, 1)):
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where(np.eye(n, dtype=bool), 0.0, others[..., None, :] - own[..., :, None])
            apart = np.nan_to_num(apart, nan=-sign * np.inf, posinf=np.inf, neginf=-np.inf)
            top = apart.max(-1)
            safe = np.where(np.isfinite(top), top, 0.0)
            total = -(safe + np.log(np.exp(apart - safe[..., None]).sum(-1)))
        size = np.where(np.isfinite(own), np.abs(own), 0.0)
        reach = np.where(np.isfinite(others), np.abs(others), 0.0).max(-1, keepdims=True)
        ends.append(np.where(np.isfinite(top), total + sign * slack(n + 16) * (1 + size + reach), -np.inf))
    return widen(ends[0], np.minimum(ends[1], 0.0))


def _centred(x: Box) -> Box:
    """``x_i - mean(x)``: rises in x_i, falls in the others."""
    n = x.lo.shape[-1]
    total = add_along(x, -1)
    e = 16 * slack(n) * (np.abs(x.size).sum(-1, keepdims=True) / n + x.size)
    with np.errstate(invalid="ignore"):
        return widen(x.lo - (total.hi - x.hi + x.lo) / n - e, x.hi - (total.lo - x.lo + x.hi) / n + e)


def _normalized(node: NodeLike, x: Box) -> tuple[Box, Box]:
    """The values and one over the scale."""
    n, eps, centred = node.shape[-1], node.attributes["eps"], node.attributes["centred"]
    d = _centred(x) if centred else x
    crosses = (d.lo <= 0) & (d.hi >= 0)
    with np.errstate(over="ignore", divide="ignore"):
        least = np.where(crosses, 0.0, np.minimum(np.abs(d.lo), np.abs(d.hi))) ** 2
        e = 4 * slack(n + 8)
        low = np.maximum((least.mean(-1, keepdims=True) + eps) * (1 - e) - 2.0**-1000, 0.0)
        high = ((d.size**2).mean(-1, keepdims=True) + eps) * (1 + e) + 2.0**-1000
        inverse = widen((1 - e) / np.sqrt(high), (1 + e) / np.sqrt(low))
    y = multiply(d, inverse)
    cap = math.nextafter(math.sqrt(max(n - 1 if centred else n, 0)), math.inf)
    return Box(np.maximum(y.lo, -cap), np.minimum(y.hi, cap)), inverse


def _product(x: Box, y: Box) -> Box:
    """Matrix products: ``X (m + e)`` with ``|X e| <= |X| r``."""
    m, r = middle(y)
    terms = x.lo.shape[-1]
    main = image(x, lambda t: t @ m, lambda t: t @ np.abs(m), terms)
    size = x.size
    both_finite = np.isfinite(size).all() and np.isfinite(r).all()
    if both_finite:
        spread = (size @ r) * (1 + 4 * slack(terms)) + 2.0**-1000
    else:
        # Products of infinities and zeros are told apart entry by entry.
        part = np.nan_to_num(size[..., :, :, None] * r[..., None, :, :], nan=0.0, posinf=np.inf)
        spread = part.sum(-2) * (1 + 4 * slack(terms)) + 2.0**-1000
    return widen(main.lo - spread, main.hi + spread)


def _matrix_norm(size: Array, p: float) -> float:
    """Largest operator norm of matrices with entries of at most these magnitudes, over a batch."""
    e = 1 + 2 * slack(size.shape[-1] * size.shape[-2])
    rows, columns = size.sum(-1).max(-1), size.sum(-2).max(-1)
    if p == math.inf:
        return float(rows.max()) * e
    if p == 1:
        return float(columns.max()) * e
    with np.errstate(over="ignore", invalid="ignore"):
        both = np.nan_to_num(rows * columns, nan=0.0, posinf=np.inf)
        return float(np.sqrt(np.minimum(both, (size**2).sum((-2, -1)))).max()) * e + 2.0**-500


GROUPS = {"group_max", "group_sort", "softmax", "log_softmax", "normalize", "add", "concat", "multiply", "matmul"}
"""Codes of the operators known here."""
