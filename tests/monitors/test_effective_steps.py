"""Every method of torch.optim and of the package: its effective step is what x moves by over the gradient, or it is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from steepest.errors import UsageError
from steepest.monitors import AdamTypeMonitor
from steepest.optim import AdaDelay, AdaFom

Make = Callable[..., Optimizer]

# No memory of the direction, so that the effective step is what x moved by over the gradient.
METHODS: dict[str, Make] = {
    "adam": lambda p, **o: Adam(p, 0.01, (0.0, 0.9), **o),
    "adamw": lambda p, **o: AdamW(p, 0.01, (0.0, 0.9), weight_decay=0.0, **o),
    "amsgrad": lambda p, **o: Adam(p, 0.01, (0.0, 0.9), amsgrad=True, **o),
    "nadam": lambda p, **o: NAdam(p, 0.01, (0.0, 0.9), **o),
    "radam": lambda p, **o: RAdam(p, 0.01, (0.0, 0.9), **o),
    "adamax": lambda p, **o: Adamax(p, 0.01, (0.0, 0.9), **o),
    "rmsprop": lambda p, **o: RMSprop(p, 0.01, **o),
    "adagrad": lambda p, **o: Adagrad(p, 0.1, **o),
    "adafom": lambda p, **o: AdaFom(p, 0.01, beta1=0.0, **o),
    "adadelay": lambda p, **o: AdaDelay(p, 0.1, smoothness=0.5, **o),
}
STEPS = 63


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([(torch.view_as_real(t) if t.is_complex() else t).detach().double().flatten() for t in tensors])


def hold(optimizer: Optimizer, parameters: Sequence[Tensor], step: Callable[[], Any] | None = None, scale: float = 1.0) -> None:
    """A, B and B' of the monitor from nothing but iterates and gradients."""
    generator = torch.Generator().manual_seed(3)
    monitor = AdamTypeMonitor(optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) ** -0.5)
    sign = 1.0 if optimizer.param_groups[0].get("maximize") else -1.0
    a, b, squares, last = [], [], [], None
    for _ in range(STEPS):
        before = flat(parameters)
        for p in parameters:
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.grad = scale * (p.detach() + noise)
        g = flat([p.grad for p in parameters if p.grad is not None]) / scale
        (step or optimizer.step)()
        schedule.step()
        move = flat(parameters) - before
        now = sign * move / g
        change = torch.zeros_like(now) if last is None else now - last
        a.append(float(move.square().sum()))
        b.append(float(change.abs().sum()))
        squares.append(float(change.square().sum()))
        last = now
    windows = monitor.report().windows
    assert [w.first for w in windows] == [1, 2, 4, 8, 16, 32]
    for w in windows:
        span = slice(w.first - 1, 2 * w.first - 1)
        assert w.a == pytest.approx(sum(a[span]), rel=1e-8)
        assert w.b == pytest.approx(sum(b[span]), rel=1e-6, abs=1e-12)
        assert w.b_squared == pytest.approx(sum(squares[span]), rel=1e-6, abs=1e-12)


def some(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_several_tensors_in_both_implementations(name: str, foreach: bool) -> None:
    parameters = some((3, 2), (4,))
    hold(METHODS[name](parameters, foreach=foreach), parameters)


@pytest.mark.parametrize("name", METHODS)
def test_ascent(name: str) -> None:
    parameters = some((5,))
    hold(METHODS[name](parameters, maximize=True), parameters)


@pytest.mark.parametrize("name", METHODS)
def test_complex_parameters_are_two_real_ones(name: str) -> None:
    parameters = some((4,), dtype=torch.complex128)
    hold(METHODS[name](parameters), parameters)


@pytest.mark.parametrize("name", METHODS)
def test_groups_with_options_of_their_own(name: str) -> None:
    parameters = some((3,), (2,))
    hold(METHODS[name]([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.003}]), parameters)


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "adagrad"])
def test_fused(name: str) -> None:
    parameters = some((3, 2), (4,))
    hold(METHODS[name](parameters, fused=True), parameters)


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_gradient_scaler(fused: bool) -> None:
    """A fused method gets scaled gradients and divides by the scale itself; the others get them unscaled."""
    parameters = some((3, 2), (4,))
    optimizer = Adam(parameters, 0.01, (0.0, 0.9), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=10_000)
    scaler.scale(torch.ones(()))

    def step() -> None:
        scaler.step(optimizer)
        scaler.update()

    hold(optimizer, list(parameters), step, scale=8.0)


def test_a_step_that_a_scaler_skips_is_no_step() -> None:
    (x,) = some((3,))
    optimizer = Adam([x], 0.01, fused=True)
    monitor = AdamTypeMonitor(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    for t in range(40):
        x.grad = torch.full((3,), float("inf") if t == 20 else 8.0, dtype=torch.float64)
        scaler.step(optimizer)
        scaler.update(8.0)
    assert all(w.a < 1.0 for w in monitor.report().windows)


def test_tensor_rates() -> None:
    parameters = some((3,))
    hold(Adam(parameters, torch.tensor(0.01, dtype=torch.float64), (0.0, 0.9), foreach=False), list(parameters))


def test_two_optimizers_at_once() -> None:
    one, two = some((3,), (2,))
    first, second = Adam([one], 0.01), RMSprop([two], 0.01)
    monitors = AdamTypeMonitor(first), AdamTypeMonitor(second)
    for t in range(40):
        one.grad, two.grad = torch.ones_like(one), torch.ones_like(two)
        first.step()
        if t % 2:
            second.step()
    assert [m.steps for m in monitors] == [40, 20] and [m.method for m in monitors] == ["Adam", "RMSprop"]


COVERED = (Adam, AdamW, NAdam, RAdam, Adamax, RMSprop, Adagrad)


@pytest.mark.parametrize("name", sorted(n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type)))
def test_all_of_torch_is_covered_or_refused_by_name(name: str) -> None:
    method = getattr(torch.optim, name)
    if method is Optimizer or not issubclass(method, Optimizer):
        return
    optimizer = method([nn.Parameter(torch.ones(2, 2))])  # pyright: ignore[reportCallIssue]
    if method in COVERED:
        AdamTypeMonitor(optimizer)
        return
    with pytest.raises(UsageError, match=f"{name} is no Adam-type method: it"):
        AdamTypeMonitor(optimizer)


def test_a_changed_step_is_refused() -> None:
    class Mine(Adam):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    class Named(Adam):
        pass

    AdamTypeMonitor(Named([nn.Parameter(torch.ones(2))]))
    with pytest.raises(UsageError, match="Mine has a step of its own"):
        AdamTypeMonitor(Mine([nn.Parameter(torch.ones(2))]))


def test_strangers_are_refused() -> None:
    with pytest.raises(UsageError, match="SGD is no Adam-type method: it scales no coordinate"):
        AdamTypeMonitor(SGD([nn.Parameter(torch.ones(2))], 0.1))
