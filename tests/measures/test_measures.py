"""Line scans, shifts, signals, Jacobians, noise and skips against slow and obvious references in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steepest.errors import UsageError
from steepest.measures.covariate_shift import gradient_shift, gradient_step, input_shift, layers_in_order
from steepest.measures.jacobian import extreme_singular_values, input_output_spectrum, layer_spectra, singular_values
from steepest.measures.landscape import along_gradient
from steepest.measures.noise_scale import from_gradients, from_pairs, noise_scale
from steepest.measures.signals import gradient_norms, signals
from steepest.measures.skips import losses_without_blocks, residual_use


def backward(model, loss_fn, batch):
    """A copy of the model with its gradients, and its loss."""
    model = copy.deepcopy(model)
    model.zero_grad()
    loss = loss_fn(model(batch[0]), batch[1])
    loss.backward()
    return model, loss.item()


def vector(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_the_line_scan(cases):
    model, loss_fn, batch = cases("mlp")
    here, loss = backward(model, loss_fn, batch)
    steps = (0.05, 0.5, 2.0)
    found = along_gradient(model, loss_fn, batch, steps)
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(vector(here).norm()), rel=1e-12)
    ratios = []
    for k, s in enumerate(steps):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, q in zip(moved.parameters(), here.parameters(), strict=True):
                p -= s * q.grad
        moved, value = backward(moved, loss_fn, batch)
        change = float((vector(moved) - vector(here)).norm())
        assert found.losses[k] == pytest.approx(value, rel=1e-12)
        assert found.changes[k] == pytest.approx(change, rel=1e-10)
        ratios.append(change / (s * found.gradient_norm))
    assert found.smoothness == pytest.approx(max(ratios), rel=1e-10)
    assert found.loss_range == (min(found.losses), max(found.losses))


def test_smoothness_of_a_quadratic_is_its_curvature():
    model = nn.Linear(1, 1, bias=False).double()
    found = along_gradient(model, lambda p, y: 0.5 * p.square().sum(), (torch.full((1, 1), 3.0).double(), None), (0.1, 1.0))
    assert found.smoothness == pytest.approx(9.0, rel=1e-12)


def test_gradient_shift_moves_earlier_layers_alone(cases):
    model, loss_fn, batch = cases("mlp")
    updated = gradient_step(model, loss_fn, batch, 0.7)
    found = gradient_shift(model, loss_fn, batch, updated)
    assert [s.layer for s in found] == ["0", "2", "4"]
    before = backward(model, loss_fn, batch)[0]
    for k, shift in enumerate(found):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                if name.split(".")[0] in [s.layer for s in found[:k]]:
                    p.copy_(updated[name])
        after = backward(moved, loss_fn, batch)[0]
        pairs = zip(after[int(shift.layer)].parameters(), before[int(shift.layer)].parameters(), strict=True)
        difference = torch.cat([(p.grad - q.grad).flatten() for p, q in pairs])
        assert shift.difference == pytest.approx(float(difference.norm()), rel=1e-10, abs=1e-15)
    assert found[0].difference == 0.0 and found[0].cosine == pytest.approx(1.0)
    with pytest.raises(UsageError, match="no module 'nope'"):
        gradient_shift(model, loss_fn, batch, updated, layers=["nope"])


def test_input_shift_of_a_known_change():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[0].bias.zero_()
    x = torch.randn(50, 3, dtype=torch.float64)
    updated = {"0.weight": 2.0 * torch.eye(3).double(), "0.bias": torch.ones(3).double()}
    first, second = input_shift(model, x, updated)
    assert (first.mean, first.scale, first.distance) == (0.0, 0.0, 0.0)
    std = x.std(0, correction=0)
    assert second.scale == pytest.approx(math.log(2.0), rel=1e-12)
    assert second.mean == pytest.approx(float(((x.mean(0) + 1.0).abs() / std).mean()), rel=1e-12)
    assert second.distance == pytest.approx(float(((x + 1.0).square().mean(0).sqrt() / std).mean()), rel=1e-12)


def test_layers_come_in_the_order_of_their_calls():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.late, self.early, self.never = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.late(self.early(x))

    assert layers_in_order(Swapped(), torch.ones(1, 2)) == ("early", "late", "never")


def test_signals_by_loops(cases):
    model, _, (x, _) = cases("mlp")
    z, found = x, signals(model, x)
    for module, signal in zip(model, found, strict=True):
        z = module(z).detach()
        pairs = [float(F.cosine_similarity(z[a], z[b], 0)) for a in range(len(z)) for b in range(len(z)) if a != b]
        assert signal.scale == pytest.approx(float(z.square().mean()), rel=1e-12)
        assert signal.correlation == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)
    assert signals(model, x[:1])[0].correlation is None
    alike = signals(model, x[:1].expand(5, -1))[-1]
    assert alike.correlation == pytest.approx(1.0) and alike.spread == pytest.approx(0.0, abs=1e-12)


def test_scale_is_kept_by_he_initialisation():
    torch.manual_seed(0)
    layers = []
    for _ in range(20):
        layers += [nn.Linear(400, 400, bias=False), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, std=math.sqrt(2.0 / 400))
    found = [s.scale for s in signals(nn.Sequential(*layers), torch.randn(8, 400)) if s.kind == "Linear"]
    assert 0.3 < found[-1] / found[0] < 3.0


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_gradient_norms(name, cases):
    model, loss_fn, batch = cases(name)
    here = backward(model, loss_fn, batch)[0]
    modules = dict(here.named_modules())
    for found in gradient_norms(model, loss_fn, batch):
        own = [p.grad for p in modules[found.layer].parameters(recurse=False)]
        assert found.parameters == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in own)), rel=1e-9, abs=1e-15)
    # The gradient in the logits of a mean cross-entropy: (softmax - one hot) / n.
    logits = model(batch[0]).detach() if name == "mlp" else None
    if logits is not None:
        direct = (logits.softmax(1) - F.one_hot(batch[1], 3)).norm() / math.sqrt(len(logits))
        assert gradient_norms(model, loss_fn, batch)[-1].output == pytest.approx(float(direct), rel=1e-10)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 7), (7, 4)])
def test_singular_values_are_those_of_the_dense_jacobian(inputs, outputs):
    model = nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, outputs)).double()
    x = torch.randn(3, inputs, dtype=torch.float64)
    found = singular_values(model, x)
    for k in range(3):
        dense = torch.linalg.svdvals(torch.autograd.functional.jacobian(lambda z: model(z[None])[0], x[k]))
        torch.testing.assert_close(found[k].detach(), dense)
        low, high = dense[-1].item(), dense[0].item()
        assert extreme_singular_values(model, x[k : k + 1]) == pytest.approx((high, low), rel=1e-3, abs=1e-7)


def test_a_deep_linear_orthogonal_network_is_isometric():
    layers = [nn.Linear(12, 12, bias=False).double() for _ in range(10)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
    model, x = nn.Sequential(*layers), torch.randn(2, 12, dtype=torch.float64)
    for dense in (512, 1):
        found = input_output_spectrum(model, x, dense)
        assert (found.largest, found.smallest, found.mean_square) == pytest.approx((1.0, 1.0, 1.0), rel=1e-6)
    assert all(s.condition == pytest.approx(1.0) for s in layer_spectra(model, x))
    nn.init.normal_(layers[0].weight)
    assert input_output_spectrum(model, x).condition > 2.0


def gaussian_rows(n, p, norm, trace, seed):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.zeros(p, dtype=torch.float64)
    mean[0] = norm
    return mean + math.sqrt(trace / p) * torch.randn(n, p, generator=generator, dtype=torch.float64)


def test_noise_scale_is_unbiased_and_its_interval_covers():
    true, covered, traces, norms = 4.0, 0, [], []
    for seed in range(200):
        found = from_gradients(gaussian_rows(40, 30, 1.0, 4.0, seed), 1)
        covered += found.low <= true <= found.high
        traces.append(found.trace)
        norms.append(found.squared_norm)
    assert sum(traces) / 200 == pytest.approx(4.0, rel=0.02)
    assert sum(norms) / 200 == pytest.approx(1.0, rel=0.05)
    assert covered >= 180


def test_jackknife_by_leaving_out_each_row():
    rows = gaussian_rows(12, 5, 1.0, 3.0, 0)

    def plain(r):
        trace = r.var(0).sum()
        return torch.stack([trace, r.mean(0).square().sum() - trace / len(r)])

    found = from_gradients(rows, 1)
    assert [found.trace, found.squared_norm] == pytest.approx(plain(rows).tolist(), rel=1e-12)
    without = torch.stack([plain(torch.cat([rows[:k], rows[k + 1 :]])) for k in range(12)])
    spread = (without - without.mean(0)).T @ (without - without.mean(0)) * 11 / 12
    # The ends of the interval are where trace - r norm is 1.96 standard deviations from zero.
    for r in (found.low, found.high):
        if math.isfinite(r):
            w = torch.tensor([1.0, -r], dtype=torch.float64)
            assert float(w @ plain(rows)) ** 2 == pytest.approx(1.959964**2 * float(w @ spread @ w), rel=1e-6)


def test_pure_noise_has_no_upper_end():
    found = from_gradients(gaussian_rows(30, 20, 0.0, 1.0, 3), 1)
    assert found.high == math.inf and '"inf"' in str(found.to_json()).replace("'", '"')


def test_noise_of_samples_by_a_loop(cases):
    model, loss_fn, (x, y) = cases("mlp")
    rows = torch.stack([vector(backward(model, loss_fn, (x[k : k + 1], y[k : k + 1]))[0]) for k in range(len(x))])
    found, expected = noise_scale(model, loss_fn, (x, y)), from_gradients(rows, 1)
    assert (found.trace, found.squared_norm) == pytest.approx((expected.trace, expected.squared_norm), rel=1e-9)
    parts = noise_scale(model, loss_fn, (x, y), parts=6)
    means = from_gradients(rows.reshape(6, 4, -1).mean(1), 4)
    assert (parts.trace, parts.squared_norm) == pytest.approx((means.trace, means.squared_norm), rel=1e-9)


def test_noise_from_pairs():
    g, h = gaussian_rows(4000, 10, 1.0, 6.0 / 5, 1), gaussian_rows(4000, 10, 1.0, 6.0 / 5, 2)
    found = from_pairs((g * h).sum(1), (g - h).square().sum(1), 5)
    assert found.scale == pytest.approx(6.0, rel=0.1) and found.low < 6.0 < found.high


def test_noise_of_samples_needs_samples(cases):
    model, loss_fn, batch = cases("convnet")
    with pytest.raises(UsageError, match="parts"):
        noise_scale(model, loss_fn, batch)
    with pytest.raises(UsageError, match="cannot be split"):
        noise_scale(model, loss_fn, batch, parts=2)


def test_residual_joins(cases):
    model, _, (x, _) = cases("resnet")
    found = residual_use(model, x)
    assert [(j.module, j.projected) for j in found] == [("2", False), ("3", True), ("4", False)]
    z = model[1](model[0](x))
    for join in found:
        block = model[int(join.module)]
        skip = block.skip(z)
        assert join.ratio == pytest.approx(float((block.branch(z).norm() / skip.norm()).detach()), rel=1e-5)
        z = block(z)


def test_leaving_out_a_block(cases):
    model, loss_fn, (x, y) = cases("resnet")
    for found in losses_without_blocks(model, loss_fn, (x, y)):
        z = x
        for name, module in model.named_children():
            z = torch.relu(module.skip(z)) if name == found.join.module else module(z)
        assert found.loss == pytest.approx(loss_fn(z, y).item(), rel=1e-10)
        assert found.before == pytest.approx(loss_fn(model(x), y).item(), rel=1e-10)


def test_plain_and_recurrent_networks_have_no_joins(cases):
    model, _, (x, _) = cases("convnet")
    assert residual_use(model, x) == ()

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.into, self.on = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = self.embed(x)
            h = x.new_zeros(len(x), 4)
            for k in range(x.shape[1]):
                h = torch.tanh(self.into(x[:, k]) + self.on(h))
            return h

    assert residual_use(Recurrent(), torch.randn(2, 4, 3)) == ()


def test_transformers_in_evaluation_show_their_joins():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False).eval()
    assert [j.module for j in residual_use(model, torch.randn(2, 5, 8))] == ["layers.0", "layers.0", "layers.1", "layers.1"]
