"""Every rule on a tiny run that has its fault, and no rule on the same run without it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steepest.diagnose import Case, judge, judge_case
from steepest.diagnose.rules.descent import too_few_steps
from steepest.diagnose.rules.loop import broadcast_shape, wrong_mode
from steepest.diagnose.rules.signal import depth_degradation
from steepest.results.cause import Cause
from steepest.results.finding import Evidence, Finding
from steepest.watch import watch

ROWS = 256


def classes(n: int = ROWS) -> tuple[Tensor, Tensor]:
    """Four overlapping rings around corners: not linear, and easy for a small net."""
    g = torch.Generator().manual_seed(3)
    y = torch.randint(0, 4, (n,), generator=g)
    x = torch.randn(n, 8, generator=g)
    x[:, 0] += 3.0 * (y % 2)
    x[:, 1] += 3.0 * (y // 2)
    x[:, 2] = x[:, 0] * x[:, 1] / 3
    return x - x.mean(0), y


def regression(n: int = ROWS) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(4)
    x = torch.randn(n, 6, generator=g)
    return x, torch.sin(x[:, :1]) + x[:, 1:2] * 0.5 - x[:, 2:3] + 0.1 * torch.randn(n, 1, generator=g)


def net(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


def train(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    epochs: int = 16,
    batch: int = 32,
    shuffle: bool = True,
    clear: bool = True,
    held: tuple[Tensor, Tensor] | None = None,
    every: int = 1,
) -> tuple[Finding, ...]:
    """A plain loop under observation; loss functions are looked up inside, as a script would."""
    x, y = data
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-2)
    with watch() as run:
        for _ in range(epochs):
            order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
            for k, i in enumerate(range(0, len(x), batch)):
                if clear and k % every == 0:
                    optimizer.zero_grad()
                b = order[i : i + batch]
                value = F.cross_entropy(model(x[b]), y[b]) if loss is None else loss(model(x[b]), y[b])
                value.backward()
                if k % every == every - 1:
                    optimizer.step()
        if held is not None:
            with torch.no_grad():
                (model(held[0]).argmax(1) == held[1]).float().mean()
    return judge(run)


def names(found: tuple[Finding, ...]) -> list[Cause]:
    return [f.cause for f in found[:2]]


HEALTHY = {
    "classifier": lambda: train(net(8, 32, 4), classes()),
    "regression": lambda: train(net(6, 32, 1), regression(), loss=lambda p, y: F.mse_loss(p, y), epochs=30),
    "squared error by hand": lambda: train(net(6, 32, 1), regression(), loss=lambda p, y: ((p - y) ** 2).mean(), epochs=30),
    "accumulation done right": lambda: train(net(8, 32, 4), classes(), loss=lambda p, y: F.cross_entropy(p, y) / 4, batch=8, every=4),
    "momentum and large steps": lambda: _sgd(net(8, 32, 4), 0.3),
    "frozen features": lambda: _frozen(True),
}


def _sgd(model: nn.Module, rate: float, weight_decay: float = 0.0) -> tuple[Finding, ...]:
    return train(model, classes(), torch.optim.SGD(model.parameters(), rate, weight_decay=weight_decay))


def _frozen(wide: bool) -> tuple[Finding, ...]:
    model = net(8, 256, 4) if wide else net(8, 3, 3, 3, 4)
    for p in model[:-1].parameters():
        p.requires_grad_(False)
    return train(model, classes(), torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2), epochs=25)


def _unregistered() -> tuple[Finding, ...]:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(8, 5), nn.Linear(5, 5), nn.Linear(5, 5)]
            self.head = nn.Linear(5, 4)

        def forward(self, x):
            for layer in self.layers:
                x = torch.relu(layer(x))
            return self.head(x)

    return train(Hidden(), classes(), epochs=10)


def _constant() -> tuple[Finding, ...]:
    model = net(8, 32, 32, 4)
    for p in model.parameters():
        nn.init.constant_(p, 0.01)
    return train(model, classes())


def _dead() -> tuple[Finding, ...]:
    model = net(8, 32, 32, 4)
    first = model[0]
    assert isinstance(first, nn.Linear)
    nn.init.constant_(first.bias, -30.0)
    return train(model, classes(), epochs=8)


def _saturated() -> tuple[Finding, ...]:
    model = net(8, 32, 32, 4, act=nn.Tanh)
    for p in model.parameters():
        nn.init.normal_(p, std=8.0)
    return train(model, classes(), torch.optim.SGD(model.parameters(), 1e-3), epochs=6)


def _deep() -> tuple[Finding, ...]:
    model = net(8, *[12] * 30, 4)
    return train(model, classes(), torch.optim.SGD(model.parameters(), 1e-2), epochs=6)


def _lbfgs() -> tuple[Finding, ...]:
    x, y = regression()
    model = net(6, 32, 1, act=nn.Tanh)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0)
    with watch() as run:
        for _ in range(3):
            order = torch.randperm(len(x))
            for i in range(0, len(x), 8):
                b = order[i : i + 8]

                def closure() -> Tensor:
                    optimizer.zero_grad()
                    value = F.mse_loss(model(x[b]), y[b])  # noqa: B023
                    value.backward()
                    return value

                optimizer.step(closure)
    return judge(run)


class Mixing(nn.Module):
    """Normalises each unit over the batch by hand, in training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.last(torch.softmax(self.first(x), 0))


def _broadcast() -> tuple[Finding, ...]:
    x, y = regression()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(net(6, 32, 1), (x, y[:, 0]), loss=lambda p, t: F.mse_loss(p, t))


def _mode() -> tuple[Finding, ...]:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.6), nn.Linear(32, 4))
    return train(model, classes(), held=classes(400))


def _sorted() -> tuple[Finding, ...]:
    x, y = classes()
    order = y.argsort()
    model = net(8, 32, 4)
    return train(model, (x[order], y[order]), torch.optim.SGD(model.parameters(), 0.1), shuffle=False, batch=16, epochs=6)


def _overfit() -> tuple[Finding, ...]:
    g = torch.Generator().manual_seed(5)
    x = torch.randn(600, 40, generator=g)
    y = (x[:, 0] + 0.8 * torch.randn(600, generator=g) > 0).long()
    return train(net(40, 128, 2), (x[:60], y[:60]), epochs=40, held=(x[60:], y[60:]))


def _few() -> tuple[Finding, ...]:
    model = net(8, 32, 4)
    return train(model, classes(), torch.optim.SGD(model.parameters(), 0.02), epochs=2)


def _scaled(factor: float) -> tuple[Finding, ...]:
    x, y = classes()
    scale = torch.ones(8)
    scale[3] = factor
    model = net(8, 32, 4)
    return train(model, (x * scale, y), torch.optim.SGD(model.parameters(), 1e-2), epochs=6)


def _nan() -> tuple[Finding, ...]:
    x, y = classes()
    x[100, 2] = float("nan")
    return train(net(8, 32, 4), (x, y), epochs=2)


FAULTY: dict[Cause, Callable[[], tuple[Finding, ...]]] = {
    Cause.BROADCAST_SHAPE: _broadcast,
    Cause.MISSING_ZERO_GRAD: lambda: train(m := net(8, 32, 4), classes(), torch.optim.SGD(m.parameters(), 0.1), clear=False),
    Cause.UNSCALED_ACCUMULATION: lambda: train(
        m := net(8, 32, 32, 4), classes(), torch.optim.SGD(m.parameters(), 0.5, momentum=0.9), batch=8, every=16
    ),
    Cause.WRONG_MODE: _mode,
    Cause.FROZEN_PARAMETERS: _unregistered,
    Cause.CROSS_BATCH_LEAK: lambda: train(Mixing(), classes()),
    Cause.NO_SHUFFLE: _sorted,
    Cause.LOSS_OUTPUT_MISMATCH: lambda: train(nn.Sequential(net(8, 32, 4), nn.Softmax(1)), classes()),
    Cause.WRONG_LOSS: lambda: train(net(6, 32, 1), regression(), loss=lambda p, y: F.binary_cross_entropy_with_logits(p, y), epochs=3),
    Cause.WRONG_ACTIVATION: lambda: train(nn.Sequential(net(6, 32, 1), nn.Sigmoid()), regression(), loss=lambda p, y: F.mse_loss(p, y)),
    Cause.BAD_LABELS: lambda: train(net(8, 16, 4), (classes()[0], torch.randperm(ROWS) % 4), epochs=4),
    Cause.BAD_INIT: _constant,
    Cause.DEAD_RELU: _dead,
    Cause.SATURATED_UNITS: _saturated,
    Cause.DEPTH_DEGRADATION: _deep,
    Cause.UNSUITABLE_OPTIMIZER: _lbfgs,
    Cause.LR_TOO_HIGH: lambda: _sgd(net(8, 32, 32, 4), 30.0),
    Cause.LR_TOO_LOW: lambda: _sgd(net(8, 32, 4), 1e-5),
    Cause.TOO_FEW_STEPS: _few,
    Cause.BATCH_TOO_SMALL: lambda: train(
        m := net(8, 32, 32, 4), classes(), torch.optim.SGD(m.parameters(), 0.06, momentum=0.9), batch=1, epochs=2
    ),
    Cause.REGULARISATION_TOO_STRONG: lambda: _sgd(net(8, 32, 4), 0.05, weight_decay=1.0),
    Cause.CAPACITY_TOO_SMALL: lambda: train(net(8, 1, 4), classes(), epochs=30),
    Cause.OVERFITTING: _overfit,
    Cause.INPUT_NOT_NORMALISED: lambda: _scaled(3e3),
    Cause.NON_FINITE: _nan,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_have_no_findings(name):
    torch.manual_seed(0)
    assert names(HEALTHY[name]()) == []


@pytest.mark.parametrize("cause", FAULTY, ids=lambda c: c.value)
def test_faults_are_among_the_first_two(cause):
    torch.manual_seed(0)
    found = FAULTY[cause]()
    assert cause in names(found), [(f.cause.value, f.score) for f in found]
    assert len(found) <= 3
    finding = next(f for f in found if f.cause is cause)
    assert finding.evidence and finding.fix and 0 < finding.score <= 1


def test_frozen_weights_that_matter_are_found():
    torch.manual_seed(0)
    assert Cause.FROZEN_PARAMETERS in names(_frozen(False))


def test_measurements_survive_json_and_give_the_same_findings():
    torch.manual_seed(0)
    x, y = classes()
    model = net(8, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), 30.0)
    with watch() as run:
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    again = Case.from_json({type(r).__name__: r.to_json() for r in run.measurements()})
    assert judge_case(again) == judge(run)
    assert judge_case(Case()) == ()


def test_shapes_that_cannot_be_broadcast_are_no_broadcast():
    """The shapes of a similarity of two outputs are not those of a prediction and its target."""
    harm = SimpleNamespace(evidence=lambda: Evidence("skill", 0.0))

    def found(prediction, target):
        task = SimpleNamespace(broadcast=True, prediction_shape=prediction, target_shape=target, loss="mse_loss")
        return broadcast_shape(SimpleNamespace(task=task), harm)

    assert found((96, 1), (96,)) is not None and found((96,), (96, 1)) is not None
    assert found((96, 8), (96,)) is None


def _harm(**known):
    """An outcome that hurts nobody, but for what is said."""
    base = {"clear": False, "mild": False, "diverged": False, "adversarial": False, "reference": math.nan, "left": 0.0, "falling": 0.0}
    return SimpleNamespace(**(base | {"train_shortfall": 0.0, "evidence": lambda: Evidence("skill", 0.0)} | known))


@pytest.mark.parametrize(("depth", "mild", "found"), [(24, True, True), (24, False, False), (12, True, False)])
def test_twenty_plain_layers_are_told_where_they_hurt_a_little(depth, mild, found):
    case = SimpleNamespace(signals=SimpleNamespace(recurrent=False, depth=depth, short_depth=depth))
    assert (depth_degradation(case, _harm(mild=mild)) is not None) == found


@pytest.mark.parametrize(("left", "falling", "found"), [(0.8, 10.0, True), (0.3, 10.0, False), (0.8, 1.0, False)])
def test_a_loss_that_has_hardly_begun_to_fall_needs_no_reference(left, falling, found):
    case = SimpleNamespace(steps=SimpleNamespace(main=SimpleNamespace(update=1.0)), losses=SimpleNamespace(steps=300))
    assert (too_few_steps(case, _harm(left=left, falling=falling)) is not None) == found


@pytest.mark.parametrize(("in_train", "found"), [(20, True), (15, False)])
def test_evaluations_that_nobody_scores_count_where_there_are_no_others(in_train, found):
    modes = SimpleNamespace(
        mode_matters=True, train_in_eval=0, train_calls=50, last_eval_in_train=True, eval_in_train=in_train, eval_calls=20
    )
    modes.largest_dropout, modes.batch_norms, modes.dropouts = 0.4, 2, 1
    case = SimpleNamespace(modes=modes, fit=SimpleNamespace(held=()))
    assert (wrong_mode(case, _harm()) is not None) == found
