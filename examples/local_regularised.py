"""An ordinary ReLU network trained with its local Lipschitz constants held down, and one without: their certified radii.

    python examples/local_regularised.py [--weight 0.02] [--inputs 40]

The penalty is the squared norm of the gradient of the margin, at points drawn from a ball around each input: where it is small the local
constant is, and the radius is margin over local constant. Radii are proven by ``steepest.certify`` on held-out digits of scikit-learn.
Needs ``pip install 'steepest[example]'``.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

import steepest
from steepest.layers import margins

RADIUS = 0.25


def local_penalty(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient of the margin at a random point of the ball."""
    direction = torch.randn_like(x)
    point = (x + RADIUS * torch.rand(len(x), 1) * direction / direction.norm(dim=1, keepdim=True)).requires_grad_()
    (gradient,) = torch.autograd.grad(margins(model(point), y).sum(), point, create_graph=True)
    return gradient.square().sum(1).mean()


def train(x: torch.Tensor, y: torch.Tensor, weight: float, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for at in torch.randperm(len(x)).split(64):
            loss = functional.cross_entropy(model(x[at]), y[at])
            if weight > 0:
                loss = loss + weight * local_penalty(model, x[at], y[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weight", type=float, default=0.02)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--inputs", type=int, default=40)
    options = parser.parse_args()
    digits = load_digits()
    data, target = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    x, test_x, y, test_y = train_test_split(data, target, test_size=0.25, random_state=0, stratify=digits.target)
    for weight in (0.0, options.weight):
        model = train(x, y, weight, options.epochs)
        with torch.no_grad():
            clean = (margins(model(test_x), test_y) > 0).float().mean().item()
        found = steepest.certify(model, test_x[: options.inputs], test_y[: options.inputs], radius=RADIUS, effort="fast")
        certified, attacked = found.certified_accuracy(RADIUS), found.attacked_accuracy(RADIUS)
        print(
            f"weight {weight:g}: clean {clean:.4f}; of {len(found.inputs)} inputs certified at {RADIUS} {certified:.3f} (attacks leave "
            f"{attacked:.3f}), median radius {found.median_radius:.3f} (attacks {found.median_attack:.3f})"
        )


if __name__ == "__main__":
    main()
