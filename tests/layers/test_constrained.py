"""Layers of norm one: the norm as a dense matrix, training, copies, and the exported constant proven by the checker."""

import copy

import pytest
import torch
from constrained import matrix, proven, proven_product
from torch import nn
from torch.nn.utils import parametrize

from steepest.layers import (
    GroupSort,
    LipschitzBatchNorm,
    MaxMin,
    ScaledAvgPool2d,
    almost_orthogonalise,
    export,
    orthogonalise,
    settle_,
    spectral_normalise,
)

SIZES = {1: (9,), 2: (6, 7), 3: (3, 4, 3)}
PLAIN = [
    (nn.Conv1d, (4, 6, 3), {}),
    (nn.Conv2d, (2, 4, 3), {"padding": 1}),
    (nn.Conv2d, (4, 2, 3), {"padding": 1, "bias": False}),
    (nn.Conv2d, (3, 3, (3, 2)), {"padding": (2, 0)}),
    (nn.Conv2d, (2, 4, 3), {"padding": 1, "stride": 2}),
    (nn.Conv2d, (2, 3, 2), {"stride": 2}),
    (nn.Conv2d, (4, 4, 3), {"padding": 1, "groups": 2}),
    (nn.Conv2d, (4, 8, 4), {"padding": 1, "groups": 4, "stride": (2, 1)}),
    (nn.Conv2d, (2, 3, 2), {"padding": 2, "dilation": 2}),
    (nn.Conv2d, (2, 2, 3), {"padding": "same"}),
    (nn.Conv2d, (2, 3, 3), {"padding": 1, "padding_mode": "circular"}),
    (nn.Conv2d, (4, 4, 3), {"padding": 1, "padding_mode": "circular", "groups": 2}),
    (nn.Conv3d, (2, 2, 2), {"padding": 1}),
]
AOL = [(nn.Conv2d, (2, 3, 3), {"padding": 4, "dilation": 2, "stride": 3}), (nn.Conv2d, (2, 3, 2), {"stride": 3})]
ODD = [
    (nn.Conv2d, (2, 3, 3), {"padding": 1, "padding_mode": "reflect"}),
    (nn.Conv2d, (2, 3, 3), {"padding": 2, "padding_mode": "replicate", "stride": 2}),
    (nn.Conv2d, (4, 2, 3), {"padding": 1, "padding_mode": "reflect", "groups": 2}),
    (nn.Conv2d, (2, 3, 3), {"padding": 1, "padding_mode": "circular", "stride": 2}),
]
DENSE = [(nn.Linear, (5, 3), {}), (nn.Linear, (3, 5), {"bias": False}), (nn.Linear, (4, 4), {})]


def spectral(layer):
    return spectral_normalise(layer, size=None if isinstance(layer, nn.Linear) else SIZES[layer.weight.dim() - 2])


def made(kind, arguments, options, constrain):
    torch.manual_seed(0)
    return constrain(kind(*arguments, **options))


def shape_of(layer):
    return (layer.in_features,) if isinstance(layer, nn.Linear) else (layer.in_channels, *SIZES[layer.weight.dim() - 2])


ALL = [
    *((*case, constrain) for case in [*DENSE, *PLAIN] for constrain in (orthogonalise, almost_orthogonalise, spectral)),
    *((*case, almost_orthogonalise) for case in AOL),
    *((*case, spectral) for case in [*ODD, *AOL]),
]


@pytest.mark.parametrize(("kind", "arguments", "options", "constrain"), ALL)
def test_the_norm_is_at_most_one_in_training_and_proven_to_be_when_exported(kind, arguments, options, constrain):
    layer = made(kind, arguments, options, constrain)
    for _ in range(3):
        layer(torch.randn(2, *shape_of(layer))).square().mean().backward()
        with torch.no_grad():
            for p in filter(torch.numel, layer.parameters()):
                assert torch.isfinite(p.grad).all()
                p -= 0.1 * p.grad
            layer.zero_grad()
    x = torch.randn(3, *shape_of(layer))
    settle_(layer)
    layer.eval()
    plain = export(layer, x)
    assert type(plain) is kind and plain.weight.dtype == torch.float32
    torch.testing.assert_close(plain(x), layer(x), atol=3e-5, rtol=3e-5)
    assert torch.linalg.svdvals(matrix(copy.deepcopy(layer), shape_of(layer)))[0] <= 1 + 2e-6
    assert torch.linalg.svdvals(matrix(copy.deepcopy(plain), shape_of(layer)))[0] <= 1.0
    # Normalised by its norm, it is there.
    if constrain is spectral:
        assert torch.linalg.svdvals(matrix(copy.deepcopy(plain), shape_of(layer)))[0] > 0.999


@pytest.mark.parametrize(("kind", "arguments", "options", "constrain"), ALL)
def test_bound_proves_the_exported_constant_and_check_agrees(kind, arguments, options, constrain):
    layer = made(kind, arguments, options, constrain)
    x = torch.randn(1, *shape_of(layer))
    assert proven_product(export(layer, x), x) <= 1.0


@pytest.mark.parametrize(("kind", "arguments", "options"), [*DENSE, *PLAIN])
def test_orthogonal_layers_keep_norms_where_nothing_is_cropped(kind, arguments, options):
    layer = made(kind, arguments, options, orthogonalise)
    if kind is nn.Linear:
        m = layer.weight.double()
    else:
        # On a long lattice, all outputs that see an input are there.
        free = {**options, "padding": tuple(d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True))}
        free["padding_mode"] = "zeros"
        whole = kind(*arguments, **free)
        with torch.no_grad():
            whole.weight.copy_(layer.weight)
        m = matrix(whole, shape_of(layer))
    wide = m.shape[0] >= m.shape[1] and (kind is nn.Linear or layer.out_channels >= layer.in_channels * torch.tensor(layer.stride).prod())
    if wide:
        torch.testing.assert_close(m.mT @ m, torch.eye(m.shape[1], dtype=torch.float64), atol=3e-6, rtol=0)
    else:
        assert torch.linalg.svdvals(m)[0] <= 1 + 3e-6
    if kind is nn.Linear and not wide:
        torch.testing.assert_close(m @ m.mT, torch.eye(m.shape[0], dtype=torch.float64), atol=3e-6, rtol=0)


def test_almost_orthogonal_layers_are_the_formula():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=2, stride=2)
    whole = copy.deepcopy(layer)
    almost_orthogonalise(layer)
    # W'W of a lattice so long that an inner pixel sees no end, and its absolute row sums.
    size = (14, 14)
    gram = matrix(whole, (2, *size))
    sums = (gram.mT @ gram).abs().sum(1).reshape(2, *size)
    scaled = matrix(layer, (2, *size))
    ratio = (scaled.norm(dim=0) / gram.norm(dim=0)).reshape(2, *size)
    torch.testing.assert_close(ratio[:, 6:8, 6:8], sums[:, 6:8, 6:8].rsqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("constrain", [orthogonalise, almost_orthogonalise, spectral])
def test_copies_and_saved_states_compute_the_same(constrain):
    layer, x = made(*PLAIN[1], constrain).eval(), torch.randn(2, 2, 6, 7)
    again = made(nn.Conv2d, (2, 4, 3), {"padding": 1}, constrain).eval()
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x)) and torch.equal(copy.deepcopy(layer)(x), layer(x))
    before = layer(x)
    export(layer, x)
    assert torch.equal(layer(x), before)
    used = layer.weight.detach().clone()
    parametrize.remove_parametrizations(layer, "weight")
    assert torch.equal(layer.weight, used)


@pytest.mark.parametrize("constrain", [orthogonalise, almost_orthogonalise, spectral])
def test_float64_stays_float64(constrain):
    layer = made(*PLAIN[1], lambda m: constrain(m.double()))
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    assert layer(x).dtype == torch.float64
    plain = export(layer, x)
    assert plain.weight.dtype == torch.float64 and proven_product(plain, x) <= 1.0


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        orthogonalise(nn.Conv2d(1, 8, 5, 2, 2)),
        MaxMin(),
        almost_orthogonalise(nn.Conv2d(8, 16, 3, 1, 1)),
        LipschitzBatchNorm(16, "channel"),
        GroupSort(4),
        ScaledAvgPool2d(2),
        nn.PixelUnshuffle(2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        spectral_normalise(nn.Linear(64, 10)),
    )


def test_a_whole_network_is_proven_to_be_1_lipschitz():
    net, x = network(), 3 * torch.randn(16, 1, 18, 18)
    for _ in range(3):
        net(x).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.numel())
    net = settle_(net).eval()
    plain = export(net, x)
    assert not any(parametrize.is_parametrized(m) for m in plain.modules())
    torch.testing.assert_close(plain(x), net(x), atol=1e-4, rtol=1e-4)
    assert proven(plain, x) <= 1.0
    exact = plain.double()
    for point in x.double()[:4, None]:
        jacobian = torch.autograd.functional.jacobian(exact, point)
        assert torch.linalg.matrix_norm(jacobian.reshape(10, -1), 2) <= 1.0


def test_a_layer_used_at_two_sizes_or_twice_is_proven_at_each():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = spectral_normalise(nn.Conv2d(1, 1, 3, padding=1), size=4)
            self.same = self.conv

        def forward(self, x):
            return self.same(self.conv(x)[:, :, :3, :3])

    x = torch.randn(1, 1, 6, 6)
    plain = export(Twice(), x, tolerance=0.5)
    assert plain.conv is plain.same
    assert torch.linalg.svdvals(matrix(plain.conv, (1, 6, 6)))[0] <= 1.0


def test_group_sort_is_a_sort():
    x = torch.randn(2, 6, 3)
    expected = x.unflatten(1, (3, 2)).sort(2).values.flatten(1, 2)
    torch.testing.assert_close(MaxMin()(x), expected)
    assert torch.equal(GroupSort(3)(x), x.unflatten(1, (2, 3)).sort(2).values.flatten(1, 2))
    torch.testing.assert_close(MaxMin()(x).norm(), x.norm())


@pytest.mark.parametrize("scale", ["none", "channel", "one"])
@pytest.mark.parametrize("size", [(), (5,), (4, 4), (3, 3, 3)])
def test_batch_norm_centres_and_never_expands(scale, size):
    torch.manual_seed(0)
    norm, x = (
        LipschitzBatchNorm(3, scale, momentum=1.0),
        0.5 + torch.tensor([0.1, 1.0, 4.0]).reshape(1, 3, *[1] * len(size)) * torch.randn(64, 3, *size),
    )
    y = norm(x)
    axes = [0, *range(2, x.dim())]
    torch.testing.assert_close(y.mean(axes), torch.zeros(3), atol=1e-6, rtol=0)
    deviation = x.var(axes, correction=0).add(1e-5).sqrt()
    factors = {"none": torch.ones(3), "channel": 1 / deviation.clamp(min=1), "one": 1 / deviation.max().expand(3)}[scale]
    torch.testing.assert_close(y.std(axes, correction=0) / x.std(axes, correction=0), factors)
    norm.eval()
    plain = export(norm, x)
    assert type(plain).__module__.startswith("torch.nn")
    torch.testing.assert_close(plain(x), norm(x))
    assert proven_product(plain, x) <= 1.0


def test_pooling_keeps_the_norm_of_what_is_constant():
    pool, x = ScaledAvgPool2d((2, 3)), torch.randn(1, 2, 2, 2).repeat_interleave(2, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(pool(x).norm(), x.norm())
    torch.testing.assert_close(export(pool, x)(x), pool(x))
    assert proven(export(pool, x), x) <= 1.0


@pytest.mark.parametrize(
    ("layer", "constrain", "words"),
    [
        (lambda: nn.ReLU(), orthogonalise, "not ReLU"),
        (lambda: nn.ConvTranspose2d(2, 2, 3), spectral_normalise, "not ConvTranspose2d"),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), orthogonalise, "'reflect'"),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate"), almost_orthogonalise, "'replicate'"),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", stride=2), orthogonalise, "circular padding and stride"),
        (lambda: nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"), almost_orthogonalise, "more outputs than inputs"),
        (lambda: nn.Conv2d(2, 2, 2, stride=3), orthogonalise, "exceeds the kernel"),
        (lambda: nn.Conv2d(2, 2, 3, stride=2, dilation=2), orthogonalise, "both stride"),
        (lambda: nn.Conv2d(2, 2, 3), spectral_normalise, "spatial size"),
        (lambda: nn.Conv2d(2, 2, 3), lambda m: spectral_normalise(m, (2, 5)), "smaller than the kernel"),
        (lambda: nn.Conv2d(2, 2, 5, padding=4, padding_mode="reflect"), lambda m: spectral_normalise(m, 4), "does not fit"),
        (lambda: nn.Linear(2, 2), lambda m: spectral_normalise(m, iterations=0), "at least 1"),
        (lambda: orthogonalise(nn.Linear(2, 2)), orthogonalise, "already"),
        (lambda: nn.LazyLinear(2), orthogonalise, "has not seen an input"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_by_name(layer, constrain, words):
    with pytest.raises(ValueError, match=words):
        constrain(layer())


def test_other_bad_arguments():
    for make in (
        lambda: GroupSort(1),
        lambda: GroupSort(3)(torch.randn(2, 4)),
        lambda: LipschitzBatchNorm(0),
        lambda: LipschitzBatchNorm(3, "all"),
        lambda: LipschitzBatchNorm(3)(torch.randn(2, 4)),
        lambda: LipschitzBatchNorm(3)(torch.randn(1, 3)),
        lambda: ScaledAvgPool2d(0),
    ):
        with pytest.raises(ValueError):
            make()


def test_export_says_what_it_cannot_prove():
    layer = spectral_normalise(nn.Linear(3, 3))
    with torch.no_grad():
        layer.parametrizations.weight.original.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        export(layer, torch.randn(1, 3))

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = orthogonalise(nn.Linear(3, 3)), orthogonalise(nn.Linear(3, 3))

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="'idle'"):
        export(Idle(), torch.randn(1, 3))
