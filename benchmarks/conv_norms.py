"""Norms of zero-padded convolutions: steepest's proven bound beside other methods, in one run on one thread.

Every method gets the same float64 kernel. Seconds are CPU time of one thread (medians), gaps are to the operator's norm as converged
by ARPACK. What is no bound of the operator is marked; the Gram iteration and the SVD of all frequencies are re-stated on the torus on
which they are bounds for zero padding, with half of the frequencies.

    OMP_NUM_THREADS=1 python benchmarks/conv_norms.py -o benchmarks/results/conv_norms.md
"""

import argparse
import math
import os
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from steepest import ops
from steepest.numerics.torus import ConvGeometry, Torus, least_periods, symbols
from steepest.proofs.checker.convolution import convolution_norm_at_most
from steepest.proofs.checker.torus import Window

SHAPES = {
    "64 -> 64, 3x3, 32x32": (64, 64, 3, 1, 1, 32),
    "64 -> 64, 3x3, 56x56": (64, 64, 3, 1, 1, 56),
    "128 -> 256, 3x3 / 2, 28x28": (256, 128, 3, 2, 1, 28),
    "3 -> 64, 7x7 / 2, 224x224": (64, 3, 7, 2, 3, 224),
    "512 -> 512, 3x3, 7x7": (512, 512, 3, 1, 1, 7),
}
SLOW = 3.0


def kernel(out, inside, size):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(out, inside, size, size, generator=generator, dtype=torch.float64) * math.sqrt(2 / (inside * size**2))


def geometry_of(shape):
    _, _, k, s, p, n = shape
    return ConvGeometry((k, k), (s, s), (1, 1), ((p, p), (p, p)), (n, n))


def ours(weight, shape):
    _, inside, _, s, p, n = shape
    bias = torch.zeros(len(weight), dtype=torch.float64)
    return ops.Conv(((1, inside, n, n),), weight, bias, (s, s), ((p, p), (p, p)), (1, 1), 1).norm(2.0)


def all_symbols(weight, shape, dtype):
    geometry = geometry_of(shape)
    torus = Torus(geometry, least_periods(geometry), (0.0, 0.0))
    for part in torus.frequencies.split(max(1, 2**24 // symbols(torus, weight, torus.frequencies[:1]).numel())):
        found = symbols(torus, weight, part)[:, 0].to(dtype)
        yield found if found.shape[1] <= found.shape[2] else found.mH


def fft_svd(weight, shape):
    return max(torch.linalg.svdvals(s)[:, 0].max().item() for s in all_symbols(weight, shape, torch.complex128))


def gram_iteration(weight, shape, steps=6, dtype=torch.complex128):
    """Delattre et al. 2023, algorithm 2: ``|G| <= |G^(2^t)|_F^(2^-t)``, rescaled at every step."""
    best = 0.0
    for s in all_symbols(weight, shape, dtype):
        gram, log, power = s @ s.mH, torch.zeros(len(s), dtype=torch.float64), 1.0
        for _ in range(steps - 1):
            size = torch.linalg.matrix_norm(gram)
            gram = gram / size[:, None, None]
            log = log + size.double().log() / power
            power *= 2.0
            gram = gram @ gram.mH
        log = log + torch.linalg.matrix_norm(gram).double().log() / power
        best = max(best, (0.5 * log).exp().max().item())
    return best


def reshaped(weight, shape):
    """``|K| k``: the reshaped kernel's norm times the root of the most often an input is read."""
    return torch.linalg.matrix_norm(weight.flatten(1), 2).item() * math.ceil(shape[2] / shape[3])


def spectral_norm(weight, shape):
    """What torch's parametrisation divides by, after 100 steps."""
    module = nn.Conv2d(shape[1], shape[0], shape[2], bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(weight)
    nn.utils.parametrizations.spectral_norm(module, n_power_iterations=100)
    with torch.no_grad():
        return (weight.norm() / module.weight.norm()).item()


def lanczos(weight, shape):
    from scipy.sparse.linalg import LinearOperator, eigsh

    _, inside, k, s, p, n = shape

    def apply(v):
        x = torch.from_numpy(np.ascontiguousarray(v)).reshape(1, inside, n, n)
        y = F.conv2d(x, weight, None, s, p)
        return F.conv_transpose2d(y, weight, None, s, p, output_padding=(n + 2 * p - k) % s).numpy().ravel()

    size = inside * n * n
    operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
    return math.sqrt(float(eigsh(operator, k=1, which="LA", tol=1e-10, ncv=40, return_eigenvectors=False)[0]))


METHODS = {
    "steepest": (ours, "proven bound"),
    "Gram iteration": (gram_iteration, "bound up to rounding"),
    "Gram iteration, float32": (lambda w, s: gram_iteration(w, s, dtype=torch.complex64), "rounding not bounded"),
    "FFT and SVD": (fft_svd, "bound up to rounding"),
    "k x reshape": (reshaped, "bound up to rounding"),
    "torch spectral_norm": (spectral_norm, "no bound"),
    "Lanczos (ARPACK)": (lanczos, "from below"),
}


def timed(method, repeat):
    seconds = []
    while len(seconds) < repeat and not (seconds and seconds[0] > SLOW and len(seconds) >= 2):
        started = time.process_time()
        value = method()
        seconds.append(time.process_time() - started)
    return value, statistics.median(seconds), len(seconds)


def checked(weight, shape, claim):
    geometry = geometry_of(shape)
    windows = [
        Window(*(getattr(geometry, f)[a] for f in ("kernel", "stride", "dilation", "padding", "size", "out_size")), "zeros")
        for a in range(2)
    ]
    return convolution_norm_at_most(weight[None].numpy(), windows, claim)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Norms of zero-padded convolutions",
        "",
        f"`OMP_NUM_THREADS=1 python benchmarks/conv_norms.py --repeat {options.repeat}`: random kernels (He), float64. Seconds are CPU "
        f"time of one thread, medians of {options.repeat} (of 2 above {SLOW:.0f} s), on a machine that others were using; "
        "the ratio is to steepest's. The gap is to ARPACK's value, converged to 1e-10. The checker proves steepest's claim anew, in numpy.",
        "",
    ]
    ours(kernel(8, 8, 3), (8, 8, 3, 1, 1, 40))
    for name, shape in SHAPES.items():
        weight = kernel(*shape[:3])
        rows = {m: timed(partial(f, weight, shape), options.repeat) for m, (f, _) in METHODS.items()}
        true, base = rows["Lanczos (ARPACK)"][0], rows["steepest"][1]
        lines += [
            f"## {name}",
            "",
            f"Norm {true:.6f}.",
            "",
            "| method | value | gap | seconds | ratio | what it is |",
            "|---|---|---|---|---|---|",
        ]
        for m, (value, seconds, _) in rows.items():
            lines.append(
                f"| {m} | {value:.6f} | {100 * (value / true - 1):+.3f} % | {seconds:.3f} | {seconds / base:.2f} | {METHODS[m][1]} |"
            )
        proof, seconds, _ = timed(partial(checked, weight, shape, rows["steepest"][0]), 2)
        lines += [
            f"| checker | {'proven' if proof else 'NOT PROVEN'} | | {seconds:.3f} | {seconds / base:.2f} | proves steepest's value |",
            "",
        ]
        print("\n".join(lines[-14:]), flush=True)
    if options.output:
        options.output.write_text("\n".join(lines))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
