"""Gradient noise, curriculum, early stopping: what accompanies any optimizer."""

import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.optim import CurriculumSampler, EarlyStopping, Exponential, GradientNoise, Root


def zeros(n=1000):
    p = nn.Parameter(torch.zeros(n, dtype=torch.float64))
    return p, torch.optim.SGD([p], lr=1.0)


def test_noise_has_the_annealed_variance():
    p, optimizer = zeros(100_000)
    noise = GradientNoise(optimizer, eta=0.3, gamma=0.55)
    for t in range(4):
        before = p.detach().clone()
        p.grad = torch.zeros_like(p)
        assert noise.std == math.sqrt(0.3 / (1 + t) ** 0.55)
        optimizer.step()
        added = before - p.detach()
        assert float(added.std()) == pytest.approx(math.sqrt(0.3 / (1 + t) ** 0.55), rel=0.02) and abs(float(added.mean())) < 0.01
    noise.remove()
    before = p.detach().clone()
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(before, p.detach())


@pytest.mark.parametrize("how", ["position", "keyword"])
def test_noise_reaches_closures(how):
    runs = []
    for closed in (False, True):
        p, optimizer = zeros()
        GradientNoise(optimizer, eta=1.0, seed=3)
        for _ in range(3):

            def closure(p=p):
                p.grad = torch.ones_like(p)
                return 0.5

            if not closed:
                closure()
                optimizer.step()
            else:
                assert (optimizer.step(closure) if how == "position" else optimizer.step(closure=closure)) == 0.5
        runs.append(p.detach())
    assert torch.equal(*runs) and runs[0].std() > 0.5


def test_noise_continues_bit_equal_and_leaves_other_random_numbers_alone():
    def run(steps, p, optimizer, state=None):
        noise = GradientNoise(optimizer, eta=0.5)
        if state is not None:
            noise.load_state_dict(pickle.loads(pickle.dumps(state)))
        for _ in range(steps):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        noise.remove()
        return noise.state_dict()

    straight, other = zeros(), zeros()
    torch.manual_seed(5)
    run(6, *straight)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    run(2, *other, run(4, *other))
    assert torch.equal(straight[0].detach(), other[0].detach())


def test_noise_under_schedulers_sparse_and_complex():
    p, optimizer = zeros()
    GradientNoise(optimizer)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert p.detach().std() > 0.05
    table = nn.Embedding(4, 2, sparse=True)
    rows = torch.optim.SGD(table.parameters(), lr=1.0)
    GradientNoise(rows)
    table(torch.tensor([1])).sum().backward()
    rows.step()
    z = nn.Parameter(torch.zeros(50_000, dtype=torch.complex128))
    plane = torch.optim.SGD([z], lr=1.0)
    GradientNoise(plane, eta=1.0)
    z.grad = torch.zeros_like(z)
    plane.step()
    assert float(z.detach().abs().square().mean()) == pytest.approx(1.0, rel=0.05)
    with pytest.raises(ValueError, match="eta is -1"):
        GradientNoise(optimizer, eta=-1.0)


def test_pacing():
    linear = Root(0.2, 10.0)
    assert [linear.share(t) for t in (0, 5, 10, 1e9)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert Root(0.1, 10.0, 2.0).share(5) == pytest.approx(math.sqrt(0.5 * (1 - 0.01) + 0.01))
    steps = Exponential(0.1, 2.0, 2.0)
    assert [steps.share(t) for t in (0, 1.9, 2, 4, 6, 8, 1e300)] == pytest.approx([0.1, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    for pacing in (linear, Root(0.01, 7.0, 3.0), steps):
        shares = [pacing.share(t / 7) for t in range(100)]
        assert all(0 < a <= b <= 1 for a, b in itertools.pairwise(shares))
    for wrong in (lambda: Root(0.0), lambda: Root(1.1), lambda: Root(length=0), lambda: Root(power=0), lambda: Exponential(increase=1.0)):
        with pytest.raises(ValueError, match="is needed"):
            wrong()


def test_curriculum_shows_the_easiest_first_and_each_once():
    sampler = CurriculumSampler([5.0, 1.0, 4.0, 2.0, 3.0, 0.0], Root(0.5, 3.0))
    for expected in ([1, 3, 5], [1, 3, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]):
        assert len(sampler) == len(expected) and sorted(sampler) == expected
    sampler.epoch = 0
    assert sorted(sampler) == [1, 3, 5] and sampler.epoch == 1
    assert len(CurriculumSampler([1.0, 2.0], Root(0.01, 3.0))) == 1


def test_curriculum_in_a_loader():
    data = TensorDataset(torch.arange(100))
    sampler = CurriculumSampler(torch.arange(100.0), Root(0.2, 4.0))
    loader = DataLoader(data, batch_size=10, sampler=sampler)
    epochs = []
    for epoch in range(6):
        expected = round(100 * (0.2 + 0.8 * min(epoch, 4) / 4))
        assert len(loader) == math.ceil(expected / 10)
        shown = torch.cat([batch for (batch,) in loader])
        assert sorted(shown.tolist()) == list(range(expected))
        epochs.append(shown.tolist())
    assert epochs[4] != epochs[5] != sorted(epochs[5])


def test_self_paced_follows_the_losses():
    sampler = CurriculumSampler(torch.zeros(40), Exponential(0.25, 1.0, 2.0), seed=1)
    first, twin = sorted(sampler), CurriculumSampler(torch.zeros(40), Exponential(0.25, 1.0, 2.0), seed=2)
    assert len(first) == 10 and first != list(range(10)) and sorted(twin) != first
    sampler.update(torch.arange(40), -torch.arange(40.0, requires_grad=True))
    assert sorted(sampler) == list(range(20, 40))
    with pytest.raises(ValueError, match="not a number"):
        sampler.update([0], [math.nan])


def test_curriculum_continues_equal():
    straight, first = (CurriculumSampler(torch.arange(30.0), Root(0.3, 5.0), seed=4) for _ in range(2))
    epochs = [list(straight) for _ in range(6)]
    assert [list(first) for _ in range(3)] == epochs[:3]
    resumed = CurriculumSampler(torch.zeros(30), Root(0.3, 5.0))
    resumed.load_state_dict(first.state_dict())
    assert [list(resumed) for _ in range(3)] == epochs[3:]
    with pytest.raises(ValueError, match="one number per sample"):
        CurriculumSampler(torch.zeros(2, 2))


def test_early_stopping_by_patience():
    model = nn.Linear(1, 1)
    stopping = EarlyStopping(patience=3, least_change=0.1)
    stops = []
    for t, value in enumerate([3.0, 2.0, 1.95, 1.92, 1.95, 1.0]):
        with torch.no_grad():
            model.weight.fill_(t)
        stops.append(stopping.update(value, model))
        if stops[-1]:
            break
    # 1.92 is no improvement by more than 0.1 over 2.0.
    assert stops == [False, False, False, False, True] and stopping.best == 2.0
    stopping.restore(model)
    assert float(model.weight.detach()) == 1.0
    resumed = EarlyStopping(patience=3, least_change=0.1)
    resumed.load_state_dict(stopping.state_dict())
    assert resumed.update(0.5) is False and resumed.update(math.nan) is True


def test_early_stopping_by_generalization_loss_and_upwards():
    stopping = EarlyStopping(patience=100, generalization_loss=5.0)
    assert [stopping.update(v) for v in (1.0, 1.04, 1.06)] == [False, False, True]
    upwards = EarlyStopping(patience=2, maximize=True)
    assert [upwards.update(v) for v in (0.5, 0.6, 0.6, 0.55)] == [False, False, False, True] and upwards.best == 0.6
    with pytest.raises(RuntimeError, match="no state"):
        upwards.restore(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="patience is 0"):
        EarlyStopping(patience=0)
    with pytest.raises(ValueError, match="leave out maximize"):
        EarlyStopping(maximize=True, generalization_loss=1.0)
