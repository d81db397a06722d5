"""Each intervention on a tiny network, against the same change made by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.fixes.data import CleanData, Moments, Shuffle, StandardiseInputs, StandardiseTargets
from steepest.fixes.intervention import Intervention, Several
from steepest.fixes.layers import (
    ActivationsBetween,
    CalmPreactivations,
    DropoutTo,
    GroupNorm,
    Leak,
    LinearOutput,
    NormaliseLayers,
    Rectify,
    SkipConnections,
)
from steepest.fixes.losses import MatchShapes, OtherLoss, ProbabilitiesToLoss, RawLogits, WithoutPenalty
from steepest.fixes.modules import BatchFirst, Reinitialise, RightMode, TrainAll
from steepest.fixes.plan import candidates
from steepest.fixes.replay import MoreSteps
from steepest.fixes.seams import Seams
from steepest.fixes.steps import (
    AverageMicroBatches,
    ClearGradients,
    ClipGradients,
    Decay,
    LargerBatches,
    ScaleRate,
    StopAt,
    UseAdam,
    WithoutDecay,
)
from steepest.results.cause import Cause

ALL = (
    ScaleRate(0.5), WithoutDecay(), Decay(0.1), ClipGradients(0.1), ClearGradients(), AverageMicroBatches(), LargerBatches(2),
    UseAdam(0.01), StopAt(2),
    StandardiseInputs(), StandardiseTargets(), CleanData(), Shuffle(), Reinitialise("he"), RightMode(), TrainAll(), BatchFirst(),
    Rectify(), Leak(), ActivationsBetween(), LinearOutput(), CalmPreactivations(), NormaliseLayers(), SkipConnections(), GroupNorm(),
    DropoutTo(0.1), RawLogits(), ProbabilitiesToLoss(), MatchShapes(), OtherLoss("mse_loss"), WithoutPenalty(), MoreSteps(3),
)  # fmt: skip


def seamed(*interventions: Intervention) -> Seams:
    seams = Seams()
    for intervention in interventions:
        intervention.attach(seams)
    return seams


def task(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 4, generator=generator)
    return x, (x[:, :1] * 2 - x[:, 1:2])


def network(*middle: nn.Module, out: int = 1) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), *(middle or (nn.Tanh(),)), nn.Linear(8, out))


def train(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    lr: float = 0.05,
    steps: int = 4,
    loss: Callable[..., Tensor] = F.mse_loss,
    clear: bool = True,
    decay: float = 0.0,
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
) -> list[Tensor]:
    """Weights after training on two batches in turn."""
    optimizer = kind(net.parameters(), lr=lr, **({"weight_decay": decay} if decay else {}))
    for step in range(steps):
        part = slice(0, 6) if step % 2 == 0 else slice(6, 12)
        if clear:
            optimizer.zero_grad()
        loss(net(x[part]), y[part]).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def same(a: list[Tensor], b: list[Tensor], exact: bool = True) -> bool:
    return all(torch.equal(p, q) if exact else torch.allclose(p, q, rtol=1e-4, atol=1e-6) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("intervention", ALL, ids=lambda i: type(i).__name__)
def test_every_intervention_survives_json_and_leaves_torch_as_it_was(intervention: Intervention) -> None:
    before = (torch.autograd.backward, torch.optim.Optimizer.__init__, DataLoader.__init__, torch.no_grad.__enter__)
    assert Intervention.from_json(intervention.to_json()) == intervention
    assert intervention.words
    both = Several((intervention, ScaleRate(0.5)))
    assert Intervention.from_json(both.to_json()) == both
    x, y = task()
    with seamed(intervention):
        train(network(), x, y)
    assert (torch.autograd.backward, torch.optim.Optimizer.__init__, DataLoader.__init__, torch.no_grad.__enter__) == before
    assert same(train(network(), x, y), train(network(), x, y))


def test_seams_without_intervention_change_no_bit() -> None:
    x, y = task()
    plain = train(network(), x, y)
    seams = Seams()
    seams.follow = True
    with seams:
        seen = train(network(), x, y)
    assert same(plain, seen)
    assert not seams.touched


def test_scaled_rate_is_that_rate() -> None:
    x, y = task()
    with seamed(ScaleRate(0.1)) as seams:
        changed = train(network(), x, y, lr=0.5)
    assert seams.touched
    assert same(changed, train(network(), x, y, lr=0.05))


def test_a_schedule_goes_on_from_the_unscaled_rate() -> None:
    net = network()
    x, y = task()
    with seamed(ScaleRate(0.1)):
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        F.mse_loss(net(x), y).backward()
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [0.5]


def test_without_decay() -> None:
    x, y = task()
    with seamed(WithoutDecay()):
        changed = train(network(), x, y, decay=0.3)
    assert same(changed, train(network(), x, y))


def test_cleared_gradients() -> None:
    x, y = task()
    with seamed(ClearGradients()) as seams:
        changed = train(network(), x, y, clear=False)
    assert seams.touched
    assert same(changed, train(network(), x, y))
    assert not same(changed, train(network(), x, y, clear=False))


def test_clipping_bounds_the_step_and_leaves_out_what_is_not_finite() -> None:
    x, y = task()
    net = network()
    start = [p.detach().clone() for p in net.parameters()]
    with seamed(ClipGradients(0.1)):
        end = train(net, x * 100, y * 100, steps=1, lr=1.0)
    assert sum(float((a - b).square().sum()) for a, b in zip(start, end, strict=True)) <= 0.1**2 * 1.001
    net = network()
    with seamed(ClipGradients(0.1)):
        assert same(train(net, x * float("nan"), y), [p for p in network().parameters()])


def accumulate(net: nn.Module, x: Tensor, y: Tensor, scale: float) -> list[Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        for i in range(0, 12, 3):
            (F.mse_loss(net(x[i : i + 3]), y[i : i + 3]) * scale).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def test_micro_batches_are_averaged() -> None:
    x, y = task()
    with seamed(AverageMicroBatches()):
        changed = accumulate(network(), x, y, 1.0)
    assert same(changed, accumulate(network(), x, y, 0.25), exact=False)


def test_larger_batches_are_one_step_on_the_mean_gradient() -> None:
    x, y = task()
    with seamed(LargerBatches(2)):
        changed = train(network(), x, y, steps=2)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    F.mse_loss(net(x), y).backward()
    optimizer.step()
    assert same(changed, list(net.parameters()), exact=False)


def test_adam_takes_the_steps() -> None:
    x, y = task()
    with seamed(UseAdam(0.01)):
        changed = train(network(), x, y, lr=3.0)
    assert same(changed, train(network(), x, y, lr=0.01, kind=torch.optim.Adam))


def test_no_steps_after_the_last() -> None:
    x, y = task()
    with seamed(StopAt(2)):
        changed = train(network(), x, y, steps=4)
    assert same(changed, train(network(), x, y, steps=2))


def test_moments_are_those_of_all_samples() -> None:
    x = torch.randn(90, 3) * 5 + 2
    moments = Moments()
    for part in x.split(7):
        moments.add(part, (0,))
    assert moments.mean is not None
    assert torch.allclose(moments.mean[0], x.double().mean(0))
    assert torch.allclose(moments.scale()[0], x.double().std(0, correction=0))


def test_inputs_are_standardised_by_feature() -> None:
    x, _ = task()
    seen = []
    net = network()
    net[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with seamed(StandardiseInputs()):
        net(x * torch.tensor([1.0, 1e3, 1e-3, 5.0]) + 7)
    assert torch.allclose(seen[0].mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(seen[0].std(0, correction=0), torch.ones(4), rtol=1e-3)


def test_targets_are_standardised_and_predictions_keep_their_units() -> None:
    x, y = task()
    y = 500 * y + 1000
    net = network()
    with seamed(StandardiseTargets()):
        train(net, x, y, steps=600)
        with torch.no_grad():
            assert float(F.mse_loss(net(x), y)) < 0.1 * float(y.var())


def test_nan_in_inputs_becomes_zero() -> None:
    x, _ = task()
    bad = x.clone()
    bad[:, 0] = float("nan")
    clean = x.clone()
    clean[:, 0] = 0
    net = network()
    with seamed(CleanData()):
        assert torch.equal(net(bad), net(clean))


def test_loaders_are_shuffled() -> None:
    with seamed(Shuffle()) as seams:
        loader = DataLoader(TensorDataset(torch.arange(50)), batch_size=50)
        (batch,) = next(iter(loader))
    assert seams.touched
    assert sorted(batch.tolist()) == list(range(50)) != batch.tolist()


def test_slices_of_inputs_and_targets_stay_together() -> None:
    x = torch.arange(12.0).reshape(12, 1).repeat(1, 4)
    y = torch.arange(12.0).reshape(12, 1)
    with seamed(Shuffle()):
        train(network(), x, y, steps=1)
        a, b = x[3:9], y[3:9]
    assert torch.equal(a[:, :1], b)
    assert not torch.equal(b, y[3:9])


def test_new_weights_of_the_right_scale_and_the_same_random_numbers_for_the_script() -> None:
    net = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 2))
    nn.init.constant_(net[0].weight, 0.01)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with seamed(Reinitialise("he")):
        net(torch.zeros(1, 400))
    assert torch.equal(torch.rand(3), expected)
    assert abs(float(net[0].weight.detach().std()) - (2 / 400) ** 0.5) < 0.002
    assert not net[0].bias.any()


def test_mode_follows_gradients_and_is_restored() -> None:
    net = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5)).eval()
    x = torch.ones(2, 4)
    with seamed(RightMode()):
        trained = net(x)
        assert not net.training
        with torch.no_grad():
            net.train()
            evaluated = net(x)
            assert net.training
    assert (trained == 0).any() and not (evaluated == 0).any()


class Hidden(nn.Module):
    """Layers in a plain list, one of them behind ``detach``, one behind ``no_grad``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 8), nn.Linear(8, 8)]
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layers[0](x)).detach()
        with torch.no_grad():
            h = torch.tanh(self.layers[1](h))
        return self.head(h)


def test_all_parameters_learn() -> None:
    torch.manual_seed(0)
    net = Hidden()
    start = [layer.weight.detach().clone() for layer in net.layers]
    x, y = task()
    with seamed(TrainAll()):
        train(net, x, y)
    assert all(not torch.equal(a, layer.weight) for a, layer in zip(start, net.layers, strict=True))


def test_frozen_parameters_learn() -> None:
    net = network()
    net[0].requires_grad_(False)
    start = net[0].weight.clone()
    x, y = task()
    with seamed(TrainAll()):
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
    assert not torch.equal(start, net[0].weight)


def test_batch_first_in_attention_and_softmax() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    x = torch.randn(3, 5, 8)
    with seamed(BatchFirst()):
        together = layer(x)
        alone = layer(x[:1])
        assert torch.allclose(together[:1], alone, atol=1e-5)
        assert torch.allclose(torch.softmax(x[:, 0], dim=0), torch.softmax(x[:, 0], dim=-1))


def test_rectified_between_layers_but_not_at_the_output() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2), nn.Sigmoid())
    x, _ = task()
    with seamed(Rectify()):
        changed = net(x)
    assert torch.equal(changed, torch.sigmoid(net[2](torch.relu(net[0](x)))))


def test_leaky() -> None:
    net = network(nn.ReLU(inplace=True))
    x, _ = task()
    with seamed(Leak()):
        changed = net(x)
    assert torch.equal(changed, net[2](F.leaky_relu(net[0](x), 0.01)))


def test_activation_between_bare_layers() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Flatten(), nn.Linear(8, 2))
    x, _ = task()
    with seamed(ActivationsBetween()):
        changed = net(x)
    assert torch.equal(changed, net[2](torch.relu(net[0](x))))


def test_linear_output() -> None:
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid(), nn.Flatten(0))
    x, _ = task()
    with seamed(LinearOutput()):
        assert torch.equal(net(x), net[0](x).reshape(-1))


def test_preactivations_are_calmed() -> None:
    net = network()
    x, _ = task()
    with seamed(CalmPreactivations()):
        changed = net(100 * x)
    h = net[0](100 * x)
    assert torch.allclose(changed, net[2](torch.tanh(h / h.square().mean().sqrt())), atol=1e-5)


def test_skip_connections_and_normalisation() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    x, _ = task()
    h = net[0](x)
    with seamed(SkipConnections()):
        changed = net(x)
    k = net[2](torch.relu(F.layer_norm(h, (8,)))) + h
    assert torch.allclose(changed, net[4](torch.relu(F.layer_norm(k, (8,)))), atol=1e-5)
    with seamed(NormaliseLayers()):
        changed = net(x)
    k = net[2](torch.relu(F.layer_norm(h, (8,))))
    assert torch.allclose(changed, net[4](torch.relu(F.layer_norm(k, (8,)))), atol=1e-5)


def test_group_norm_in_place_of_batch_norm() -> None:
    net = nn.BatchNorm2d(4)
    x = torch.randn(2, 4, 3, 3)
    with seamed(GroupNorm()):
        assert torch.allclose(net(x), F.group_norm(x, 1), atol=1e-5)
        assert torch.allclose(net.eval()(x), F.group_norm(x, 1), atol=1e-5)


def test_dropout() -> None:
    with seamed(DropoutTo(0.0)):
        assert torch.equal(nn.Dropout(0.9)(torch.ones(50)), torch.ones(50))


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid(), nn.ReLU()])
def test_the_loss_gets_raw_logits(last: nn.Module) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), last)
    x, _ = task()
    y = torch.arange(12) % 3
    with seamed(RawLogits()):
        loss = nn.CrossEntropyLoss()(net(x), y)
    assert torch.equal(loss, F.cross_entropy(net[0](x), y))


def test_logits_of_one_unit_through_a_view() -> None:
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    x, _ = task()
    y = (x[:, 0] > 0).float()
    with seamed(RawLogits()):
        loss = F.binary_cross_entropy_with_logits(net(x).squeeze(1), y)
    assert torch.equal(loss, F.binary_cross_entropy_with_logits(net[0](x).squeeze(1), y))


def test_probabilities_where_the_loss_expects_them() -> None:
    net = nn.Linear(4, 3)
    x, _ = task()
    y = torch.arange(12) % 3
    with seamed(ProbabilitiesToLoss()):
        assert torch.allclose(F.nll_loss(net(x), y), F.cross_entropy(net(x), y))
        one = torch.softmax(x[:, :1], 1)
        assert torch.equal(one, torch.sigmoid(x[:, :1]))
        mixed = F.binary_cross_entropy(one, (y > 0).float()[:, None])
    assert torch.equal(mixed, F.binary_cross_entropy(torch.sigmoid(x[:, :1]), (y > 0).float()[:, None]))


@pytest.mark.filterwarnings("error")
def test_shapes_are_matched_in_losses_and_differences() -> None:
    x, y = task()
    net = network()
    with seamed(MatchShapes()):
        assert torch.equal(F.mse_loss(net(x), y[:, 0]), F.mse_loss(net(x), y))
        assert torch.equal(((net(x) - y[:, 0]) ** 2).mean(), ((net(x) - y) ** 2).mean())


def test_another_loss_is_descended_behind_the_values_of_the_old_one() -> None:
    x, _ = task()
    y = (x[:, :1] > 0).float()
    net = nn.Sequential(network(), nn.Sigmoid())
    with seamed(OtherLoss("cross_entropy")):
        loss = F.l1_loss(net(x), y)
        (gradient,) = torch.autograd.grad(loss, net[0][0].weight)
    assert torch.allclose(loss, F.l1_loss(net(x), y))
    (expected,) = torch.autograd.grad(F.binary_cross_entropy(net(x), y), net[0][0].weight)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_the_penalty_is_left_out() -> None:
    x, y = task()
    with seamed(WithoutPenalty()):
        net = network()
        changed = train(net, x, y, loss=lambda a, b: F.mse_loss(a, b) + 10 * sum(p.square().sum() for p in net.parameters()))
    assert same(changed, train(network(), x, y))


def test_more_steps_are_steps_of_the_optimizer_on_the_same_data() -> None:
    x, y = task()

    def full(times: int) -> list[Tensor]:
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(times):
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
        return [p.detach().clone() for p in net.parameters()]

    with seamed(MoreSteps(3)) as seams:
        changed = full(4)
    assert seams.touched
    assert same(changed, full(12), exact=False)


def test_more_steps_do_nothing_where_the_loss_cannot_be_computed_again() -> None:
    x, y = task()
    with seamed(MoreSteps(3)) as seams:
        changed = train(network(), x, y, loss=lambda a, b: F.mse_loss(2 * a, b))
    assert not seams.touched
    assert same(changed, train(network(), x, y, loss=lambda a, b: F.mse_loss(2 * a, b)))


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_a_plan_or_a_reason(cause: Cause) -> None:
    for intervention in candidates(cause, ()):
        assert Intervention.from_json(intervention.to_json()) == intervention
