"""A classifier of scikit-learn's digits that is certified against l2 perturbations of 0.25 (pixels in [0, 1]).

    python examples/digits_certified.py [--epochs 60]

Trains a network whose layers have norm one, exports it to plain layers, proves its constant, has the certificate checked, and reports
clean and certified accuracy on a quarter of the data that was held out. Needs ``pip install 'steepest[example]'``.
"""

import argparse
import math

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import steepest
from steepest.layers import MaxMin, export, margin_cross_entropy, margins, orthogonalise

RADIUS = 0.25


def network() -> nn.Module:
    """Three orthogonal layers with sorting between them."""
    return nn.Sequential(
        nn.Flatten(),
        orthogonalise(nn.Linear(64, 256)),
        MaxMin(),
        orthogonalise(nn.Linear(256, 256)),
        MaxMin(),
        orthogonalise(nn.Linear(256, 10)),
    )


def shifted(x: torch.Tensor, by: float = 0.5) -> torch.Tensor:
    """Each image moved by up to half a pixel, turned by up to 9 degrees and stretched by up to 5 %."""
    turn, stretch = 0.15 * (2 * torch.rand(len(x)) - 1), 1 + 0.05 * (2 * torch.rand(len(x)) - 1)
    grid = torch.zeros(len(x), 2, 3)
    grid[:, 0, 0] = grid[:, 1, 1] = stretch * torch.cos(turn)
    grid[:, 0, 1] = stretch * torch.sin(turn)
    grid[:, 1, 0] = -grid[:, 0, 1]
    grid[:, :, 2] = by / 4 * (2 * torch.rand(len(x), 2) - 1)
    points = nn.functional.affine_grid(grid, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, points, align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    x, test_x, y, test_y = train_test_split(images, torch.from_numpy(digits.target), test_size=0.25, random_state=0, stratify=digits.target)

    model, batch = network(), 128
    optimizer = torch.optim.Adam(model.parameters())
    total = options.epochs * (len(x) // batch)
    for step in range(total):
        if step % (len(x) // batch) == 0:
            order = torch.randperm(len(x))
        at = order[batch * (step % (len(x) // batch)) :][:batch]
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 + math.cos(math.pi * step / total))
        loss = margin_cross_entropy(model(shifted(x[at])), y[at], temperature=0.1, offset=math.sqrt(2) * RADIUS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    plain = export(model, x[:1])
    bracket = steepest.bound(plain, sample=x[:1], effort="fast", time_limit=20)
    assert steepest.check(bracket.certificate, plain, sample=x[:1]).holds
    with torch.no_grad():
        lead = margins(plain(test_x), test_y)
    radii = lead / (math.sqrt(2) * bracket.upper)
    print(f"proven constant {bracket.upper:.6f}, realised by two inputs {bracket.lower:.3f}")
    print(f"clean {(lead > 0).float().mean():.4f}, certified at {RADIUS} {(radii > RADIUS).float().mean():.4f}, of {len(lead)} test images")


if __name__ == "__main__":
    main()
