"""ResNet-18, CIFAR and ImageNet shape, random and briefly trained: product of norms, LipSDP by channels, checked.

    python benchmarks/resnet18.py -o benchmarks/results/resnet18.md
    python benchmarks/resnet18.py --one --shape cifar --train 200

The trained weights come from CIFAR-10 images in ``$STEEPEST_SHARED/data/cifar10`` (enlarged for the ImageNet shape).
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import steepest
from steepest.bounds import Product
from steepest.bounds.lipsdp import ChannelLipSDP
from steepest.capture.load import load
from steepest.numerics.deadline import Deadline
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain

SHARED = Path(os.environ.get("STEEPEST_SHARED", Path(__file__).resolve().parents[1] / "../shared"))


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.norm2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.skip = nn.Identity()
        if stride > 1 or inside != outside:
            self.skip = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.skip(x))


def resnet18(shape: str) -> nn.Sequential:
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    if shape == "imagenet":
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    widths, blocks = (64, 64, 128, 256, 512), []
    for inside, outside in pairwise(widths):
        blocks += [Block(inside, outside, 1 if inside == outside else 2), Block(outside, outside, 1)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10 if shape == "cifar" else 1000))
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return model


def training_images() -> list[Path]:
    return sorted((SHARED / "data" / "cifar10").glob("*train*.npz"))


def train(model: nn.Module, shape: str, steps: int) -> float:
    data = np.load(training_images()[0])
    x, y = torch.from_numpy(data["x"]).float() / 255.0, torch.from_numpy(data["y"]).long()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=5e-4)
    batch, size, loss = (64, 32, 0.0) if shape == "cifar" else (8, 224, 0.0)
    model.train()
    for step in range(steps):
        pick = torch.randint(len(x), (batch,), generator=torch.Generator().manual_seed(step))
        images = x[pick] if size == 32 else F.interpolate(x[pick], size=(size, size), mode="bilinear")
        value = F.cross_entropy(model((images - 0.5) / 0.25), y[pick])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        loss = value.item() if not loss else 0.95 * loss + 0.05 * value.item()
    return loss


RUNS = (("cifar", 0), ("cifar", 200), ("imagenet", 0), ("imagenet", 20))
COLUMNS = (
    "shape",
    "steps",
    "loss",
    "product",
    "upper",
    "checked",
    "times smaller",
    "seconds",
    "check seconds",
    "whole seconds",
    "peak GiB",
)


def table(rows: list[dict[str, object]]) -> str:
    def cell(x: object) -> str:
        return "" if x is None else f"{x:.5g}" if isinstance(x, float) else str(x)

    lines = [
        "# ResNet-18: LipSDP by channels against the product of norms",
        "",
        "`python benchmarks/resnet18.py`; global l2 bounds, two cores.",
        "",
    ]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---:|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(cell(row[c]) for c in COLUMNS)} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", action="store_true", help="one run, in this process")
    parser.add_argument("--shape", choices=("cifar", "imagenet"), default="cifar")
    parser.add_argument("--train", type=int, default=0, help="steps of training")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for the multipliers")
    parser.add_argument("-o", type=Path)
    args = parser.parse_args()
    if args.one:
        result = measure(args)
        print(json.dumps(result, indent=1))
        if args.o:
            args.o.write_text(json.dumps(result, indent=1))
        return
    rows = []
    for shape, steps in RUNS:
        if steps and not training_images():
            print(f"there are no images to train with in {SHARED / 'data' / 'cifar10'}: set STEEPEST_SHARED")
            continue
        command = [sys.executable, __file__, "--one", "--shape", shape, "--train", str(steps), "--limit", str(args.limit)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append(json.loads(found[found.index("{") :]))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    if args.o:
        args.o.write_text(table(rows))


def measure(args: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    model = resnet18(args.shape)
    loss = train(model, args.shape, args.train) if args.train else None
    size = 32 if args.shape == "cifar" else 224
    started = time.perf_counter()
    graph = load(model.eval(), input_shape=(3, size, size)).graph
    domain = Domain("all")
    captured = time.perf_counter() - started
    product = Product().bound(graph, domain, 2.0)
    print(f"capture {captured:.1f} s, product {product.value:.6g} in {product.seconds:.1f} s", flush=True)
    upper = ChannelLipSDP(deadline=Deadline.after(args.limit)).bound(graph, domain, 2.0)
    print(f"lipsdp-channel {upper.value:.6g} in {upper.seconds:.1f} s {upper.remark}", flush=True)
    record = graph.record()
    verdict = check(write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None), record)
    whole = time.perf_counter() - started
    return {
        "shape": args.shape,
        "steps": args.train,
        "loss": loss,
        "product": product.value,
        "upper": upper.value,
        "checked": verdict.upper,
        "times smaller": product.value / max(upper.value, verdict.upper),
        "seconds": upper.seconds,
        "check seconds": verdict.seconds,
        "whole seconds": whole,
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "history": [h for k, h in enumerate(upper.history) if math.log2(k + 1).is_integer()],
        "reasons": verdict.reasons,
        "version": steepest.__version__,
    }


if __name__ == "__main__":
    main()
