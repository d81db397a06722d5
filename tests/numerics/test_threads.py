"""Threads of the processor: as many as help, and as many as before afterwards."""

from itertools import count

import pytest
import torch

from steepest.api import capture
from steepest.bracket import Bracketing, Effort
from steepest.numerics import threads as module
from steepest.numerics.threads import threads, worthwhile_threads
from steepest.results import Domain


@pytest.fixture(autouse=True)
def four():
    """Torch has four threads, and its own number again afterwards."""
    with threads(4):
        yield


def timed(monkeypatch, seconds):
    """Work that takes ``seconds(threads, call)``."""
    calls = count()
    monkeypatch.setattr(module, "_work", lambda matrix: seconds(torch.get_num_threads(), next(calls)))


def test_the_number_is_restored_also_after_an_error():
    with pytest.raises(KeyError), threads(2):
        assert torch.get_num_threads() == 2
        raise KeyError
    assert torch.get_num_threads() == 4


def test_one_thread_is_not_tried(monkeypatch):
    timed(monkeypatch, lambda threads, call: pytest.fail("timed"))
    with threads(1):
        assert worthwhile_threads(100) == 1


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda threads, call: 1e-3 / threads, 4),
        (lambda threads, call: 1e-3, 1),
        (lambda threads, call: 1e-3 * threads, 1),
        # Fast but for one operation in thirty, in which a thread waits for its core.
        (lambda threads, call: 1e-3 / threads + (8e-3 if threads > 1 and call % 30 == 29 else 0.0), 1),
        # The first, which wakes the threads, does not count.
        (lambda threads, call: 1.0 if call == 0 else 1e-3 / threads, 4),
    ],
)
def test_several_are_taken_where_they_are_faster_in_every_turn(monkeypatch, seconds, expected):
    timed(monkeypatch, seconds)
    assert worthwhile_threads(100) == expected
    assert torch.get_num_threads() == 4


def test_a_busy_machine_is_found_out_in_few_operations(monkeypatch):
    calls = []
    timed(monkeypatch, lambda threads, call: calls.append(call) or (1e-4 if threads == 1 else 16e-3))
    assert worthwhile_threads(100) == 1
    assert len(calls) < 50


def test_a_bracket_is_computed_on_what_helps(monkeypatch):
    seen = []
    timed(monkeypatch, lambda threads, call: 1e-3 * threads)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    graph = capture(net, sample=None, factory=None, input_shape=(3,)).graph
    effort = Effort(0.2, 2, 0.5)
    Bracketing(effort, progress=lambda stage: seen.append(torch.get_num_threads())).run(graph, Domain("all"), 2.0)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 4
