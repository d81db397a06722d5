"""The margin bound against its formula, and the record that holds all of it."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import steepest
from steepest.errors import UnsupportedOperatorError, UsageError
from steepest.measures.margin_bound import margin_bound, margins
from steepest.measures.spectral_complexity import Chain
from steepest.report.page import render
from steepest.results import LayerNorms


def chain_of(spectral, distance, width=8):
    layers = tuple(LayerNorms(f"{k}", "dense", width, width, s, b, 1.0) for k, (s, b) in enumerate(zip(spectral, distance, strict=True)))
    return Chain(layers, 1.0, False, width)


def formula(spectral, distance, width, found, data_norm, delta, gamma):
    """With the norms as they are, without a union over anything."""
    n = len(found)
    product = np.prod(spectral)
    r = product * sum((b / s) ** (2 / 3) for s, b in zip(spectral, distance, strict=True)) ** 1.5
    share = float((found <= gamma).double().mean())
    main = 8 / n**1.5 + 72 * data_norm * r * math.sqrt(math.log(2 * width**2)) * math.log(n) / (gamma * n)
    return share, main, 3 * math.sqrt(math.log(2 / delta) / (2 * n))


@pytest.mark.parametrize("seed", range(5))
def test_against_the_formula(seed):
    rng = np.random.default_rng(seed)
    spectral, distance = np.exp(rng.normal(size=3)), np.exp(rng.normal(size=3))
    found = torch.tensor(rng.normal(size=50) + 1.0)
    bound = margin_bound(chain_of(spectral, distance), found, 7.0, 0.05)
    share, main, confidence = formula(spectral, distance, 8, found, 7.0, 0.05, bound.margin)
    assert bound.share == share
    # Norms are rounded up by at most 10 % together; the union costs a little confidence.
    assert main <= bound.complexity <= math.exp(0.101) * main
    assert confidence <= bound.confidence <= confidence + 3 * math.sqrt(7 * (1.0 + 2 * math.log(200)) / 100)
    assert bound.value == pytest.approx(bound.share + bound.complexity + bound.confidence)
    # No other margin of a fine grid is better by more than a step of the grid allows.
    best = min(sum(formula(spectral, distance, 8, found, 7.0, 0.05, g)) for g in np.exp(np.linspace(-8, 3, 400)))
    assert best <= bound.value
    fixed = [margin_bound(chain_of(spectral, distance), found, 7.0, 0.05, g).value for g in (0.1, 0.5, 1.0, 2.0)]
    assert bound.value <= min(fixed)


def test_it_can_promise_something_and_says_when_not():
    found = torch.full((10**7,), 5.0)
    good = margin_bound(chain_of([1.0], [1.0]), found, math.sqrt(10**7), 0.01)
    assert not good.vacuous and 0 < good.value < 1 and good.share == 0.0
    assert margin_bound(chain_of([10.0], [10.0]), found[:100], 10.0, 0.01).vacuous
    # More samples from the same data, fewer doubts.
    values = [margin_bound(chain_of([1.0], [1.0]), found[:n], math.sqrt(n), 0.01).complexity for n in (10**3, 10**4, 10**5)]
    assert values == sorted(values, reverse=True)


def test_without_a_right_answer():
    bound = margin_bound(chain_of([1.0], [1.0]), -torch.ones(20), 4.0, 0.01)
    assert bound.share == 1.0 and bound.vacuous and math.isfinite(bound.value)


def test_margins_one_by_one():
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(30, 4, generator=generator), torch.randint(0, 4, (30,), generator=generator)
    slow = [float(o[y] - max(o[j] for j in range(4) if j != y)) for o, y in zip(outputs, labels, strict=True)]
    assert margins(outputs, labels).tolist() == pytest.approx(slow)


def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False))
    x = torch.randn(40, 4)
    return model, x, model(x).argmax(1)


def test_the_verb():
    model, x, y = trained()
    start = nn.Sequential(nn.Linear(4, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False))
    bracket = steepest.bound(model, sample=x, effort="fast", time_limit=3.0)
    found = steepest.generalisation(model, x, y, bracket=bracket, delta=0.05)
    assert found.error == 0.0 and found.bound.delta == 0.05 and found.bound.vacuous and not found.biased
    assert found.lipschitz == bracket.upper <= found.product * (1 + 1e-6)
    assert found.lipschitz_complexity == pytest.approx(found.complexity * bracket.upper / found.product)
    weights = [model[0].weight.detach().double(), model[2].weight.detach().double()]
    assert found.product == pytest.approx(math.prod(torch.linalg.matrix_norm(w, 2).item() for w in weights), rel=1e-6)
    assert found.path_norms is not None and found.path_norms[0] == pytest.approx((weights[1].abs() @ weights[0].abs()).sum().item())
    assert found.normalised_margins == pytest.approx(found.margins * 40 / (found.complexity * x.double().norm().item()), rel=1e-6)
    assert steepest.generalisation(model, x, y, reference=start).referenced
    assert steepest.generalisation(model, x.numpy(), y.numpy(), reference=model).complexity == 0.0
    content = found.to_json()
    json.dumps(content, allow_nan=False)
    assert content["bound"]["vacuous"] and content["margins"]["0"] == found.margins.min()
    assert "vacuous" in found._repr_html_() and "no bound" in found._repr_html_()
    page = render([content])
    assert "vacuous" in page and "(2,1) distance" in page and page.count("<polyline") == 1


def test_networks_that_path_norms_or_the_theorem_do_not_cover():
    torch.manual_seed(0)
    x, y = torch.randn(10, 4), torch.arange(10) % 3
    found = steepest.generalisation(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), x, y)
    assert found.path_norms is None and "tanh" in found.path_remark and found.biased
    with pytest.raises(UnsupportedOperatorError, match="softmax"):
        steepest.generalisation(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1), nn.Linear(3, 3)), x, y)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_last_softmax_changes_nothing(last):
    model, x, y = trained()
    bare, whole = (steepest.generalisation(m, x, y) for m in (model, nn.Sequential(*model, last)))
    assert whole.digest == bare.digest and whole.bound == bare.bound and (whole.margins == bare.margins).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.arange(40) % 4}, "labels must be from 0 to 2"),
        ({"y": torch.zeros(39, dtype=torch.int64)}, "labels of shape"),
        ({"y": torch.zeros(40)}, "whole numbers"),
        ({"x": torch.full((40, 4), math.nan)}, "NaN"),
        ({"x": torch.zeros(1, 4), "y": torch.zeros(1, dtype=torch.int64)}, "at least two samples"),
        ({"delta": 0.0}, "delta"),
        ({"margin": -1.0}, "margin"),
    ],
)
def test_bad_input(change, message):
    model, x, y = trained()
    with pytest.raises(UsageError, match=message):
        steepest.generalisation(model, **{"x": x, "y": y, **change})


def test_a_bracket_of_something_else():
    model, x, y = trained()
    other = steepest.bound(nn.Linear(4, 3), sample=x, effort="fast", time_limit=2.0)
    with pytest.raises(UsageError, match="bracket must be of this network"):
        steepest.generalisation(model, x, y, bracket=other)
    with pytest.raises(UsageError, match="at least two scores"):
        steepest.generalisation(nn.Linear(4, 1), x, y * 0)
