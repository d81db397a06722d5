"""Losses against their formulas, sample by sample."""

import math

import pytest
import torch

from steepest.layers import hinge_kantorovich_rubinstein, margin_cross_entropy, margins, multiclass_hinge, with_bottom


def batch(n=7, classes=4):
    torch.manual_seed(0)
    return torch.randn(n, classes).double().requires_grad_(), torch.randint(0, classes, (n,))


def test_margin_cross_entropy():
    outputs, labels = batch()
    expected = []
    for row, label in zip(outputs.detach(), labels, strict=True):
        moved = [(v.item() - 0.3 * (k == label)) / 0.2 for k, v in enumerate(row)]
        expected.append(0.2 * (math.log(sum(math.exp(v) for v in moved)) - moved[label]))
    loss = margin_cross_entropy(outputs, labels, 0.2, 0.3)
    assert loss.item() == pytest.approx(sum(expected) / len(expected))
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    plain = torch.nn.functional.cross_entropy(outputs, labels)
    torch.testing.assert_close(margin_cross_entropy(outputs, labels, 1.0), plain)


def test_margins_and_the_hinge():
    outputs, labels = batch()
    expected = torch.stack([row[k] - max(v for j, v in enumerate(row) if j != k) for row, k in zip(outputs, labels.tolist(), strict=True)])
    torch.testing.assert_close(margins(outputs, labels), expected)
    torch.testing.assert_close(multiclass_hinge(outputs, labels, 0.7), (0.7 - expected).clamp(min=0).mean())


def test_hkr():
    outputs, signs = torch.tensor([2.0, 0.5, -1.0, 0.25]), torch.tensor([1, 1, -1, -1])
    # mean -0.375 - mean 1.25, and the hinges 0, 0.5, 0, 1.25.
    assert hinge_kantorovich_rubinstein(outputs, signs, 10.0).item() == pytest.approx(-1.625 + 10 * 1.75 / 4)
    columns = torch.stack([outputs, -outputs], 1)
    both = hinge_kantorovich_rubinstein(columns, torch.stack([signs, -signs], 1), 10.0)
    assert both.item() == pytest.approx(-1.625 + 10 * 1.75 / 4)
    alone = hinge_kantorovich_rubinstein(outputs, torch.ones(4), 0.0)
    assert alone.item() == pytest.approx(-outputs.mean().item())


def test_bottom_is_the_largest_exactly_where_the_radius_is_not_certified():
    outputs, _ = batch(200)
    outputs = outputs.detach()
    for constants in (1.7, torch.rand(4, 4, generator=torch.Generator().manual_seed(1)).double() + 0.5):
        extended = with_bottom(outputs, 0.4, constants)
        assert torch.equal(extended[:, :4], outputs)
        for row, bottom in zip(outputs, extended[:, 4], strict=True):
            first = int(row.argmax())
            pairs = [constants if isinstance(constants, float) else constants[first, j].item() for j in range(4)]
            assert bottom.item() == pytest.approx(max(row[j].item() + 0.4 * pairs[j] for j in range(4) if j != first))
        assert 0 < (extended.argmax(1) == 4).float().mean() < 1


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: margin_cross_entropy(x, y, 0.0),
        lambda x, y: margin_cross_entropy(x, y, 1.0, -1.0),
        lambda x, y: margin_cross_entropy(x, y, math.nan),
        lambda x, y: margin_cross_entropy(x, y + 4),
        lambda x, y: margin_cross_entropy(x, y.float()),
        lambda x, y: margin_cross_entropy(x[:, :1], 0 * y),
        lambda x, y: margins(x, y[:-1]),
        lambda x, y: margins(x[:0], y[:0]),
        lambda x, y: multiclass_hinge(x, y, 0.0),
        lambda x, y: hinge_kantorovich_rubinstein(x[:, 0], y),
        lambda x, y: hinge_kantorovich_rubinstein(x[:, 0], torch.ones(7), -1.0),
        lambda x, y: hinge_kantorovich_rubinstein(x[:, 0], torch.ones(6)),
        lambda x, y: with_bottom(x, 0.0, 1.0),
        lambda x, y: with_bottom(x, 1.0, -1.0),
        lambda x, y: with_bottom(x, 1.0, torch.ones(3, 3)),
        lambda x, y: with_bottom(x[0], 1.0, 1.0),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError):
        call(*batch())
