"""A classifier of CIFAR-10 that is certified against l2 perturbations of 36/255 (pixels in [0, 1]).

    python examples/cifar_certified.py TRAIN TEST [--minutes 15] [-o cifar.safetensors]

TRAIN and TEST are a ``.npz`` with x (uint8 or in [0, 1], ``[n, 3, 32, 32]``) and y, or a ``.bin`` batch of the binary version. Trains a
convolutional network whose layers have norm one, exports it to plain layers, proves its constant, has the certificate checked, and
reports clean and certified accuracy. One thread; minutes are of the processor.
"""

import argparse
import math
import time

import torch
from safetensors.torch import save_file
from torch import nn

import steepest
from steepest.capture.data import load_data
from steepest.layers import MaxMin, export, margin_cross_entropy, margins, orthogonalise

RADIUS = 36 / 255


def network(width: int = 32) -> nn.Module:
    """Space to depth before each of three orthogonal convolutions, and two dense layers."""
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        orthogonalise(nn.Conv2d(12, width, 3, padding=1)),
        MaxMin(),
        nn.PixelUnshuffle(2),
        orthogonalise(nn.Conv2d(4 * width, 2 * width, 3, padding=1)),
        MaxMin(),
        nn.PixelUnshuffle(2),
        orthogonalise(nn.Conv2d(8 * width, 4 * width, 3, padding=1)),
        MaxMin(),
        nn.Flatten(),
        orthogonalise(nn.Linear(64 * width, 256)),
        MaxMin(),
        orthogonalise(nn.Linear(256, 10)),
    )


def images(source: str) -> tuple[torch.Tensor, torch.Tensor]:
    """In [0, 1], with labels."""
    data = load_data(source)
    x = torch.from_numpy(data.x)
    return x.float() / 255 if x.dtype == torch.uint8 else x.float(), torch.as_tensor(data.y).long()


def varied(x: torch.Tensor, by: int = 3) -> torch.Tensor:
    """Half of the images mirrored, all moved by up to three pixels."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    rows, columns = torch.randint(-by, by + 1, (2,)).tolist()
    return torch.roll(x, (rows, columns), (2, 3))


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
        loss = margin_cross_entropy(model(varied(x[at])), y[at], temperature=0.2, offset=4 * RADIUS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("-o", "--output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (x, y), (test_x, test_y) = (images(source) for source in (options.train, options.test))

    model = network()
    train(model, x, y, options.minutes)
    plain = export(model, x[:1])
    bracket = steepest.bound(plain, sample=x[:1], effort="fast", time_limit=60)
    assert steepest.check(bracket.certificate, plain, sample=x[:1]).holds
    with torch.no_grad():
        lead = torch.cat([margins(plain(part), labels) for part, labels in zip(test_x.split(500), test_y.split(500), strict=True)])
    radii = lead / (math.sqrt(2) * bracket.upper)
    print(f"proven constant {bracket.upper:.6f}, realised by two inputs {bracket.lower:.3f}")
    print(f"clean {(lead > 0).float().mean():.4f}, certified at 36/255 {(radii > RADIUS).float().mean():.4f}, of {len(lead)} test images")
    print(f"{time.process_time() / 60:.1f} minutes of the processor in all")
    if options.output:
        save_file(plain.state_dict(), options.output)


if __name__ == "__main__":
    main()
