"""The rules that judge, on numbers whose verdict is known."""

import math

import pytest

from steepest.results import Interval, Verdict
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, slope, t_quantile, text, together

HELD, PARTLY, NOT = Verdict.HELD, Verdict.PARTLY, Verdict.DID_NOT_HOLD


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(2, 3, HELD), (1.3, 9, HELD), (1, 2, PARTLY), (0.5, 1.25, NOT), (1.05, 1.2, NOT), (-1, 0, NOT)]
)
def test_above_a_margin(low, high, verdict):
    assert above(Interval((low + high) / 2, low, high), 1.25) == verdict
    assert below(Interval(-(low + high) / 2, -high, -low), -1.25) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-0.1, 0.2, HELD), (-1, 0.2, PARTLY), (-1, 1, PARTLY), (0.5, 1, NOT), (-2, -0.5, NOT)]
)
def test_inside_a_margin(low, high, verdict):
    assert inside(Interval((low + high) / 2, low, high), 0.5) == verdict


def test_an_effect_that_is_certain_and_negligible_did_not_hold():
    assert above(ratio_interval([1.01, 1.02, 1.015], [1.0, 1.0, 1.0]), 1.25) == NOT


def test_parts_together():
    assert together([HELD, HELD]) == HELD
    assert together([NOT, NOT]) == NOT
    assert together([HELD, NOT]) == PARTLY
    assert together([HELD, PARTLY]) == PARTLY


def test_intervals_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (*range(1, 40), 100):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)
    values = [1.0, 2.5, 0.5, 3.0]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=1.75, scale=stats.sem(values))
    assert (found.value, found.low, found.high) == (pytest.approx(1.75), pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))


def test_ratios_are_averaged_in_logarithms_and_a_grid_widens_them():
    assert ratio_interval([8.0, 2.0], [1.0, 1.0]).value == pytest.approx(4.0)
    sure = ratio_interval([10.0, 10.0], [1.0, 1.0], grid=2.0)
    assert (sure.low, sure.high) == (pytest.approx(5.0), pytest.approx(20.0))
    assert above(sure, 4.0) == HELD and above(sure, 6.0) == PARTLY


def test_what_is_not_finite_never_decides_by_accident():
    assert above(mean_interval([math.nan, 5.0]), 1.0) == PARTLY
    assert above(mean_interval([math.inf, 5.0, 6.0]), 1.0) == HELD
    assert above(mean_interval([math.inf, 0.5]), 1.0) == PARTLY
    assert above(mean_interval([5.0]), 1.0) == PARTLY
    assert ratio_interval([0.0, 0.0], [1.0, 1.0]).high == 0.0
    assert text(Interval(12.345, 10.0, 15.0)) == "12.3 [10, 15]"


def test_what_a_difference_leaves_is_shown_as_zero():
    found = mean_interval([0.1 + 0.2, -0.3, 0.7 - 0.6, -0.1])
    assert 0.0 < abs(found.value) < 1e-16
    assert text(found) == "0 [-0.411, 0.411]"
    assert text(Interval(0.01, 2.2e-16, 0.02)) == "0.01 [0, 0.02]"
    assert text(Interval(1e-16, 0.9e-16, 1.1e-16)) == "1e-16 [9e-17, 1.1e-16]"
    assert text(Interval(2.0, -math.inf, math.inf)) == "2 [-inf, inf]"
    assert text(Interval(5.0, 4.0, math.inf)) == "5 [4, inf]"


def test_slope_and_list():
    assert slope([0.0, 1.0, 2.0], [1.0, -1.5, -2.5]) == pytest.approx(-1.75)
    assert listed({"a": Interval(1.0, 0.5, 2.0), "b": Interval(3.0, 3.0, 3.0)}) == "1 [0.5, 2] (a); 3 [3, 3] (b)"
