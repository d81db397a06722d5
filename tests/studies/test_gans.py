"""Stacked networks, spectral normalisation and Adam against torch's own; modes and Frechet distances where they are known."""

import pytest
import torch
from torch import nn

from steepest.studies.gan_stability import SPREAD, centres, eight_gaussians, frechet, modes_and_quality
from steepest.studies.gans import SLOPE, Gans, Setting, SpectralNormalisation, Stack, _Adam


def test_a_stack_is_its_networks():
    stack = Stack((3, 5, 4, 2), [0, 1, 0])
    x = torch.randn(3, 7, 3, generator=torch.Generator().manual_seed(0))
    out = stack(x)
    for k in range(3):
        layers = []
        for w, b in zip(stack.weights, stack.biases, strict=True):
            layer = nn.Linear(w.shape[2], w.shape[1])
            layer.load_state_dict({"weight": w[k].detach(), "bias": b[k, 0].detach()})
            layers += [layer, nn.LeakyReLU(SLOPE)]
        torch.testing.assert_close(out[k], nn.Sequential(*layers[:-1])(x[k]))
    assert torch.equal(stack.weights[0][0], stack.weights[0][2]) and not torch.equal(stack.weights[0][0], stack.weights[0][1])


def test_spectral_normalisation():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 6, 4, generator=generator), torch.randn(3, 1, 6, generator=generator)]
    normal = SpectralNormalisation(weights, [None, 1.0, 5.0])
    for _ in range(300):
        normal.step(weights)
    first, second = normal(weights)
    assert torch.equal(first[0], weights[0][0]) and torch.equal(second[0], weights[1][0])
    sigma = torch.linalg.matrix_norm(first, 2)
    assert sigma[1:].tolist() == pytest.approx([1.0, 5.0], rel=1e-4)
    assert torch.linalg.matrix_norm(second, 2)[1:].tolist() == pytest.approx([1.0, 1.0], rel=1e-4)


def test_adam_with_a_rate_for_each():
    generator = torch.Generator().manual_seed(0)
    start, rates = torch.randn(2, 3, 4, generator=generator), torch.tensor([0.01, 0.1])
    mine, theirs = start.clone(), [nn.Parameter(start[k].clone()) for k in range(2)]
    adam = _Adam([mine], rates[:, None, None])
    others = [torch.optim.Adam([p], float(r), betas=(0.5, 0.999)) for p, r in zip(theirs, rates, strict=True)]
    for _ in range(5):
        gradient = torch.randn(2, 3, 4, generator=generator)
        adam.step([gradient])
        for k, other in enumerate(others):
            theirs[k].grad = gradient[k]
            other.step()
    torch.testing.assert_close(mine, torch.stack([p.detach() for p in theirs]))


def test_training_moves_both_and_is_the_same_again():
    def trained():
        gans = Gans([Setting(0.01, c, s) for c in (None, 1.0) for s in (0, 1)], 2, (4,), 2, 8)
        before = [p.clone() for p in (*gans.generator.parameters, *gans.critic.parameters)]
        gans.train(eight_gaussians, 3, lambda step: None)
        return before, [p.detach() for p in (*gans.generator.parameters, *gans.critic.parameters)]

    before, after = trained()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(after, trained()[1], strict=True))


def test_modes():
    good = centres().repeat_interleave(10, 0) + 0.5 * SPREAD
    made = torch.stack([good, torch.zeros(80, 2), centres()[:1].expand(80, 2), torch.cat([good[:40], torch.full((40, 2), 9.0)])])
    modes, quality = modes_and_quality(made)
    assert modes.tolist() == [8, 0, 1, 4] and quality.tolist() == [1.0, 0.0, 1.0, 0.5]
    data = eight_gaussians(torch.Generator().manual_seed(0), 4000)
    modes, quality = modes_and_quality(data[None])
    # A share exp(-9 / 2) of a Gaussian in the plane lies beyond three deviations.
    assert modes.item() == 8 and quality.item() == pytest.approx(0.989, abs=0.01)


def test_frechet_distance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet(x, x + 2.0) == pytest.approx(12.0)
    # On one axis: difference of means and of deviations, squared.
    line = x[:, :1]
    assert frechet(torch.cat([line, line], 1), torch.cat([3 * line, line], 1)) == pytest.approx(
        ((2 * line.mean()) ** 2).item() + frechet_line(line), rel=1e-6
    )


def frechet_line(line):
    """For (x, x) and (3 x, x): traces 2 v and 10 v, and the root of the one eigenvalue of C C', (4 v)^2."""
    v = line.var().item()
    return 2 * v + 10 * v - 2 * 4 * v
