"""Ghost batch normalisation against batch normalisation of each part on its own."""

import pytest
import torch
from torch import nn

import steepest
from steepest.layers import GhostBatchNorm, with_ghost_batches_


def _parts(n, size):
    k = max(1, n // size)
    even = k * size if n % size == 0 else (k - 1) * size
    parts = [list(range(j, even, even // size)) for j in range(even // size)]
    return [*parts, list(range(even, n))] if even < n else parts


@pytest.mark.parametrize("shape", [(12, 3), (13, 3, 5), (3, 3, 4, 4), (8, 3, 2, 2, 2), (17, 3)])
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_equals_batch_norm_of_each_ghost_batch_in_turn(shape, momentum):
    norm = GhostBatchNorm(3, 4, momentum=momentum, dtype=torch.float64)
    slow = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](
        3, momentum=momentum, dtype=torch.float64
    )
    with torch.no_grad():
        for p in norm.parameters():
            p.copy_(torch.randn(3))
    slow.load_state_dict(norm.state_dict())
    for _ in range(2):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        twin = x.detach().clone().requires_grad_()
        expected = torch.zeros_like(twin)
        means = []
        for part in _parts(shape[0], 4):
            expected[part] = slow(twin[part])
            means.append(twin[part].transpose(0, 1).reshape(3, -1).mean(1))
        found = norm(x)
        torch.testing.assert_close(found, expected)
        weights = torch.randn_like(found)
        torch.testing.assert_close(
            torch.autograd.grad((found * weights).sum(), [x, norm.weight]),
            torch.autograd.grad((expected * weights).sum(), [twin, slow.weight]),
        )
    if momentum is not None:
        torch.testing.assert_close(norm.running_mean, slow.running_mean)
        torch.testing.assert_close(norm.running_var, slow.running_var)
    assert norm.num_batches_tracked == 2


def test_cumulative_average_counts_each_batch_once():
    norm = GhostBatchNorm(2, 3, momentum=None, dtype=torch.float64)
    batches = torch.randn(4, 6, 2, dtype=torch.float64)
    for x in batches:
        norm(x)
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1)))


def test_evaluation_is_batch_normalisation_and_leaves_the_statistics():
    norm, slow = GhostBatchNorm(3, 2), nn.BatchNorm1d(3)
    norm(torch.randn(8, 3))
    slow.load_state_dict(norm.state_dict())
    norm.eval(), slow.eval()
    x = torch.randn(5, 3)
    assert torch.equal(norm(x), slow(x))
    assert torch.equal(norm.running_mean, slow.running_mean)


def test_one_ghost_batch_is_batch_normalisation():
    x = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(GhostBatchNorm(3, 6)(x), nn.BatchNorm2d(3)(x))
    torch.testing.assert_close(GhostBatchNorm(3, 100)(x), nn.BatchNorm2d(3)(x))


def test_reduced_precision_keeps_its_type():
    assert GhostBatchNorm(3, 2)(torch.randn(4, 3, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_without_statistics_evaluation_normalises_as_training_does():
    norm = GhostBatchNorm(3, 2, track_running_stats=False)
    x = torch.randn(8, 3)
    assert torch.equal(norm(x), norm.eval()(x))


def test_bad_input():
    with pytest.raises(ValueError, match="ghost_size"):
        GhostBatchNorm(3, 0)
    with pytest.raises(ValueError, match=r"\[N, 3, ...\]"):
        GhostBatchNorm(3, 2)(torch.randn(4, 2))
    with pytest.raises(ValueError, match="one value per channel"):
        GhostBatchNorm(3, 1)(torch.randn(4, 3))


def test_replacing_shares_parameters_and_is_captured():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(18)))
    before = dict(model.named_parameters())
    assert with_ghost_batches_(model, 4) == ("1", "3.1")
    assert all(p is before[name] for name, p in model.named_parameters())
    model(torch.randn(8, 1, 3, 3))
    bracket = steepest.bound(model.eval(), sample=torch.randn(1, 1, 3, 3), effort="fast", time_limit=2)
    assert bracket.upper < float("inf")
    with pytest.raises(ValueError, match="no BatchNorm"):
        with_ghost_batches_(nn.Sequential(nn.Linear(2, 2)), 4)
