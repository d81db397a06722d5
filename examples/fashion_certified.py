"""A classifier of Fashion-MNIST that is certified against l2 perturbations of 0.5 (pixels in [0, 1]).

    python examples/fashion_certified.py FOLDER [--minutes 4] [-o fashion.safetensors]

FOLDER holds the four idx files, plain or .gz. Trains a network whose layers have norm one, exports it to plain layers, proves its
constant, has the certificate checked, and reports clean and certified accuracy over the whole test set. One thread; minutes are of the
processor.
"""

import argparse
import math
import time

import torch
from safetensors.torch import save_file
from torch import nn

import steepest
from steepest.capture.image_files import read_mnist
from steepest.layers import MaxMin, export, margin_cross_entropy, margins, orthogonalise

RADIUS = 0.5


def network(width: int = 1024) -> nn.Module:
    """Three orthogonal dense layers with sorting between them."""
    return nn.Sequential(
        nn.Flatten(),
        orthogonalise(nn.Linear(784, width)),
        MaxMin(),
        orthogonalise(nn.Linear(width, 512)),
        MaxMin(),
        orthogonalise(nn.Linear(512, 10)),
    )


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, minutes: float, batch: int = 256) -> None:
    """Adam with a rate that falls to nothing as the time runs out."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    begin, step = time.process_time(), 0
    while (done := (time.process_time() - begin) / (60 * minutes)) < 1:
        if step % (len(x) // batch) == 0:
            order = torch.randperm(len(x))
            print(f"{done:4.0%} of the time, {step // (len(x) // batch)} epochs", flush=True)
        at = order[batch * (step % (len(x) // batch)) :][:batch]
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1.0, step / 100) * (1 + math.cos(math.pi * done)) / 2
        loss = margin_cross_entropy(model(x[at]), y[at], temperature=0.1, offset=2 * RADIUS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("-o", "--output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (x, y), (test_x, test_y) = (map(torch.from_numpy, read_mnist(options.folder, split)) for split in ("train", "test"))

    model = network()
    train(model, x, y, options.minutes)
    plain = export(model, x[:1])
    bracket = steepest.bound(plain, sample=x[:1], effort="fast", time_limit=60)
    assert steepest.check(bracket.certificate, plain, sample=x[:1]).holds
    with torch.no_grad():
        lead = torch.cat([margins(plain(part), labels) for part, labels in zip(test_x.split(500), test_y.split(500), strict=True)])
    radii = lead / (math.sqrt(2) * bracket.upper)
    print(f"proven constant {bracket.upper:.6f}, realised by two inputs {bracket.lower:.3f}")
    print(f"clean {(lead > 0).float().mean():.4f}, certified at {RADIUS} {(radii > RADIUS).float().mean():.4f}, of {len(lead)} test images")
    print(f"{time.process_time() / 60:.1f} minutes of the processor in all")
    if options.output:
        save_file(plain.state_dict(), options.output)


if __name__ == "__main__":
    main()
