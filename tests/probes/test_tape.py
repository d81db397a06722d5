"""The graph of a loss, read as a network."""

from __future__ import annotations

import torch
from torch import nn

from steepest.probes.tape import read, result_of, tail


class Skip(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x


def test_depth_of_plain_and_skipped():
    plain = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(4, 4), nn.Tanh())], nn.Linear(4, 1))
    tape = read(plain(torch.randn(3, 4)).sum().grad_fn)
    assert tape is not None and (tape.depth, tape.short_depth, tape.recurrent) == (7, 7, False)
    assert [op.name for op in tape.activations] == ["Tanh"] * 6
    assert [op.far for op in tape.activations] == [6, 5, 4, 3, 2, 1]
    assert {id(p) for p, _ in tape.parameters} == {id(p) for p in plain.parameters()}
    skipped = read(Skip(6)(torch.randn(3, 4)).sum().grad_fn)
    assert skipped is not None and (skipped.depth, skipped.short_depth) == (6, 1)


def test_values_in_order_of_the_forward_pass():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    x = torch.randn(3, 4)
    a = torch.relu(first(x))
    b = torch.sigmoid(second(a))
    tape = read(b.sum().grad_fn)
    assert tape is not None
    values = [result_of(op) for op in tape.activations]
    assert values[0] is not None and torch.equal(values[0], a)
    assert values[1] is not None and torch.equal(values[1], b)


def test_recurrence_is_many_uses_of_a_weight():
    tape = read(nn.RNN(2, 3, batch_first=True)(torch.randn(2, 6, 2))[0].sum().grad_fn)
    assert tape is not None and tape.recurrent and len(tape.activations) == 6


def test_tail_stops_at_the_last_weights():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    y = net(torch.randn(3, 4))
    assert tail(y.grad_fn) == ()
    assert [op.name for op in tail(torch.softmax(torch.relu(y), 1).grad_fn)] == ["Softmax", "Relu"]


def test_no_graph_and_too_large_a_graph():
    assert read(None) is None
    assert read(nn.Linear(2, 2)(torch.ones(1, 2)).sum().grad_fn, limit=2) is None
