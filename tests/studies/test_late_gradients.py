"""The parabola against recursions by hand, and the race of simulated workers against its rule."""

import math

import numpy as np
import pytest
import torch
from torch.optim import SGD

from steepest.distributed import Downpour, Exponential
from steepest.distributed.method import HELLO, Message
from steepest.optim import AdaDelay
from steepest.studies.delayed_quadratics import implicit_momentum, largest_contracting_rate, mean_path
from steepest.studies.late_gradients import LateGradients, _Untold
from steepest.studies.quadratics import largest_stable_step
from steepest.studies.workers import Arrival, Race

pytest.importorskip("sklearn")


@pytest.mark.parametrize("workers", [1, 3])
def test_the_edge_of_delayed_descent(workers):
    found = largest_contracting_rate(workers)
    assert found.low < found.value < found.high < 1.02 * found.low
    assert found.value == pytest.approx(largest_stable_step(workers - 1), rel=0.02)


def test_implicit_momentum_is_the_mean_over_geometric_delays():
    p, rate, steps = 4, 0.3, 30
    path = [1.0]
    for t in range(steps):
        weights = [(1 / p) * (1 - 1 / p) ** k for k in range(t)] + [(1 - 1 / p) ** t]
        path.append(path[-1] - rate * sum(w * path[t - k] for k, w in enumerate(weights)))
    np.testing.assert_allclose(implicit_momentum(p, rate, steps), path, atol=1e-12)


def test_one_worker_has_no_momentum():
    np.testing.assert_allclose(mean_path(1, 0.3, 10, 1, 0), 0.7 ** np.arange(11), atol=1e-12)
    np.testing.assert_allclose(implicit_momentum(1, 0.3, 10), 0.7 ** np.arange(11), atol=1e-12)


class _Table(Race):
    """Steps by rate, without training; remembers what was asked."""

    def run(self, method, rate, workers, service, seed, most=math.inf):
        asked.append(rate)
        steps = TABLE[rate]
        return Arrival(rate, steps if steps <= most else math.inf, steps, 0.0)


TABLE = {1.6: math.inf, 0.8: 300.0, 0.4: 200.0, 0.2: 250.0, 0.1: 260.0, 0.05: 100.0}
asked: list[float] = []


def test_the_best_rate_is_looked_for_downwards():
    race = _Table(4, 4, 1.0, 100, 0, 10)
    asked.clear()
    assert race.best(lambda lr: lr, tuple(TABLE), 1, Exponential(), 0).rate == 0.4
    assert asked == [1.6, 0.8, 0.4, 0.2, 0.1]
    asked.clear()
    assert race.best(lambda lr: lr, tuple(TABLE), 1, Exponential(), 0, near=0.2).rate == 0.4
    assert asked == [0.4, 0.2, 0.1]


def test_a_race_arrives_or_does_not():
    race = Race(8, 16, 2.0, 200, 0, 10)
    found = race.run(Downpour(lambda p: SGD(p, 0.2)), 0.2, 3, Exponential(), 0)
    assert found.steps % 10 == 0 and 0 < found.steps < 200 and found.time < found.steps and 1.0 < found.staleness <= 2.0
    again = race.run(Downpour(lambda p: SGD(p, 0.2)), 0.2, 3, Exponential(), 0, most=found.steps - 10)
    assert again.steps == math.inf
    assert race.run(Downpour(lambda p: SGD(p, 1e4)), 1e4, 3, Exponential(), 0).steps == math.inf


def test_the_line_of_steps():
    study = LateGradients(workers=(1, 4, 16))
    assert study._misfit([110.0, 140.0, 260.0]) == pytest.approx(0.0, abs=1e-12)
    assert study._misfit([100.0, 300.0, 100.0]) > 0.3
    assert study._misfit([100.0, math.inf, 100.0]) == math.inf


def test_a_method_that_is_not_told_its_delays():
    told, untold = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    for make, p in ((AdaDelay, told), (_Untold, untold)):
        centre = Downpour(lambda q, make=make: make(q, 0.1)).centre([p], 2)
        for worker, message in ((0, HELLO), (1, HELLO), (0, Message(torch.ones(3))), (1, Message(torch.ones(3)))):
            centre.handle(worker, message)
    assert (told > untold).all()
