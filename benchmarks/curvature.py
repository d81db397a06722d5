"""The largest Hessian eigenvalue: steepest beside curvlinops with scipy's eigsh, and beside the dense Hessian, on the same networks.

    OMP_NUM_THREADS=1 python benchmarks/curvature.py --peers .venv-peers/bin/python -o benchmarks/results/curvature.md

Both get the same network (trained for some steps on scikit-learn's digits), the same batch, loss and tolerance (the residual as a part of
the eigenvalue), float32 and one thread, each in a process of its own, one after the other. Seconds are CPU time, medians, all included: the
forward pass, the gradient's graph, the products, and the linear algebra in between. eigsh is shown with its own number of basis vectors,
20, and with 8, where it can stop sooner.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

TOLERANCES = (1e-4, 1e-2)
BASES = (20, 8)


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 10))


def wide_mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))


def cnn():
    body = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(64, 10))


def wide_cnn():
    body = []
    for inside, out in ((1, 32), (32, 32), (32, 64), (64, 64)):
        body += [nn.Conv2d(inside, out, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))


# Name: the network, its batch, whether its Hessian is formed.
CASES = {"mlp": (mlp, 512, True), "cnn": (cnn, 512, True), "wide mlp": (wide_mlp, 256, False), "wide cnn": (wide_cnn, 256, False)}


def data(count):
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.data[:count] / 16.0).float().reshape(-1, 1, 8, 8)
    return x, torch.from_numpy(digits.target[:count]).long()


def trained(name, steps):
    """A network after some steps of gradient descent with momentum, the same wherever it is made."""
    torch.manual_seed(0)
    build, count, _ = CASES[name]
    model, (x, y) = build(), data(1500)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for k in range(steps):
        rows = torch.arange(100 * k, 100 * (k + 1)) % len(x)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model, (x[:count], y[:count])


def timed(function, repeat):
    function()
    seconds = []
    for _ in range(repeat):
        started = time.process_time()
        value = function()
        seconds.append(time.process_time() - started)
    return value, statistics.median(seconds)


def gradient_seconds(model, batch, repeat):
    parameters = tuple(model.parameters())
    return timed(lambda: torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), parameters), 3 * repeat)[1]


def ours(model, batch, repeat):
    from steepest.measures.hessian import hessian_eigenvalues

    rows = {}
    for tolerance in TOLERANCES:
        found, seconds = timed(lambda t=tolerance: hessian_eigenvalues(model, F.cross_entropy, batch, tolerance=t), repeat)
        rows[str(tolerance)] = {"value": found.values[0].item(), "seconds": seconds, "products": found.products}
    return rows


def curvlinops_eigsh(model, batch, repeat):
    import numpy as np
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    rows = {}
    start = np.random.default_rng(0).standard_normal(sum(p.numel() for p in model.parameters())).astype(np.float32)
    for tolerance, basis in ((t, b) for t in TOLERANCES for b in BASES):
        products = 0

        def solve(tolerance=tolerance, basis=basis):
            nonlocal products
            products = 0
            found = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [batch], check_deterministic=False)
            hessian = found.to_scipy()

            def times(v):
                nonlocal products
                products += 1
                return hessian @ v

            counted = LinearOperator(hessian.shape, matvec=times, dtype=hessian.dtype)
            return float(eigsh(counted, k=1, which="LA", tol=tolerance, v0=start, ncv=basis, return_eigenvectors=False)[0])

        value, seconds = timed(solve, repeat)
        rows[f"{tolerance} {basis}"] = {"value": value, "seconds": seconds, "products": products}
    return rows


def exact(model, batch):
    """From the dense Hessian in float64."""
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    sizes = [p.numel() for p in model.parameters()]
    model, x = model.double(), batch[0].double()
    start = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(flat):
        own = {n: v.view(s) for n, v, s in zip(names, flat.split(sizes), shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, own, (x,)), batch[1])

    rows = []
    for basis in torch.eye(len(start), dtype=start.dtype).split(64):
        rows.append(torch.func.vmap(lambda v: torch.func.jvp(torch.func.grad(loss), (start,), (v,))[1])(basis))
    return torch.linalg.eigvalsh(torch.cat(rows))[-1].item()


def measure(method, name, steps, repeat):
    torch.set_num_threads(1)
    model, batch = trained(name, steps)
    found = {"steepest": ours, "curvlinops": curvlinops_eigsh}[method](model, batch, repeat)
    print("\n" + json.dumps({"rows": found, "gradient": gradient_seconds(model, batch, repeat)}))


def asked(python, method, name, steps, repeat):
    command = [python, __file__, "--measure", method, "--case", name, "--steps", str(steps), "--repeat", str(repeat)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that has curvlinops and scipy")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="*", default=[0, 100])
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--measure", choices=["steepest", "curvlinops"])
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure, options.case, options.steps[0], options.repeat)
    torch.set_num_threads(1)
    lines = [
        "# Largest Hessian eigenvalue",
        "",
        f"`OMP_NUM_THREADS=1 python benchmarks/curvature.py --repeat {options.repeat}`: scikit-learn's digits, cross-entropy, float32, "
        "the network as initialised and after 100 steps. The tolerance is the residual as a part of the eigenvalue, the same for all. "
        f"Seconds are CPU time of one thread, medians of {options.repeat} after a warm-up, on a machine that others were using; each case "
        "runs the programs one after the other, and the ratio is to steepest's. *Gradients* are seconds over those of one gradient of the "
        "same batch, measured in the same process. The exact value is the largest eigenvalue of the dense Hessian in float64, where that "
        "was formed; the error is against it.",
        "",
        "| network | parameters | steps | tolerance | method | eigenvalue | error | products | seconds | gradients | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in CASES if options.case is None else [options.case]:
        for steps in options.steps:
            model, batch = trained(name, steps)
            count = sum(p.numel() for p in model.parameters())
            true = exact(model, batch) if CASES[name][2] else None
            own = asked(sys.executable, "steepest", name, steps, options.repeat)
            peer = asked(options.peers, "curvlinops", name, steps, options.repeat)
            for tolerance in map(str, TOLERANCES):
                rows = [("steepest", own, tolerance), *((f"curvlinops + eigsh, {b} vectors", peer, f"{tolerance} {b}") for b in BASES)]
                base = own["rows"][tolerance]["seconds"]
                for method, answer, key in rows:
                    row = answer["rows"][key]
                    error = "" if true is None else f"{row['value'] / true - 1:+.1e}"
                    lines.append(
                        f"| {name} | {count:,} | {steps} | {tolerance} | {method} | {row['value']:.5f} | {error} | {row['products']} | "
                        f"{row['seconds']:.3f} | {row['seconds'] / answer['gradient']:.1f} | {row['seconds'] / base:.2f} |"
                    )
                    print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
