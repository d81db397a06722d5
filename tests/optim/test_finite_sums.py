"""SVRG, SAGA and the line search in a user's loop: loaders, dropout, what is left in the gradients, what is refused."""

import copy

import pytest
import torch
from problems import Sum
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.optim import SAGA, SVRG, Armijo, Indexed, StochasticPolyak


@pytest.fixture
def task():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    return model, TensorDataset(torch.randn(10, 3, dtype=torch.float64), torch.randint(2, (10,)))


def gradient(model, loss):
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


def of_parameters(model, what="grad"):
    return torch.cat([(p.grad if what == "grad" else p.detach()).reshape(-1) for p in model.parameters()])


def test_snapshot_is_the_mean_over_all_samples(task):
    model, data = task
    x, y = data.tensors
    criterion = nn.CrossEntropyLoss()
    optimizer = SVRG(model.parameters())
    # Batches of 4, 4 and 2: weighted by their size.
    value = optimizer.snapshot((criterion(model(a), b), len(a)) for a, b in DataLoader(data, batch_size=4))
    whole = criterion(model(x), y)
    stored = torch.cat([optimizer.state[p]["full_gradient"].reshape(-1) for p in model.parameters()])
    assert torch.allclose(stored, gradient(model, whole), rtol=1e-12) and value == pytest.approx(float(whole.detach()))
    assert all(p.grad is None for p in model.parameters())


def test_svrg_leaves_its_direction_in_the_gradients(task):
    model, data = task
    x, y = data.tensors
    criterion, old = nn.CrossEntropyLoss(), copy.deepcopy(model)
    optimizer = SVRG(model.parameters(), lr=0.3)

    def closure():
        optimizer.zero_grad()
        loss = criterion(model(x[:4]), y[:4])
        loss.backward()
        return loss

    optimizer.snapshot([criterion(model(x), y)])
    optimizer.step(closure)
    assert torch.allclose(of_parameters(model), gradient(old, criterion(old(x), y)), rtol=1e-10, atol=1e-14)
    before, full = of_parameters(model, "value"), gradient(old, criterion(old(x), y))
    expected = gradient(model, criterion(model(x[:4]), y[:4])) - gradient(old, criterion(old(x[:4]), y[:4])) + full
    optimizer.step(closure)
    assert torch.allclose(of_parameters(model), expected, rtol=1e-10, atol=1e-14)
    assert torch.allclose(of_parameters(model, "value"), before - 0.3 * expected, rtol=1e-12)


def test_saga_by_samples_is_saga_by_hand(task):
    model, data = task
    n, twin = len(data), copy.deepcopy(model)
    optimizer, table = SAGA(model.parameters(), size=n, lr=0.2), None
    for index, x, y in DataLoader(Indexed(data), batch_size=4):
        optimizer.step(lambda x=x, y=y: nn.functional.cross_entropy(model(x), y, reduction="none"), index)
        single = [gradient(twin, nn.functional.cross_entropy(twin(a[None]), b[None])) for a, b in zip(x, y, strict=True)]
        table = torch.zeros(n, single[0].numel(), dtype=torch.float64) if table is None else table
        direction = (torch.stack(single) - table[index]).mean(0) + table.mean(0)
        table[index] = torch.stack(single)
        assert torch.allclose(of_parameters(model), direction, rtol=1e-10, atol=1e-13)
        nn.utils.vector_to_parameters(of_parameters(twin, "value") - 0.2 * direction, twin.parameters())
        assert torch.allclose(of_parameters(model, "value"), of_parameters(twin, "value"), rtol=1e-12)


def test_saga_by_batches_takes_an_ordinary_closure():
    by_number, by_vector = Sum(), Sum()
    optimizers = SAGA(by_number.parameters, size=6, lr=0.05), SAGA(by_vector.parameters, size=6, lr=0.05)
    for t in range(40):
        rows = torch.tensor([2 * (t % 6), 2 * (t % 6) + 1])
        optimizers[0].step(by_number.closure(rows), t % 6)
        optimizers[1].step(lambda rows=rows: by_vector.losses(rows).mean()[None], torch.tensor([t % 6]))
    assert torch.allclose(by_number.flat, by_vector.flat, rtol=1e-12)


def test_saga_refuses():
    problem = Sum()
    optimizer = SAGA(problem.parameters, size=12)
    rows = torch.tensor([1, 2])
    for index in (torch.tensor([1, 12]), torch.tensor([-1, 2])):
        with pytest.raises(ValueError, match="does not name components of 0 to 11"):
            optimizer.step(lambda: problem.losses(rows), index)
    with pytest.raises(ValueError, match="twice"):
        optimizer.step(lambda: problem.losses(rows), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="one loss per index"):
        optimizer.step(lambda: problem.losses(rows).mean(), rows)
    with pytest.raises(RuntimeError, match=r"step\(closure, index\)"):
        optimizer.step(problem.closure(rows))
    with pytest.raises(ValueError, match="takes 480 bytes, the limit is 479"):
        SAGA(problem.parameters, size=12, memory_limit=479)
    with pytest.raises(ValueError, match="size is 0"):
        SAGA(problem.parameters, size=0)
    assert bool((problem.flat == 0).all())


def test_svrg_refuses():
    problem = Sum()
    optimizer = SVRG(problem.parameters)
    with pytest.raises(RuntimeError, match="needs a snapshot"):
        optimizer.step(problem.closure(torch.tensor([0])))
    with pytest.raises(RuntimeError, match=r"step\(closure\)"):
        optimizer.step()
    with pytest.raises(ValueError, match="at least one loss"):
        optimizer.snapshot([])


def test_svrg_gives_the_parameters_back_when_the_closure_fails():
    problem = Sum()
    optimizer = SVRG(problem.parameters, lr=0.1)
    optimizer.snapshot([problem.losses(torch.arange(12)).mean()])
    optimizer.step(problem.closure(torch.tensor([0])))
    before = problem.flat

    def failing():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert torch.equal(problem.flat, before)


@pytest.mark.parametrize("build", [lambda p: SVRG(p, lr=0.0), lambda p: Armijo(p, lr=0.5)], ids=["SVRG", "Armijo"])
def test_dropout_draws_the_same_masks_in_one_step(build):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(20, 1)).double()
    optimizer, seen = build(model.parameters()), []
    x = torch.ones(1, 20, dtype=torch.float64)
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1.0).square().mean()
        loss.backward()
        return loss

    if isinstance(optimizer, SVRG):
        optimizer.snapshot([(model(x) - 1.0).square().mean()])
        seen.clear()
    optimizer.step(closure)
    assert len(seen) >= 2 and all(torch.equal(mask, seen[0]) for mask in seen)
    first = seen[0]
    seen.clear()
    optimizer.step(closure)
    assert not torch.equal(seen[0], first)


def test_armijo_satisfies_its_inequality_and_keeps_the_gradient():
    problem = Sum()
    rows = torch.tensor([0, 1, 2])
    optimizer = Armijo(problem.parameters, lr=10.0, c=0.3)
    for _ in range(5):
        before, value = problem.flat, float(problem.losses(rows).mean().detach())
        optimizer.step(problem.closure(rows))
        step = optimizer.param_groups[0]["step_size"]
        kept = torch.cat([p.grad.reshape(-1) for p in problem.parameters])
        assert 0 < step <= 10.0 and torch.allclose(problem.flat, before - step * kept, rtol=1e-12)
        assert float(problem.losses(rows).mean().detach()) <= value - 0.3 * step * float(kept @ kept) + 1e-15


def test_armijo_without_backward_in_its_trials():
    with_gradients, without = Sum(), Sum()
    rows, calls = torch.arange(12), []
    one, two = Armijo(with_gradients.parameters, lr=5.0), Armijo(without.parameters, lr=5.0)
    for _ in range(10):
        one.step(with_gradients.closure(rows))
        two.step(without.closure(rows), evaluate_loss=lambda: calls.append(torch.is_grad_enabled()) or without.losses(rows).mean())
    assert torch.equal(with_gradients.flat, without.flat) and calls and not any(calls)


def test_armijo_stays_where_no_step_passes():
    """An ascent direction by a lying closure: the parameters stay, the next search begins at the rate."""
    problem = Sum()
    optimizer = Armijo(problem.parameters, lr=1.0, trials=5)

    def lying():
        loss = problem.closure(torch.arange(12))()
        for p in problem.parameters:
            p.grad.neg_()
        return loss

    optimizer.step(lying)
    assert bool((problem.flat == 0).all()) and optimizer.param_groups[0]["step_size"] == 0.0
    optimizer.step(problem.closure(torch.arange(12)))
    assert optimizer.param_groups[0]["step_size"] > 0.0


@pytest.mark.parametrize("wrong", [{"c": 1.0}, {"shrink": 0.0}, {"growth": 0.9}, {"trials": 0}])
def test_armijo_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Armijo(Sum().parameters, **wrong)


def test_groups_move_in_proportion_to_their_rates():
    problem = Sum()
    optimizer = Armijo([{"params": [problem.w], "lr": 1.0}, {"params": [problem.b], "lr": 0.25}])
    optimizer.step(problem.closure(torch.arange(12)))
    steps = [group["step_size"] for group in optimizer.param_groups]
    assert steps[1] == 0.25 * steps[0] > 0
    assert torch.allclose(problem.b.detach(), -steps[1] * problem.b.grad)


def test_polyak_refuses():
    problem = Sum()
    optimizer = StochasticPolyak(problem.parameters, bound=100.0)
    with pytest.raises(ValueError, match="beyond its bound 100"):
        optimizer.step(problem.closure(torch.arange(12)))
    with pytest.raises(RuntimeError, match="needs the loss"):
        optimizer.step()
    with pytest.raises(ValueError, match="one step of it"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "c": 0.3})
    for wrong in ({"c": 0.0}, {"growth": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            StochasticPolyak(problem.parameters, **wrong)


def test_polyak_takes_the_loss_itself_and_passes_on_what_is_no_number():
    by_loss, by_closure = Sum(fits=True), Sum(fits=True)
    rows = torch.arange(12)
    one, two = StochasticPolyak(by_loss.parameters), StochasticPolyak(by_closure.parameters)
    one.step(loss=by_loss.closure(rows)())
    two.step(by_closure.closure(rows))
    assert torch.equal(by_loss.flat, by_closure.flat)
    one.step(loss=float("nan"))
    assert bool(by_loss.flat.isnan().all())
