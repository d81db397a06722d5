"""Initialisations against what defines them."""

import pytest
import torch
from torch import nn

from steepest.init import delta_orthogonal_, fixup_, lsuv_, orthogonal_
from steepest.layers import weight_standardise


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (5, 3), (3, 3, 3), (2, 2)])
def test_delta_orthogonal_is_an_isometry_with_padding(kernel):
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)](3, 5, kernel, padding="same", bias=False, dtype=torch.float64)
    assert delta_orthogonal_(conv.weight, gain=1.5) is conv.weight
    x = torch.randn(2, 3, *(6,) * len(kernel), dtype=torch.float64)
    if kernel != (2, 2):
        torch.testing.assert_close(conv(x).flatten(1).norm(dim=1), 1.5 * x.flatten(1).norm(dim=1))
    filled = conv.weight.flatten(2).abs().sum((0, 1)) > 0
    assert filled.sum() == 1


def test_delta_orthogonal_with_fewer_outputs_and_groups():
    narrow = nn.Conv2d(5, 3, 3)
    delta_orthogonal_(narrow.weight)
    centre = narrow.weight[:, :, 1, 1].detach()
    torch.testing.assert_close(centre @ centre.T, torch.eye(3))
    grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
    delta_orthogonal_(grouped.weight, groups=2)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(grouped(x).norm(), x.norm())
    assert not torch.allclose(grouped.weight[:4], grouped.weight[4:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_and_generators(dtype):
    made = [orthogonal_(m := nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(4, 4)).to(dtype), generator=_seed(3)) and m for _ in range(2)]
    assert all(p.dtype == dtype for p in made[0].parameters())
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))


def _seed(number):
    return torch.Generator().manual_seed(number)


def test_delta_orthogonal_refuses():
    with pytest.raises(ValueError, match=r"torch.nn.init.orthogonal_"):
        delta_orthogonal_(torch.empty(3, 3))
    with pytest.raises(ValueError, match="groups"):
        delta_orthogonal_(torch.empty(3, 3, 3), groups=2)
    with pytest.raises(ValueError, match="negative"):
        delta_orthogonal_(torch.empty(3, 3, 3), gain=-1)


def test_orthogonal_names_what_it_did_and_refuses_what_it_cannot():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    assert orthogonal_(model, gain=2.0) == ("0", "2.0")
    torch.testing.assert_close(model[0].weight.T @ model[0].weight, 4 * torch.eye(3))
    assert model[0].bias.abs().max() == 0
    with pytest.raises(ValueError, match="no Linear"):
        orthogonal_(nn.ReLU())
    with pytest.raises(ValueError, match="no shape yet"):
        orthogonal_(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ValueError, match="parametrised"):
        orthogonal_(nn.Sequential(weight_standardise(nn.Linear(3, 3))))


class Branching(nn.Module):
    """Registered in another order than it runs."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 3)
        self.first = nn.Conv2d(1, 4, 3)
        self.unused = nn.Linear(2, 2)
        self.norm = nn.BatchNorm2d(4)
        self.middle = nn.Linear(16, 8)

    def forward(self, x):
        return self.last(torch.tanh(self.middle(torch.relu(self.norm(self.first(x))).flatten(1))))


@pytest.mark.parametrize("start", [True, False])
def test_lsuv_gives_every_layer_unit_variance_in_the_order_in_which_they_run(start):
    model, x = Branching(), 7 * torch.randn(64, 1, 4, 4)
    unused = model.unused.weight.detach().clone()
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    done = lsuv_(model, x, tolerance=0.02, start_orthogonal=start)
    assert [layer.name for layer in done] == ["first", "middle", "last"]
    outputs = {}
    for name in ("first", "middle", "last"):
        getattr(model, name).register_forward_hook(lambda m, a, out, name=name: outputs.update({name: out}))
    model(x)
    for layer in done:
        assert outputs[layer.name].var(correction=0).item() == pytest.approx(1, abs=0.02)
        assert layer.after == pytest.approx(1, abs=0.02)
        if start:
            assert layer.iterations <= 1 and layer.after / layer.before == pytest.approx(layer.factor**2, rel=1e-4)
    if not start:
        assert torch.equal(model.unused.weight, unused)
        assert {k: v.item() for k, v in buffers.items() if v.dim() == 0} == {"norm.num_batches_tracked": 0}
    assert model.training and not any(p.requires_grad is False for p in model.parameters())


def test_lsuv_leaves_buffers_and_says_what_cannot_be_scaled():
    model = Branching()
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    lsuv_(model, torch.randn(8, 1, 4, 4))
    assert all(torch.equal(v, buffers[k]) for k, v in model.named_buffers())
    with pytest.raises(ValueError, match=r"'first'.*constant"):
        lsuv_(Branching(), torch.zeros(8, 1, 4, 4))
    with pytest.raises(ValueError, match="tolerance"):
        lsuv_(Branching(), torch.randn(8, 1, 4, 4), tolerance=0)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("blocks", [1, 16, 81])
def test_fixup_scales_by_the_number_of_branches(blocks):
    branches = [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(blocks)]
    head = nn.Linear(64, 10)
    done = fixup_(branches, head)
    assert len(done) == blocks and done[0].layers == ("0", "2", "4")
    assert done[0].scale == pytest.approx(blocks ** (-1 / 4))
    assert branches[0][4].weight.abs().max() == 0 and head.weight.abs().max() == 0
    assert branches[-1][2].weight.std().item() == pytest.approx((2 / 64) ** 0.5 * blocks ** (-1 / 4), rel=0.05)


def test_one_step_of_fixup_changes_the_output_alike_at_any_depth():
    changes = []
    for depth in (4, 64):
        torch.manual_seed(0)
        blocks = nn.ModuleList(nn.Sequential(nn.Linear(32, 32, bias=False), nn.ReLU(), nn.Linear(32, 32, bias=False)) for _ in range(depth))
        head = nn.Linear(32, 1)
        nn.init.ones_(head.weight)
        fixup_(list(blocks))

        def run(x, blocks=blocks, head=head):
            for block in blocks:
                x = x + block(x)
            return head(x)

        x = torch.randn(16, 32)
        parameters = [*blocks.parameters()]
        before = run(x).sum()
        gradients = torch.autograd.grad(before, parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= 1e-5 * g
            changes.append(abs((run(x).sum() - before).item()))
    assert 0.3 < changes[1] / changes[0] < 3


def test_fixup_needs_branches():
    with pytest.raises(ValueError, match="at least one"):
        fixup_([])
