"""Directed rounding and intervals against exact rational arithmetic: producer's and checker's."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.numerics.interval import Interval, linear_image
from steepest.numerics.rounding import above, below, gamma, product_up, sum_above, sum_up
from steepest.proofs.checker import box
from steepest.proofs.checker.slopes import _difference_up

REAL = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150)
SIZE = st.floats(allow_nan=False, allow_infinity=False, min_value=0.0, max_value=1e150)


def exact(x) -> Fraction:
    return Fraction(float(x))


@given(st.lists(SIZE, min_size=1, max_size=8))
def test_sums_and_products_round_up(terms):
    assert exact(sum_up(*terms)) >= sum(map(Fraction, terms))
    bound = product_up(*terms[:2])
    assert bound == math.inf or Fraction(bound) >= math.prod(map(Fraction, terms[:2]))


@given(REAL)
def test_neighbours_are_strictly_outside(x):
    t = torch.tensor(x, dtype=torch.float64)
    assert below(t).item() < x < above(t).item()


@given(st.integers(1, 2**20))
def test_gamma_is_above_the_textbook_bound(n):
    unit = Fraction(1, 2**53)
    assert Fraction(gamma(n)) >= n * unit / (1 - n * unit)
    assert Fraction(box.slack(n)) >= n * unit / (1 - n * unit)


@given(st.lists(SIZE, min_size=1, max_size=20))
def test_sums_of_tensors_round_up(values):
    assert exact(sum_above(torch.tensor(values, dtype=torch.float64), 0)) >= sum(map(Fraction, values))


@settings(max_examples=200)
@given(st.tuples(REAL, REAL), st.tuples(REAL, REAL), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_intervals_hold_every_result(first, second, shares):
    """Sums, differences and products of points of both intervals, for both implementations."""
    points, mine, theirs = [], [], []
    for ends, share in zip((first, second), shares, strict=True):
        lo, hi = min(ends), max(ends)
        points.append(Fraction(lo) + (Fraction(hi) - Fraction(lo)) * Fraction(share))
        mine.append(Interval(torch.tensor(lo, dtype=torch.float64), torch.tensor(hi, dtype=torch.float64)))
        theirs.append(box.Box(np.array(lo), np.array(hi)))
    (a, b), (x, y), (u, v) = points, mine, theirs
    for got, other, true in (
        (x + y, box.add(u, v), a + b),
        (x - y, box.add(u, box.negative(v)), a - b),
        (x * y, box.multiply(u, v), a * b),
    ):
        for lo, hi in ((got.lo.item(), got.hi.item()), (float(other.lo), float(other.hi))):
            assert (lo == -math.inf or Fraction(lo) <= true) and (hi == math.inf or true <= Fraction(hi))


@pytest.mark.parametrize("seed", range(5))
def test_linear_images_hold_every_result(seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(6, 40)) * 10.0 ** rng.integers(-8, 8, size=(6, 40))
    lo = rng.normal(size=40) * 10.0 ** rng.integers(-8, 8, size=40)
    hi = lo + np.abs(rng.normal(size=40)) * (rng.random(40) < 0.7)
    w = torch.from_numpy(weight)
    mine = linear_image(Interval(torch.from_numpy(lo), torch.from_numpy(hi)), lambda x: w @ x, lambda r: w.abs() @ r, 40)
    theirs = box.image(box.Box(lo[None], hi[None]), lambda x: x @ weight.T, lambda x: x @ np.abs(weight).T, 40)
    share = [Fraction(float(s)) for s in rng.random(40)]
    x = [Fraction(a) + (Fraction(b) - Fraction(a)) * s for a, b, s in zip(lo.tolist(), hi.tolist(), share, strict=True)]
    for i, row in enumerate(weight.tolist()):
        true = sum(Fraction(c) * p for c, p in zip(row, x, strict=True))
        assert Fraction(mine.lo[i].item()) <= true <= Fraction(mine.hi[i].item())
        assert Fraction(float(theirs.lo[0, i])) <= true <= Fraction(float(theirs.hi[0, i]))


@given(REAL, REAL)
def test_differences_round_up_and_only_where_they_are_rounded(a, b):
    got = Fraction(float(_difference_up(np.array([a]), np.array([b]))[0]))
    true = Fraction(a) - Fraction(b)
    assert got >= true
    if true == Fraction(a - b):
        assert got == true
