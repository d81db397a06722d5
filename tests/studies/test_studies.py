"""Every study at tiny settings: a valid result, the same each time, and a page of it."""

import json
import math

import pytest
import torch

import steepest
from steepest.errors import UsageError
from steepest.report.page import render
from steepest.results import Verdict
from steepest.studies.table import STUDIES, find

pytest.importorskip("sklearn")

TINY = {
    "normalisation": {"seeds": 2, "steps": 3, "depths": (2,), "low": 0.1, "high": 1.0, "ratio": 10.0},
    "covariate-shift": {"seeds": 2, "steps": 4, "checkpoints": 2, "rates": (0.1,), "depth": 3, "width": 8},
    "smoothness": {"seeds": 2, "steps": 4, "checkpoints": 2, "rates": (0.1,), "depth": 3, "width": 8},
    "ghost-batches": {"seeds": 2, "steps": 4, "train": 64, "batches": (16, 32), "ghosts": (4, 8, 16, 32), "depth": 2, "width": 8},
    "depth": {"seeds": 2, "steps": 4, "depths": (2, 6), "rates": (0.01,), "width": 8},
    "signal-propagation": {"seeds": 2, "depth": 6, "nets": 3, "widths": (24, 48)},
    "adam-divergence": {"seeds": 2, "steps": 63},
    "proven-rates": {"seeds": 2, "depths": (2, 3), "size": 2, "samples": 4, "widths": (4, 8, 16), "steps": 6},
    "ntk": {"seeds": 2, "widths": (4, 8), "draws": 3, "points": 6, "steps": 4, "labelled": 12, "usual": 6, "epochs": 1},
    "mode-connectivity": {"seeds": 2, "widths": (4, 8), "steps": 6, "curve_steps": 4, "points": 5, "parting": (0, 2), "parting_width": 4},
    "lottery-tickets": {"seeds": 2, "widths": (6, 4), "steps": 4, "rounds": 2, "levels": (1, 2), "rewind": 2},
    "large-batch": {
        "seeds": 2,
        "train": 64,
        "width": 4,
        "batches": (8, 16, 32, 64),
        "epochs": 2,
        "tuning": 2,
        "grid": 2,
        "race_batches": (8, 32, 64),
        "target": 2.2,
        "limit": 6,
    },
    "generalisation": {"seeds": 2, "width": 6, "steps": 16, "batch": 8, "shares": (0.0, 0.5, 1.0), "samples": (16, 32)},
    "sensitivity": {
        "seeds": 2,
        "width": 8,
        "deep": (6, 5, 4),
        "steps": 40,
        "images": 4,
        "directions": 3,
        "climbs": 8,
        "multiples": (1.0, 2.0),
    },
    "robustness": {"seeds": 2, "hidden": (4, 6), "temperatures": (1.0, 16.0), "steps": 30, "batch": 16, "images": 8},
    "gan-stability": {
        "seeds": 2,
        "rates": (0.001, 0.01),
        "constants": (1.0,),
        "steps": 6,
        "hidden": (4,),
        "digit_rates": (0.001,),
        "digit_steps": 6,
        "digit_hidden": (4,),
        "batch": 8,
        "looks": 2,
        "samples": 40,
    },
    "momentum": {
        "seeds": 2,
        "kappas": (3.0, 10.0),
        "dimension": 3,
        "nats": 3.0,
        "most": 30,
        "noisy": 4.0,
        "averaged": 20,
        "copies": 2,
    },
    "saddle-escape": {
        "seeds": 2,
        "starts": 3,
        "steps": 40,
        "decades": 2,
        "saddles": 3,
        "chains": 2,
        "most": 100,
        "train": 32,
        "width": 3,
        "batch": 16,
        "net_steps": 4,
        "gd_rates": (0.1,),
        "adam_rates": (0.003, 0.01),
    },
    "hardness": {"seeds": 2, "graphs": (5, 7), "wide": (3, 5), "plane": (3, 6)},
    "edge-of-stability": {"seeds": 2, "images": 40, "width": 4, "steps": 12, "every": 3},
    "warm-up": {
        "seeds": 2,
        "depth": 1,
        "width": 4,
        "plain_depth": 2,
        "plain_width": 4,
        "steps": 4,
        "warm": 2,
        "batch": 4,
        "low": 0.001,
        "high": 0.01,
        "sgd_high": 0.1,
        "ratio": 10.0,
        "gathered": 2,
        "samples": 500,
        "at": (6, 20),
    },
    "staleness": {
        "seeds": 2,
        "delayed": (1, 2),
        "momentum_workers": 3,
        "momentum_steps": 8,
        "copies": 2,
        "workers": (1, 2, 4),
        "some": 2,
        "many": 4,
        "width": 4,
        "batch": 8,
        "target": 2.25,
        "limit": 50,
        "every": 10,
        "rates": 2,
    },
    "ultra-deep": {"seeds": 2, "depth": 20, "width": 8, "steps": 4, "rates": (0.001,), "skip_rates": (0.01,)},
}


def test_every_study_is_tried():
    assert {study.name for study in STUDIES} == set(TINY)


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_tiny_run_is_a_valid_result(name):
    torch.manual_seed(7)
    study, told = find(name)(**TINY[name]), []
    before = torch.get_rng_state()
    result = study.run(lambda stage, fraction: told.append((stage, fraction)))
    assert torch.equal(torch.get_rng_state(), before)
    assert told and all(stage and 0 <= fraction <= 1 for stage, fraction in told)
    assert [f for _, f in told] == sorted(f for _, f in told)
    assert result.claims and result.figures and result.seeds == 2
    for claim in result.claims:
        assert isinstance(claim.verdict, Verdict) and claim.statement.endswith(".") and claim.source and claim.rule
        assert claim.measured and claim.because
        for interval in claim.measured.values():
            assert not interval.low > interval.value and not interval.value > interval.high
    for figure in result.figures:
        assert figure.title and figure.x_label and figure.y_label
        for series in figure.series:
            assert len(series.x) == len(series.y) > 0
            assert all(math.isfinite(v) for v in series.y)
    content = result.to_json()
    again = study.run().to_json()
    for one in (content, again):
        json.dumps(one, allow_nan=False)
        one.pop("seconds")
    assert content == again
    page = render([{**content, "seconds": 1.0}])
    assert page.count("<polyline") >= len(result.figures)
    assert all(claim.verdict.value in page for claim in result.claims)


def test_bad_names_and_seeds():
    with pytest.raises(UsageError, match="there are normalisation"):
        steepest.study("nonsense")
    with pytest.raises(UsageError, match="two seeds"):
        steepest.study("depth", seeds=1)
