"""Real processes train as well as one: the accuracy of the centre on digits, seed by seed."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
accuracy = pytest.importorskip("distributed_accuracy")

SEEDS, STEPS = range(3), 500


@pytest.mark.slow
@pytest.mark.parametrize("name", accuracy.METHODS)
def test_four_processes_reach_the_serial_accuracy(name):
    found = {seed: accuracy.together(name, seed, STEPS) for seed in SEEDS}
    assert all(staleness > 0.2 for _, staleness in found.values())
    assert accuracy.reaches([value - accuracy.alone(seed, STEPS) for seed, (value, _) in found.items()])
    assert min(value for value, _ in found.values()) > 0.9


def test_the_rule_refuses_what_falls_short():
    assert accuracy.reaches([0.0, 0.01, -0.005])
    assert not accuracy.reaches([-0.02, -0.021, -0.019])
    assert not accuracy.reaches([-0.1, 0.05, -0.1])
