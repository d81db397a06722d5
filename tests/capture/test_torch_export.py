"""Modules: what is captured agrees with the model, and what is not understood is refused by name."""

import copy

import pytest
import torch
from torch import nn

from steepest.capture.torch_export import from_module
from steepest.errors import ModelError, UnsupportedOperatorError


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return x + torch.relu(self.norm(self.conv(x)))


class Last(nn.Module):
    """What a recurrent layer gives at the last step, and its last state."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        y, state = self.inner(x)
        h = state[0] if isinstance(state, tuple) else state
        return torch.cat([y[:, -1].flatten(), h.flatten()])


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


MODULES = {
    "mlp": (nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3), nn.Softmax(-1)), (1, 4)),
    "residual": (nn.Sequential(Residual(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)), (1, 3, 8, 8)),
    "transformer": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (1, 5, 8)),
    "norms": (
        nn.Sequential(
            nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm([4, 5, 5]), nn.Conv2d(4, 4, 3, groups=2, stride=2, padding=1),
            nn.PReLU(4), nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1, padding=1),
        ),
        (1, 4, 5, 5),
    ),
    "activations": (
        nn.Sequential(
            nn.SiLU(), nn.Mish(), nn.ELU(), nn.SELU(), nn.CELU(2.0), nn.Softplus(2.0), nn.Softsign(), nn.Tanhshrink(), nn.Hardswish(),
            nn.Hardsigmoid(), nn.Hardtanh(), nn.ReLU6(), nn.LeakyReLU(), nn.LogSigmoid(), nn.Sigmoid(), nn.Tanh(), nn.GELU("tanh"),
        ),
        (1, 7),
    ),
    "resizing": (nn.Sequential(nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(1)), (1, 2, 4, 4)),
    "reflect": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (1, 2, 5, 5)),
    "rnn": (Last(nn.RNN(3, 4, 2, nonlinearity="relu", batch_first=True)), (1, 3, 3)),
    "gru": (Last(nn.GRU(3, 4, batch_first=True, bidirectional=True)), (1, 3, 3)),
    "lstm": (Last(nn.LSTM(3, 4, batch_first=True, proj_size=2)), (1, 3, 3)),
    "cells": (nn.Sequential(nn.GRUCell(3, 4), nn.RNNCell(4, 2)), (1, 3)),
    "gates": (nn.Sequential(nn.GLU(1), nn.RReLU(), nn.LocalResponseNorm(2)), (1, 4, 3)),
    "einsum": (Function(lambda x: torch.einsum("bij,jk->bik", x, torch.ones(3, 2, dtype=x.dtype))), (1, 4, 3)),
    "exponentials": (
        Function(lambda x: torch.logsumexp(x, (1, 2)) + torch.logaddexp(x, 2 * x.flip(-1)) + torch.expm1(x) + torch.log1p(x * x)),
        (1, 4, 3),
    ),
    "places": (Function(lambda x: x.cumsum(1) + x.roll(1, -1) + torch.tril(x) + x.gather(1, torch.tensor([[[0, 2, 1]]]))), (1, 4, 3)),
    "spectral": (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), (1, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_graphs_agree_with_their_modules(name):
    module, shape = MODULES[name]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    graph = from_module(module, torch.zeros(shape))
    assert module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    double = copy.deepcopy(module).double().eval()
    x = torch.randn(4, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([double(sample) for sample in x])
    assert torch.allclose(graph.evaluate(x), expected, rtol=1e-9, atol=1e-9)


def test_constants_made_on_the_way_are_of_float64():
    graph = from_module(Function(lambda x: x @ torch.ones(3, 2) + torch.full((2,), 0.1)), torch.zeros(1, 3))
    x = torch.randn(1, 3, dtype=torch.float64)
    assert torch.allclose(graph.evaluate(x), x @ torch.ones(3, 2, dtype=torch.float64) + 0.1, rtol=1e-14, atol=1e-14)
    assert torch.get_default_dtype() == torch.float32


def test_a_failed_export_says_so_in_one_error_alone(capfd):
    with pytest.raises(ModelError, match="cannot take the module"):
        from_module(Function(lambda x: torch.bmm(x, torch.ones(1, 3, 2, dtype=torch.float32))), torch.zeros(1, 2, 3))
    with pytest.raises(ModelError, match="fails in float64"):
        from_module(Function(lambda x: x @ torch.ones(3, 2, dtype=torch.float32)), torch.zeros(1, 3))
    assert capfd.readouterr().err == ""


class Signed(nn.Module):
    def forward(self, x):
        return torch.sign(x)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(3)


@pytest.mark.parametrize(("module", "operator"), [(Signed(), "aten.sign"), (Noisy(), "aten.rand")])
def test_what_is_no_lipschitz_map_is_refused_by_name(module, operator):
    with pytest.raises(UnsupportedOperatorError, match=operator):
        from_module(module, torch.zeros(1, 3))


def test_a_nan_weight_is_named():
    module = nn.Linear(2, 2)
    module.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="weight"):
        from_module(module, torch.zeros(1, 2))
