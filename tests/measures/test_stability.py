"""Every threshold against the method itself on a quadratic: it shrinks just below and grows just above."""

import pytest
import torch

from steepest.measures.stability import Stability, averaged_momentum, heavy_ball, judge, nesterov, step_scale

METHODS = {
    "gd": lambda p: torch.optim.SGD(p, 0.1),
    "decay": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.5),
    "heavy ball": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "dampening": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
}


def ratio(optimizer, parameters, curvature):
    scale, shift = step_scale(optimizer, parameters)
    return float((curvature * scale.square()).max()) + shift


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("excess", [0.98, 1.02])
def test_without_preconditioner(name, excess):
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = METHODS[name]([w])
    one, shift = ratio(optimizer, [w], 1.0) - ratio(optimizer, [w], 0.0), ratio(optimizer, [w], 0.0)
    h = (excess - shift) / one
    for _ in range(3000):
        w.grad = h * w.detach()
        optimizer.step()
    assert (abs(w.item()) > 1.0) == (excess > 1.0)


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "rmsprop", "momentum", "centred"])
@pytest.mark.parametrize("excess", [0.97, 1.03])
def test_with_a_preconditioner_that_stands_still(name, excess):
    # P frozen, as in Cohen et al. 2022: the state of the second moments is put back before each step.
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = {
        "adam": lambda: torch.optim.Adam([w], 0.1, betas=(0.9, 1.0 - 1e-12)),
        "adamw": lambda: torch.optim.AdamW([w], 0.1, betas=(0.9, 1.0 - 1e-12), weight_decay=0.3),
        "amsgrad": lambda: torch.optim.Adam([w], 0.1, betas=(0.9, 1.0 - 1e-12), amsgrad=True),
        "rmsprop": lambda: torch.optim.RMSprop([w], 0.1, alpha=1.0 - 1e-12),
        "momentum": lambda: torch.optim.RMSprop([w], 0.1, alpha=1.0 - 1e-12, momentum=0.8),
        "centred": lambda: torch.optim.RMSprop([w], 0.1, alpha=1.0 - 1e-12, centered=True),
    }[name]()
    assert step_scale(optimizer, [w]) is None
    w.grad = torch.zeros_like(w)
    optimizer.step()
    state = optimizer.state[w]

    def freeze():
        # Far beyond bias correction, second moments of 4: P = 2.
        if "step" in state and "exp_avg_sq" in state:
            state["step"] = torch.tensor(1e6)
            corrected = 1.0 - (1.0 - 1e-12) ** 1e6
            state["exp_avg_sq"].fill_(4.0 * corrected)
            if "max_exp_avg_sq" in state:
                state["max_exp_avg_sq"].fill_(4.0 * corrected)
        else:
            state["square_avg"].fill_(4.0)

    freeze()
    h = excess / ratio(optimizer, [w], 1.0)
    with torch.no_grad():
        w.fill_(1e-8)  # so small that one step does not move the second moments
    for _ in range(2000):
        freeze()
        w.grad = h * w.detach()
        optimizer.step()
    assert (abs(w.item()) > 1e-8) == (excess > 1.0)


def test_figures_of_the_papers():
    assert heavy_ball(0.0) == 2.0 and heavy_ball(0.9) == pytest.approx(3.8)
    assert nesterov(0.0) == 2.0 and nesterov(0.9) == pytest.approx(3.8 / 2.8)
    assert averaged_momentum(0.9) == pytest.approx(38.0)


def test_groups_and_parameters_left_out():
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.4, "momentum": 1.0}])
    scale, _ = step_scale(optimizer, [a, b, c])
    torch.testing.assert_close(scale.square(), torch.tensor([0.05, 0.05, 0.1, 0.1, 0.0, 0.0]))
    assert step_scale(torch.optim.Adadelta([a]), [a]) is None


def test_the_edge_alone_is_no_alarm():
    falling, growing = [1.0 / (1 + k) for k in range(40)], [1.01**k for k in range(40)]
    assert judge(0.5, growing) is Stability.STABLE
    assert judge(1.1, falling) is Stability.AT_EDGE
    assert judge(1.1, growing) is Stability.UNSTABLE
    assert judge(1.0, [1.0, 2.0] * 20) is Stability.AT_EDGE
    assert judge(3.0, [1.0, float("nan")]) is Stability.UNSTABLE
    assert judge(float("nan"), falling) is Stability.STABLE
