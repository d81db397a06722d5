"""What holds for every descent method of this package."""

import copy
import io
import math

import pytest
import torch
from problems import METHODS, Sum
from torch import nn

pytestmark = pytest.mark.parametrize("case", METHODS, ids=lambda c: c.name)


def run(case, steps=60, problem=None, sign=1.0, optimizer=None, first=0, **options):
    problem = Sum(fits=case.fits) if problem is None else problem
    optimizer = case.build(problem, **options) if optimizer is None else optimizer
    for t in range(first, first + steps):
        case.step(optimizer, problem, t, sign)
    return problem, optimizer


def test_descends(case):
    problem, _ = run(case, steps=300)
    everything = torch.arange(problem.n)
    assert problem.losses(everything).mean() < 0.1 * Sum(fits=case.fits).losses(everything).mean()


@pytest.mark.parametrize("at", [1, 7, 20])
def test_state_dict_continues_bit_equal(case, at):
    straight, _ = run(case, steps=at + 30)
    problem, optimizer = run(case, steps=at)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = case.build(problem)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    run(case, steps=30, problem=problem, optimizer=resumed, first=at)
    assert torch.equal(problem.flat, straight.flat)


def test_copies_and_pickles(case):
    _, optimizer = run(case, steps=3)
    twin = copy.deepcopy(optimizer)
    twin.add_param_group({"params": [nn.Parameter(torch.zeros(2, dtype=torch.float64))]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes(case, dtype):
    problem, _optimizer = run(case, steps=20, problem=Sum(dtype=dtype, fits=True))
    assert problem.w.dtype == dtype and bool(problem.flat.isfinite().all())
    assert problem.losses(torch.arange(12)).mean() < Sum(dtype=dtype, fits=True).losses(torch.arange(12)).mean()


def test_foreach_changes_nothing(case):
    lists, _ = run(case, foreach=True)
    single, _ = run(case, foreach=False)
    assert torch.equal(lists.flat, single.flat)


def test_maximize_is_descent_on_the_negative(case):
    down, _ = run(case)
    up, _ = run(case, sign=-1.0, maximize=True)
    assert torch.allclose(down.flat, up.flat, rtol=1e-12, atol=1e-12)


def test_weight_decay_is_the_gradient_of_its_penalty(case):
    """The penalty as a part of every loss gives the same run; SAGA, which keeps it out of its table, the same minimum."""
    decay, steps = 0.05, 1200 if case.name == "SAGA" else 60
    problem, _ = run(case, steps, weight_decay=decay)

    class Penalised(Sum):
        def losses(self, rows):
            return super().losses(rows) + 0.5 * decay * (self.w.square().sum() + self.b.square())

    written, _ = run(case, steps, problem=Penalised(fits=case.fits))
    assert torch.allclose(problem.flat, written.flat, rtol=1e-9, atol=1e-10)


def test_groups_added_later_and_frozen_ones(case):
    problem = Sum(fits=case.fits)
    whole, _ = run(case, steps=40)
    optimizer = case.build(problem)
    optimizer.param_groups[0]["params"] = [problem.w]
    optimizer.add_param_group({"params": [problem.b]})
    run(case, steps=40, problem=problem, optimizer=optimizer)
    assert torch.allclose(problem.flat, whole.flat, rtol=1e-9, atol=1e-10)
    still = Sum(fits=True)
    still.b.requires_grad_(False)
    run(case, steps=10, problem=still)
    assert still.b == 0 and still.w.abs().max() > 0


def test_tensor_rate_and_schedulers(case):
    numbers, _ = run(case, steps=40)
    tensors, _ = run(case, steps=40, lr=torch.tensor(case.options["lr"], dtype=torch.float64))
    assert torch.allclose(numbers.flat, tensors.flat, rtol=1e-10, atol=1e-12)
    problem = Sum(fits=case.fits)
    optimizer = case.build(problem)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.0)
    case.step(optimizer, problem, 0)
    scheduler.step()
    before = problem.flat
    case.step(optimizer, problem, 1)
    if case.name != "BarzilaiBorwein":
        assert torch.equal(problem.flat, before)


def test_complex_parameters_are_pairs_of_real_ones(case):
    g = torch.Generator().manual_seed(1)
    a = torch.randn(12, 4, generator=g, dtype=torch.float64)
    y = a @ torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)

    class Pairs(Sum):
        def __init__(self, is_complex):
            self.n, self.is_complex = 12, is_complex
            self.w = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
            if is_complex:
                self.w = torch.zeros(2, dtype=torch.complex128, requires_grad=True)

        parameters = property(lambda self: [self.w])

        def losses(self, rows):
            w = torch.view_as_real(self.w) if self.is_complex else self.w
            return 0.5 * (a[rows] @ w.reshape(-1) - y[rows]) ** 2

    pairs, _ = run(case, problem=Pairs(False))
    numbers, optimizer = run(case, problem=Pairs(True))
    assert torch.allclose(torch.view_as_real(numbers.w.detach()), pairs.w.detach(), rtol=1e-12, atol=1e-12)
    again = case.build(numbers)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(case, problem=numbers, optimizer=again, steps=1)


@pytest.mark.parametrize("rate", [-1e-3, math.nan, torch.tensor(-1.0), torch.ones(2)])
def test_impossible_rates_are_refused(case, rate):
    with pytest.raises(ValueError, match="lr"):
        case.build(Sum(), lr=rate)
    optimizer = case.build(Sum())
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": rate})
    assert len(optimizer.param_groups) == 1


def test_what_is_not_offered_is_refused(case):
    with pytest.raises(ValueError, match="differentiable"):
        case.build(Sum(), differentiable=True)
    with pytest.raises(ValueError, match="weight_decay"):
        case.build(Sum(), weight_decay=-1.0)


def test_sparse_gradients_are_refused_by_name(case):
    table = nn.Embedding(5, 3, sparse=True, dtype=torch.float64)

    class Rows(Sum):
        parameters = property(lambda self: [table.weight])

        def losses(self, rows):
            return table(rows % 5).square().sum(1)

    problem = Rows()
    before = table.weight.detach().clone()
    if case.kind == "components":
        optimizer = case.build(problem)
        closure = problem.closure(torch.tensor([0]))
        with pytest.raises(RuntimeError, match=f"{case.name} does not take sparse"):
            optimizer.step(closure, 0)
    else:
        with pytest.raises(RuntimeError, match=f"{case.name} does not take sparse"):
            run(case, steps=1, problem=problem)
    assert torch.equal(table.weight.detach(), before)


def test_hooks_and_loss(case):
    problem = Sum(fits=case.fits)
    optimizer = case.build(problem)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    value = case.step(optimizer, problem, 0)
    assert value is not None and len(seen) == 1
