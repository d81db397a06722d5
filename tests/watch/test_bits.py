"""An observed training computes, bit by bit, what it computes alone."""

import pytest
import torch

import steepest
from nosy import Nosy
from steepest.watch.observer import OTHER_THREADS
from trainings import ALL, seeded, threads


@pytest.mark.filterwarnings("ignore:.torch.jit.trace.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("training", ALL, ids=lambda t: t.__name__)
@pytest.mark.parametrize("probes", ["default", "nosy"])
def test_observed_is_bit_equal(training, probes):
    alone = seeded(training)
    with steepest.watch(None if probes == "default" else [Nosy()]) as run:
        observed = seeded(training)
    assert set(run.notes) <= ({OTHER_THREADS} if training is threads else set())
    assert len(alone) == len(observed)
    for a, b in zip(alone, observed, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    again = seeded(training)
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
