"""K-FAC's step against the dense curvature, where the Kronecker factors are exact."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("curvlinops")

from steepest.optim import KFAC


@pytest.fixture
def task():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return model, nn.CrossEntropyLoss(), torch.randn(6, 3, dtype=torch.float64), torch.randint(3, (6,))


def gradients(model, criterion, x, y):
    model.zero_grad()
    criterion(model(x), y).backward()


def test_one_sample_is_exact(task):
    """One sample: every block ``J'HJ`` is its Kronecker product, H the Hessian of the loss in the logits."""
    model, criterion, x, y = task
    x, y = x[:1], y[:1]
    gradients(model, criterion, x, y)
    damping, expected = 0.03, {}
    probability = model(x).softmax(1)[0].detach()
    hessian = torch.diag(probability) - torch.outer(probability, probability)
    for name, p in model.named_parameters():
        rows = [torch.autograd.grad(model(x)[0, k], p)[0].reshape(-1) for k in range(3)]
        jacobian = torch.stack(rows)
        block = jacobian.T @ hessian @ jacobian + damping * torch.eye(p.numel(), dtype=torch.float64)
        expected[name] = p.detach() - 0.5 * torch.linalg.solve(block, p.grad.reshape(-1)).reshape(p.shape)
    optimizer = KFAC(model.parameters(), lr=0.5, damping=damping, trust=float("inf"), model=model, criterion=criterion, fisher="type-2")
    optimizer.step(batch=(x, y))
    for name, p in model.named_parameters():
        assert torch.allclose(p.detach(), expected[name], rtol=1e-9, atol=1e-10)


def test_the_trust_region_limits_the_step(task):
    model, criterion, x, y = task
    gradients(model, criterion, x, y)
    before = [p.detach().clone() for p in model.parameters()]
    slopes = [p.grad.clone() for p in model.parameters()]
    optimizer = KFAC(model.parameters(), lr=1.0, trust=1e-4, model=model, criterion=criterion)
    optimizer.step(batch=(x, y))
    moves = [a - p.detach() for a, p in zip(before, model.parameters(), strict=True)]
    # The step is c d with c^2 d'g = trust.
    change = float(sum((m * g).sum() for m, g in zip(moves, slopes, strict=True)))
    free_model = copy.deepcopy(model)
    with torch.no_grad():
        for p, a in zip(free_model.parameters(), before, strict=True):
            p.copy_(a)
    gradients(free_model, criterion, x, y)
    KFAC(free_model.parameters(), lr=1.0, trust=float("inf"), model=free_model, criterion=criterion).step(batch=(x, y))
    free = float(sum(((a - p.detach()) * g).sum() for a, p, g in zip(before, free_model.parameters(), slopes, strict=True)))
    assert free > 1e-4 and change**2 / free == pytest.approx(1e-4, rel=1e-6)


def test_state_dict_continues_bit_equal(task):
    model, criterion, x, y = task

    def run(model, steps, state=None):
        optimizer = KFAC(model.parameters(), lr=0.1, model=model, criterion=criterion)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            gradients(model, criterion, x, y)
            optimizer.step(batch=(x, y))
        return optimizer.state_dict()

    twin = copy.deepcopy(model)
    run(model, 6)
    run(twin, 3, run(twin, 3))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_refusals(task):
    model, criterion, _x, _y = task
    norm = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"shape \(3,\) is of no nn.Linear"):
        KFAC(norm.parameters(), model=norm, criterion=criterion)
    with pytest.raises(ValueError, match="damping is 0"):
        KFAC(model.parameters(), damping=0.0, model=model, criterion=criterion)
    with pytest.raises(ValueError, match="lr is -1"):
        KFAC(model.parameters(), lr=-1.0, model=model, criterion=criterion)
    with pytest.raises(RuntimeError, match="batch"):
        KFAC(model.parameters(), model=model, criterion=criterion).step()
