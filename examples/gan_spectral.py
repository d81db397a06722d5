"""A generative adversarial network on eight Gaussians, with a discriminator of norm one, or without.

    python examples/gan_spectral.py [--steps 4000] [--plain]

Both sides are small dense networks. With spectral normalisation the discriminator is 1-Lipschitz, which is proven at the end for its
export; ``--plain`` leaves it free. Reported are the number of Gaussians that samples reach, and the share of samples within three
deviations of one.
"""

import argparse
import itertools
import math

import torch
from torch import nn
from torch.nn import functional

import steepest
from steepest.layers import export, spectral_normalise

DEVIATION = 0.05


def real(count: int) -> torch.Tensor:
    """Points around the corners of an octagon of radius two."""
    angle = torch.randint(0, 8, (count,)) * (math.pi / 4)
    return 2 * torch.stack((angle.cos(), angle.sin()), 1) + DEVIATION * torch.randn(count, 2)


def dense(sizes: list[int], constrain: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layer = nn.Linear(a, b)
        layers += [spectral_normalise(layer) if constrain else layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def covered(points: torch.Tensor) -> tuple[int, float]:
    """How many Gaussians have a hundredth of the samples or more, and the share of samples near one."""
    angle = torch.arange(8) * (math.pi / 4)
    distance, nearest = torch.cdist(points, 2 * torch.stack((angle.cos(), angle.sin()), 1)).min(1)
    near = distance < 3 * DEVIATION
    return int((nearest[near].bincount(minlength=8) >= len(points) / 100).sum()), near.float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--scale", type=float, default=10.0, help="of the discriminator's output in the loss; its constant")
    options = parser.parse_args()
    torch.manual_seed(0)
    generator = dense([8, 128, 128, 2], constrain=False)
    discriminator = dense([2, 128, 128, 128, 1], constrain=not options.plain)
    scale = 1.0 if options.plain else options.scale
    optimizers = [torch.optim.Adam(m.parameters(), rate, betas=(0.0, 0.9)) for m, rate in ((generator, 5e-4), (discriminator, 2e-3))]
    for step in range(options.steps):
        with torch.no_grad():
            fake = generator(torch.randn(128, 8))
        loss = functional.softplus(-scale * discriminator(real(128))).mean() + functional.softplus(scale * discriminator(fake)).mean()
        _step(optimizers[1], loss)
        loss = functional.softplus(-scale * discriminator(generator(torch.randn(128, 8)))).mean()
        _step(optimizers[0], loss)
        if (step + 1) % max(1, options.steps // 4) == 0:
            with torch.no_grad():
                modes, share = covered(generator(torch.randn(4000, 8)))
            print(f"step {step + 1}: {modes} of 8 Gaussians, {share:.2f} of the samples near one")
    plain = discriminator if options.plain else export(discriminator, real(1))
    bracket = steepest.bound(plain, sample=real(1), effort="fast", time_limit=20)
    print(f"the discriminator's constant is between {bracket.lower:.4g} and {bracket.upper:.4g}")


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()
