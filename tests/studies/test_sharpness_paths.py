"""Paths with known properties, and the curvature of a run against dense Hessians."""

import pytest
import torch
from torch.func import functional_call, hessian
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import SGD, Adam

from steepest.errors import UsageError
from steepest.studies.sharpness_paths import Landscape, Path

pytest.importorskip("sklearn")
LAND = Landscape(images=30, width=3, every=2, shuffled=True)


def test_a_path_that_arrives():
    path = Path((0, 2, 4, 6), (0.5, 0.9, 1.1, 1.0), (5.0, 9.0, 11.0, 22.0), (8.0, 7.0, 6.0, 5.0, 4.0, 5.0, 3.0, 2.0))
    assert path.arrival == 2 and path.sharpening == pytest.approx(2.2)
    assert path.level() == pytest.approx(1.05) and path.level(0.25) == 1.0
    assert path.rises == (0.0, pytest.approx(1 / 3))
    assert path.progress == pytest.approx(0.5) and path.growth == pytest.approx(2.0)


def test_a_path_that_does_not_is_split_where_it_is_nearest():
    path = Path((0, 2, 4), (0.5, 0.7, 0.6), (5.0, 7.0, 6.0), (3.0, 4.0, 2.0, 1.0, 0.5))
    assert path.arrival == 1 and path.sharpening == pytest.approx(1.4) and path.rises == (0.5, 0.0)


def _eigenvalue(net, x, y, scale):
    names, shapes = [n for n, _ in net.named_parameters()], [p.shape for p in net.parameters()]

    def loss(vector):
        pieces = [v.view(s) for v, s in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True)]
        return 0.5 * (functional_call(net, dict(zip(names, pieces, strict=True)), x) - y).square().sum(1).mean()

    h = hessian(loss)(parameters_to_vector(net.parameters()).detach())
    return torch.linalg.eigvalsh(scale[:, None] * h * scale)[-1].item()


@pytest.mark.parametrize(
    ("make", "threshold"),
    [
        (lambda p: SGD(p, 0.1), 2.0),
        (lambda p: SGD(p, 0.1, 0.9), 3.8),
        (lambda p: SGD(p, 0.1, 0.9, nesterov=True), 3.8 / 2.8),
        (lambda p: Adam(p, 0.1), 38.0),
    ],
)
def test_ratios_and_sharpness_against_dense_hessians(make, threshold, monkeypatch):
    seen = []
    real = LAND._network

    def watched(self, seed):
        seen.append(real(seed))
        return seen[-1]

    monkeypatch.setattr(Landscape, "_network", watched)
    states = []

    def look(optimizer, step):
        scales = []
        for p in optimizer.param_groups[0]["params"]:
            state = optimizer.state.get(p, {})
            t = int(state.get("step", 0))
            if "exp_avg_sq" in state:
                scales.append(((1 - 0.9**t) * ((state["exp_avg_sq"] / (1 - 0.999**t)).sqrt() + 1e-8)).flatten())
            else:
                scales.append(torch.ones(p.numel(), dtype=torch.float64))
        states.append((parameters_to_vector(optimizer.param_groups[0]["params"]).detach().clone(), torch.cat(scales)))

    path = LAND.descend(0, make, 5, change=look)
    from steepest.studies.digits import load_digits

    data = load_digits(30)
    x, y = 0.4 * data.x.double().flatten(1), functional.one_hot(data.y.roll(7), 10).double()
    assert path.at[-1] == 4 and len(path.losses) == 5
    for at, ratio, sharpness in zip(path.at, path.ratios, path.sharpness, strict=True):
        vector, conditioner = states[at]
        vector_to_parameters(vector, seen[0].parameters())
        plain = torch.ones_like(conditioner)
        assert sharpness == pytest.approx(_eigenvalue(seen[0], x, y, plain), rel=0.02)
        assert ratio == pytest.approx(_eigenvalue(seen[0], x, y, conditioner.rsqrt()) * 0.1 / threshold, rel=0.02)


def test_divergence_is_told():
    with pytest.raises(UsageError, match="diverges"):
        LAND.descend(0, lambda p: SGD(p, 100.0), 50)
