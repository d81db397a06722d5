"""Layers of norm one: time of a training step, and the norm itself, beside deel-torchlip and orthogonium.

    OMP_NUM_THREADS=1 .venv-peers-layers/bin/python benchmarks/constrained_layers.py -o benchmarks/results/constrained_layers.md

All three run in one process, in an environment of the peers' own that has steepest on its path, on the same shapes, float32, one thread. A
step is a forward pass in training mode and the gradient of all parameters and of the input; milliseconds are of the processor, medians over
rounds in which everybody has a turn. Norms are the largest singular value of the layer as a dense matrix (bias taken off), in evaluation
mode after steps of Adam that make that value larger where they can; ``exported`` is ours after ``export``.
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn

warnings.filterwarnings("ignore")


def candidates():
    """Per task: the shape of its input and who takes part."""
    import deel.torchlip as deel
    from orthogonium.layers import AdaptiveOrthoConv2d, OrthoLinear
    from orthogonium.layers import MaxMin as OrthogoniumMaxMin
    from orthogonium.layers.conv.AOL import AOLConv2D
    from orthogonium.layers.conv.SLL import SDPBasedLipschitzDense, SDPBasedLipschitzResBlock

    from steepest.layers import LipschitzBatchNorm, MaxMin, almost_orthogonalise, orthogonalise, sll, spectral_normalise

    def conv(a, b, **settings):
        return lambda: nn.Conv2d(a, b, 3, padding=1, **settings)

    def ours(make, constrain):
        return lambda: constrain(make())

    tasks = {
        "orthogonal dense, 512 to 512, batch 256": (
            (256, 512),
            {
                "steepest": ours(lambda: nn.Linear(512, 512), orthogonalise),
                "deel-torchlip": lambda: deel.SpectralLinear(512, 512),
                "orthogonium": lambda: OrthoLinear(512, 512),
            },
        ),
        "orthogonal dense, 2048 to 256, batch 256": (
            (256, 2048),
            {
                "steepest": ours(lambda: nn.Linear(2048, 256), orthogonalise),
                "deel-torchlip": lambda: deel.SpectralLinear(2048, 256),
                "orthogonium": lambda: OrthoLinear(2048, 256),
            },
        ),
        "SLL dense, 512, hidden 512, batch 256": (
            (256, 512),
            {"steepest": lambda: sll(nn.Linear(512, 512)), "orthogonium": lambda: SDPBasedLipschitzDense(512, 512, 512)},
        ),
        "MaxMin, 64 x 16 x 16, batch 32": (
            (32, 64, 16, 16),
            {"steepest": MaxMin, "deel-torchlip": deel.MaxMin, "orthogonium": OrthogoniumMaxMin},
        ),
        "batch norm, 64 x 16 x 16, batch 32": (
            (32, 64, 16, 16),
            {"steepest": lambda: LipschitzBatchNorm(64), "deel-torchlip": lambda: deel.BatchCentering(64)},
        ),
    }
    for a, b, n, batch, stride in ((64, 64, 16, 32, 1), (128, 128, 8, 64, 1), (64, 128, 16, 32, 2)):
        shape, where = (batch, a, n, n), f"{a} to {b}, {n} x {n}, stride {stride}, batch {batch}"
        tasks[f"orthogonal convolution, {where}"] = (
            shape,
            {
                "steepest": ours(conv(a, b, stride=stride), orthogonalise),
                "orthogonium": lambda a=a, b=b, s=stride: AdaptiveOrthoConv2d(a, b, 3, stride=s, padding=1, padding_mode="zeros"),
            },
        )
        tasks[f"spectral convolution, {where}"] = (
            shape,
            {
                "steepest": ours(conv(a, b, stride=stride), lambda m, n=n: spectral_normalise(m, n)),
                "deel-torchlip": lambda a=a, b=b, s=stride: deel.SpectralConv2d(a, b, 3, stride=s, padding=1),
            },
        )
        tasks[f"AOL convolution, {where}"] = (
            shape,
            {
                "steepest": ours(conv(a, b, stride=stride), almost_orthogonalise),
                "orthogonium": lambda a=a, b=b, s=stride: AOLConv2D(a, b, 3, stride=s, padding=1, padding_mode="zeros"),
            },
        )
        if stride == 1:
            tasks[f"SLL block, {where}"] = (
                shape,
                {
                    "steepest": lambda a=a: sll(nn.Conv2d(a, a, 3, padding=1)),
                    "orthogonium": lambda a=a: SDPBasedLipschitzResBlock(a, 1, 3),
                },
            )
    return tasks


def step(layer, x):
    y = layer(x)
    y.backward(torch.ones_like(y))


def times(shape, makers, rounds):
    x = torch.randn(shape).requires_grad_()
    layers, found = {}, {who: [] for who in makers}
    for who, make in makers.items():
        torch.manual_seed(0)
        layers[who] = make().train()
        step(layers[who], x)
    for _ in range(rounds):
        for who, layer in layers.items():
            started = time.process_time()
            step(layer, x)
            step(layer, x)
            found[who].append((time.process_time() - started) / 2)
    return {who: 1e3 * statistics.median(seconds) for who, seconds in found.items()}


def norms():
    """Per setting of a convolution: the norm of each library's layer."""
    import deel.torchlip as deel
    from orthogonium.layers import AdaptiveOrthoConv2d
    from orthogonium.layers.conv.AOL import AOLConv2D

    from steepest.layers import almost_orthogonalise, export, orthogonalise, settle_, spectral_normalise

    settings = {
        "zeros": {"padding": 1, "padding_mode": "zeros"},
        "zeros, stride 2": {"padding": 1, "padding_mode": "zeros", "stride": 2},
        "zeros, groups 2": {"padding": 1, "padding_mode": "zeros", "groups": 2},
        "circular": {"padding": 1, "padding_mode": "circular"},
        "circular, stride 2": {"padding": 1, "padding_mode": "circular", "stride": 2},
        "reflect": {"padding": 1, "padding_mode": "reflect"},
        "replicate": {"padding": 1, "padding_mode": "replicate"},
    }
    makers = {
        "steepest, orthogonal": lambda s: orthogonalise(nn.Conv2d(8, 8, 3, **s)),
        "steepest, AOL": lambda s: almost_orthogonalise(nn.Conv2d(8, 8, 3, **s)),
        "steepest, spectral": lambda s: spectral_normalise(nn.Conv2d(8, 8, 3, **s), 8),
        "deel-torchlip, SpectralConv2d": lambda s: deel.SpectralConv2d(8, 8, 3, **s),
        "orthogonium, AOLConv2D": lambda s: AOLConv2D(8, 8, 3, **s),
        "orthogonium, AdaptiveOrthoConv2d": lambda s: AdaptiveOrthoConv2d(8, 8, 3, **s),
    }
    rows = {}
    for who, make in makers.items():
        for name, setting in settings.items():
            torch.manual_seed(0)
            try:
                layer = make(setting).train()
            except Exception:
                rows[who, name] = "refused"
                continue
            optimizer, x = torch.optim.Adam(layer.parameters(), 0.05), torch.randn(1, 8, 8, 8)
            for _ in range(60):
                # Along the steepest input so far, towards a steeper layer.
                x = (x / x.norm()).requires_grad_()
                loss = -(layer(x) - layer(torch.zeros_like(x))).norm()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                x = x.grad.detach()
            layer.eval()
            rows[who, name] = f"{largest(layer):.6f}"
            if who.startswith("steepest"):
                rows[who, name] += f" (exported {largest(export(settle_(layer), x)):.6f})"
    return makers, settings, rows


@torch.no_grad()
def largest(layer, shape=(8, 8, 8)):
    # In float32, as it is used: the columns are exact up to its rounding.
    unit = torch.eye(math.prod(shape)).reshape(-1, *shape)
    return torch.linalg.matrix_norm((layer(unit) - layer(torch.zeros(1, *shape))).flatten(1).double(), 2).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="src", help="folder that holds the package steepest")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, options.source)
    torch.set_num_threads(1)
    people = ("steepest", "deel-torchlip", "orthogonium")
    lines = ["# Layers of norm one", "", "Milliseconds of the processor for a training step; smaller is better.", ""]
    lines += [f"| task | {' | '.join(people)} |", f"|---|{'---|' * len(people)}"]
    for task, (shape, makers) in candidates().items():
        found = times(shape, makers, options.rounds)
        lines.append(f"| {task} | " + " | ".join(f"{found[p]:.2f}" if p in found else "" for p in people) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    makers, settings, rows = norms()
    lines += [
        "",
        "Norm of a 3 x 3 convolution of 8 channels on 8 x 8 after 60 steps that make it larger where it can be;",
        "what is above 1 is no 1-Lipschitz layer.",
        "",
    ]
    lines += [f"| layer | {' | '.join(settings)} |", f"|---|{'---|' * len(settings)}"]
    lines += [f"| {who} | " + " | ".join(rows[who, s] for s in settings) + " |" for who in makers]
    text = "\n".join(lines) + "\n"
    if options.output:
        options.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
