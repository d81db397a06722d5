"""Local linf constants of small networks on digits, and linear bounds of every operator of real networks.

    python benchmarks/local.py [--inputs 8] [--nets FOLDER] [-o benchmarks/results/local.md]

Networks are trained here, on scikit-learn's digits, with fixed seeds. The domain is the linf ball of radius eps around an input of
the test part, and the constant that of all ten outputs together. ``interval``: the intervals of the Clarke Jacobian. ``crown``: the
linear bounds of Shi et al. 2022 written down again without intersections or multipliers (their tool is not to be had from the package
registries): the same lines as theirs for a ReLU. ``linear`` and ``rowwise``: the bounds of the package, the latter with few and with
more steps. ``lower``: the steepest of many points and secants that the search finds in the same ball. Seconds are CPU time of one
thread, an input, with the values' enclosures.

The second table takes the ball of radius 1e-3 around a fixed point for each ONNX network in FOLDER (default: those under $STEEPEST_SHARED).
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from steepest.bounds import ClarkeJacobian, LinearJacobian, PieceLipSDP, Rowwise
from steepest.bounds.linear_jacobian import _Rows
from steepest.capture.head import with_output
from steepest.capture.load import load
from steepest.errors import SteepestError
from steepest.graph import Graph
from steepest.ops.backward import tighten_domain
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain
from steepest.witnesses.ascent import GradientAscent

HERE = Path(__file__).resolve().parent
EPS = (4, 16, 64)


class Plain(_Rows):
    """Without what the walk gains on its way: every walk goes to the output, as in the paper."""

    def _settled(self, pending: dict[int, Tensor], constant: Tensor, error: Tensor, total: Tensor) -> Tensor:
        at_output = set(pending) == {len(self.graph.nodes) - 1}
        return super()._settled(pending, constant, error, total) if at_output else torch.full_like(constant, -math.inf)


def crown(graph: Graph, domain: Domain) -> float:
    values = [x.map(lambda t: t[None]) for x in tighten_domain(graph, domain)]
    rows = Plain(LinearJacobian(), graph, values, torch.eye(10, dtype=torch.float64).reshape(1, 10, *graph.shape))
    return rows.absolute_sums(rows.jacobian()).max().item()


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Trained briefly; float64."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    image = x.reshape(-1, 1, 8, 8)
    mlp = (64, 64, 64, 64, 10)
    layers = [m for a, b in itertools.pairwise(mlp) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    made = {}
    builders: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "4-layer MLP": (lambda: nn.Sequential(*layers), x),
        "CNN": (
            lambda: nn.Sequential(
                *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)),
            ),
            image,
        ),
        "tanh MLP": (lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)), x),
    }
    for name, (build, data) in builders.items():
        torch.manual_seed(0)
        model = build()
        for layer in model:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(600):
            batch = torch.randint(0, 1500, (64,))
            loss = nn.functional.cross_entropy(model(data[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        made[name] = model.double(), data.double()
    return made


def digits_table(count: int, seconds: float) -> list[str]:
    """Mean ratios and times over inputs."""
    lines = [
        "| network | eps | interval / lower | crown / lower | linear / lower | rowwise, 1 step | rowwise, 12 steps | s: interval "
        "| s: crown | s: linear | s: rowwise, 1 | s: rowwise, 12 | s: check |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    linear = LinearJacobian()
    methods: dict[str, Callable[[Graph, Domain], float]] = {
        "interval": lambda g, d: ClarkeJacobian().bound(g, d, math.inf).value,
        "crown": crown,
        "linear": lambda g, d: linear.bound(g, d, math.inf).value,
        "few": lambda g, d: Rowwise(linear.row_sums, PieceLipSDP(first=1)).bound(g, d, math.inf).value,
    }
    for name, (model, data) in networks().items():
        graph = load(model, input_shape=tuple(data.shape[1:])).graph
        for eps in EPS:
            sums = {key: [0.0, 0.0] for key in (*methods, "more", "check")}
            for x in data[1600 : 1600 + count]:
                domain = Domain("ball", centre=x.reshape(graph.input_shape).numpy(), radius=eps / 256, norm=math.inf)
                found = GradientAscent(seconds=seconds, starts=16).search(graph, domain, math.inf)
                lower = max(found.value, found.jacobian_norm or 0.0) if found else math.nan
                for key, method in methods.items():
                    started = time.process_time()
                    value = method(graph, domain)
                    sums[key][1] += time.process_time() - started
                    sums[key][0] += value / lower
                started = time.process_time()
                upper = Rowwise(linear.row_sums, PieceLipSDP(first=12)).bound(graph, domain, math.inf)
                sums["more"][1] += time.process_time() - started
                sums["more"][0] += upper.value / lower
                record, started = graph.record(), time.process_time()
                verdict = check(write_certificate(record, output=None, norm=math.inf, domain=domain, upper=upper, lower=None), record)
                sums["check"][1] += time.process_time() - started
                assert verdict.upper <= upper.value * (1 + 1e-9), verdict.reasons
            mean = {key: (a / count, b / count) for key, (a, b) in sums.items()}
            ratios = " | ".join(f"{mean[key][0]:.2f}" for key in (*methods, "more"))
            times = " | ".join(f"{mean[key][1]:.3f}" for key in (*methods, "more", "check"))
            lines.append(f"| {name} | {eps}/256 | {ratios} | {times} |")
            print(lines[-1], flush=True)
    return lines


def coverage_table(folder: Path, work: float) -> list[str]:
    """Whether the bound of the first output is finite, and what it gains."""
    lines = ["| network | nodes | entries | interval | linear | ratio | s |", "|---|---:|---:|---:|---:|---:|---:|"]
    for path in sorted(folder.glob("*.onnx")):
        try:
            graph = with_output(load(str(path)).graph, (0,))
        except SteepestError as error:
            lines.append(f"| {path.stem} | | | | refused: {error} | | |")
            continue
        centre = np.random.default_rng(0).uniform(0.0, 1.0, graph.input_shape)
        domain = Domain("ball", centre=centre, radius=1e-3, norm=math.inf)
        plain = ClarkeJacobian().bound(graph, domain, math.inf).value
        started = time.process_time()
        value = LinearJacobian(work=work).bound(graph, domain, math.inf).value
        spent = time.process_time() - started
        entries = sum(math.prod(node.shape) for node in graph.nodes)
        lines.append(f"| {path.stem} | {len(graph.nodes)} | {entries} | {plain:.4g} | {value:.4g} | {value / plain:.3g} | {spent:.2f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("STEEPEST_SHARED", HERE.parent / "../shared"))
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="for the search of each lower bound")
    parser.add_argument("--nets", type=Path, default=shared / "nets")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    text = [
        "# Local linf constants",
        "",
        f"`python benchmarks/local.py --inputs {options.inputs}`; what the columns mean stands there.",
        "Means of upper / lower, and CPU seconds an input.",
        "",
        *digits_table(options.inputs, options.seconds),
        "",
        "Every operator: the ball of radius 1e-3 in linf around one point, first output, 1e9 multiplications a node at most.",
        "",
        *(coverage_table(options.nets, 1e9) if options.nets.exists() else ["No networks there."]),
        "",
        f"All of it took {time.process_time() - started:.0f} s of CPU time.",
    ]
    if options.output:
        options.output.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
