"""Networks for which a linear rate is proven: deep linear ones and wide two-layer ones, their theorems held against descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from steepest.monitors import DeepLinearRate, NTKRate
from steepest.monitors.deep_linear import DeepLinear, product
from steepest.results import Claim, Figure, Interval
from steepest.studies.figures import band
from steepest.studies.study import Findings, Progress, Study
from steepest.studies.verdicts import above, below, inside, listed, mean_interval, ratio_interval, slope, text, together


def balanced(end_to_end: Tensor, depth: int) -> list[Tensor]:
    """Square layers ``W_1, ..., W_N`` with that product and ``W_{j+1}' W_{j+1} = W_j W_j'``: the singular values shared out evenly.

    Source: Arora et al. 2019, procedure 1.
    """
    u, s, vh = torch.linalg.svd(end_to_end)
    part = torch.diag(s ** (1.0 / depth))
    return [part @ vh, *[part] * (depth - 2), u @ part]


def speed(losses: Sequence[float], predicted: float) -> float:
    """The least over k of ``log(loss_k / loss_0) / (k log predicted)``: at least 1 where ``loss_k <= predicted^k loss_0`` at all steps.

    Losses below 1e-24 of the first are the rounding's and left out.
    """
    return min(math.log(loss / losses[0]) / (k * math.log(predicted)) for k, loss in enumerate(losses) if k and loss > 1e-24 * losses[0])


def width_of_the_proof(n: int, least: float, error: float, failure: float) -> float:
    """The width above which the proof's bound on the way of each weight is below the radius on which it keeps the kernel.

    The way is at most ``4 sqrt(n) |y - u(0)| / (sqrt(m) lambda_0)`` (corollary 4.1); within R of the start the kernel changes by at most
    ``4 n^2 R / (sqrt(2 pi) delta)`` with probability 1 - delta (proof of lemma 3.2), which is to be ``lambda_0 / 4``.

    Args:
        n: samples; least: lambda_0; error: ``|y - u(0)|``; failure: delta.

    Source: Du et al. 2019, with the constants of its proofs.
    """
    radius = math.sqrt(2.0 * math.pi) * failure * least / (16.0 * n * n)
    return 16.0 * n * error**2 / (least * radius) ** 2


@dataclass(frozen=True)
class _Linear:
    """One run of a deep linear network: what its monitor says, and the losses."""

    verdict: DeepLinear
    speed: float
    fall: float
    allowed: float
    losses: list[float]


@dataclass(frozen=True)
class _Wide:
    """One run of a two-layer network."""

    speed: float
    kernel: float
    way: float
    bound: float
    needed: float
    errors: list[float]


@dataclass(frozen=True)
class ProvenRates(Study):
    """Descent on the loss of a deep linear network and of a two-layer ReLU network whose first layer is trained, in float64.

    Args:
        depths: of the linear networks, at least two each.
        size: their inputs, outputs and hidden units.
        margin: deficiency margin as a share of the target's least singular value.
        rate: the rate of practice for the linear networks, beside the far smaller one that the theorem allows.
        uneven: by how much one layer is scaled up and its neighbour down where balance is to fail.
        samples: unit vectors to fit, of as many coordinates.
        widths: of the two-layer networks, from the narrowest to the widest.
        steps: of each run.
    """

    name: ClassVar[str] = "proven-rates"
    question: ClassVar[str] = "Where a linear rate of convergence is proven, is descent as fast, and what happens outside the theorems?"
    seeds: int = 10
    depths: tuple[int, ...] = (2, 3, 5)
    size: int = 4
    margin: float = 0.5
    rate: float = 0.02
    uneven: float = 12.0
    samples: int = 16
    widths: tuple[int, ...] = (2, 8, 32, 128, 512, 2048, 8192)
    steps: int = 200

    def measure(self, progress: Progress) -> Findings:
        """Deep linear networks within and outside their theorem; then two-layer networks of each width."""
        linear: dict[tuple[str, int], list[_Linear]] = {}
        for k, depth in enumerate(self.depths):
            progress(f"{depth} linear layers", 0.4 * k / len(self.depths))
            for kind in ("allowed", "practice", "no margin", "unbalanced"):
                linear[kind, depth] = [self._linear(kind, depth, seed) for seed in range(self.seeds)]
        wide: dict[tuple[str, int], list[_Wide]] = {}
        for k, width in enumerate(self.widths):
            progress(f"two layers, width {width}", 0.4 + 0.6 * k / len(self.widths))
            for kind in ("allowed", "practice"):
                wide[kind, width] = [self._wide(kind, width, seed) for seed in range(self.seeds)]
        return Findings(
            f"deep linear networks, {', '.join(map(str, self.depths))} layers of {self.size}, loss |W - Phi|^2 / 2; two-layer "
            f"ReLU networks, first layer trained, {self.samples} random unit inputs, targets of +-1; {self.steps} steps, float64",
            (*self._linear_claims(linear), *self._wide_claims(wide)),
            (_linear_figure(linear), self._error_figure(wide), self._way_figure(wide)),
        )

    def _linear_claims(self, runs: dict[tuple[str, int], list[_Linear]]) -> tuple[Claim, ...]:
        def speeds(kind: str) -> dict[str, Interval]:
            return {f"{d} layers": mean_interval([r.speed for r in runs[kind, d]]) for d in self.depths}

        proven = [r for d in self.depths for r in runs["allowed", d]]
        held, fast = sum(r.verdict is DeepLinear.GUARANTEED for r in proven), sum(r.speed >= 1.0 for r in proven)
        within, beyond = speeds("allowed"), speeds("practice")
        times = {d: self.rate / min(r.allowed for r in runs["practice", d]) for d in self.depths}
        fails = {
            f"{kind}, {d} layers": mean_interval([r.fall for r in runs[kind, d]])
            for d in self.depths
            for kind in ("no margin", "unbalanced")
        }
        sound = {f"both, {d} layers": mean_interval([r.fall for r in runs["practice", d]]) for d in self.depths}
        slower = "log(loss_k / loss_0) / (k log(1 - rate c^(2(N-1)/N))), its least over the steps, is above 1 at every depth"
        return (
            Claim(
                "Where margin, balance and rate meet the conditions, the loss of a deep linear network falls at least at the rate proven.",
                "Arora, Cohen, Golowich and Hu 2019, theorem 1",
                f"{slower}; at the largest rate that the theorem allows.",
                together(above(i, 1.0) for i in within.values()),
                f"The conditions held in {held} of {len(proven)} runs, {fast} were as fast. Measured over proven: {listed(within)}.",
                {f"speed, {n}": i for n, i in within.items()},
            ),
            Claim(
                "The rate holds too at rates of practice, which the theorem does not allow.",
                "beyond Arora et al. 2019, theorem 1: its other conditions kept",
                f"{slower}; at rate {self.rate:g}.",
                together(above(i, 1.0) for i in beyond.values()),
                f"The rate is {', '.join(f'{times[d]:.2g} ({d} layers)' for d in self.depths)} times what the theorem allows. "
                f"Measured over proven exponent: {listed(beyond)}.",
                {f"speed, {n}": i for n, i in beyond.items()},
            ),
            Claim(
                "Margin and balance are both needed: from a start without the one or the other descent can fail at the same rate.",
                "Arora et al. 2019, section 4 (necessity of the two conditions)",
                "The last loss over the first is above 0.1 without a margin and without balance, below 0.01 with both, at every depth.",
                together([*(above(i, 0.1) for i in fails.values()), *(below(i, 0.01) for i in sound.values())]),
                f"Last over first loss, both held: {listed(sound)}; else {listed(fails)}; inf means that it diverged.",
                {**{f"last / first, {n}": i for n, i in (sound | fails).items()}},
            ),
        )

    def _wide_claims(self, runs: dict[tuple[str, int], list[_Wide]]) -> tuple[Claim, ...]:
        narrowest, widest = self.widths[0], self.widths[-1]
        fast = {kind: mean_interval([r.speed for r in runs[kind, widest]]) for kind in ("allowed", "practice")}
        slow = mean_interval([r.speed for r in runs["practice", narrowest]])
        enough = min((w for w in self.widths if min(r.speed for r in runs["practice", w]) >= 1.0), default=None)
        kernel = {f"width {w}": mean_interval([r.kernel for r in runs["practice", w]]) for w in (narrowest, widest)}
        needed = min(r.needed for r in runs["practice", widest])
        fitted = [w for w in self.widths if w >= self.samples]
        slopes = mean_interval(
            [slope([math.log(w) for w in fitted], [math.log(runs["practice", w][s].way) for w in fitted]) for s in range(self.seeds)]
        )
        share = ratio_interval([r.way for r in runs["practice", widest]], [r.bound for r in runs["practice", widest]])
        return (
            Claim(
                "The squared error of a wide two-layer ReLU network falls at least like (1 - rate lambda_0 / 2)^k.",
                "Du, Zhai, Poczos and Singh 2019, theorem 4.1",
                f"log(error_k / error_0) / (k log(1 - rate lambda_0 / 2)), its least over the steps, is above 1 at width {widest}, at rate "
                "lambda_0 / n^2 and at the largest stable one over two.",
                together(above(i, 1.0) for i in fast.values()),
                f"Measured over predicted exponent at width {widest}: {text(fast['allowed'])} and {text(fast['practice'])}. The width that "
                f"the proof asks for is {needed:.1g} (failing one time in ten): the theorem says nothing of these networks, and its rate "
                + ("is met by every run from width " + str(enough) + " on." if enough else "is not met by all runs at any width."),
                {f"speed, {kind}": i for kind, i in fast.items()},
            ),
            Claim(
                "Narrow networks do not keep to the rate.",
                "Du et al. 2019, by contrast: over-parameterisation is what its proof rests on",
                f"The same quantity is below 1 at width {narrowest}.",
                below(slow, 1.0),
                f"Measured over predicted exponent at width {narrowest}: {text(slow)}.",
                {f"speed, width {narrowest}": slow},
            ),
            Claim(
                "In a wide network the least eigenvalue of the kernel stays above half of its limit.",
                "Du et al. 2019, lemmas 3.1 and 3.2",
                f"lambda_min at the start and at the end, the smaller, over lambda_0 is above 1/2 at width {widest}.",
                above(kernel[f"width {widest}"], 0.5),
                f"Over lambda_0: {listed(kernel)}.",
                {f"lambda_min / lambda_0, {n}": i for n, i in kernel.items()},
            ),
            Claim(
                "The wider the network, the less a weight moves: like 1 / sqrt(width).",
                "Du et al. 2019, corollary 4.1",
                f"The slope of log(largest way of a neuron's weights) on log(width), from width {fitted[0]} on, is within 0.1 of -1/2.",
                inside(Interval(slopes.value + 0.5, slopes.low + 0.5, slopes.high + 0.5), 0.1),
                f"The slope is {text(slopes)}; at width {widest} the way is {text(share)} of 4 sqrt(n) |y - u(0)| / (sqrt(m) lambda_0).",
                {"slope": slopes, f"way / bound, width {widest}": share},
            ),
        )

    def _linear(self, kind: str, depth: int, seed: int) -> _Linear:
        generator = torch.Generator().manual_seed(seed)
        phi = _rotation(self.size, generator) @ torch.diag(torch.linspace(1.0, 2.0, self.size, dtype=torch.float64))
        phi = phi @ _rotation(self.size, generator)
        away = torch.randn(self.size, self.size, generator=generator, dtype=torch.float64)
        start = phi + (1.0 - self.margin) * away / away.norm()
        weights = balanced(start, depth)
        if kind == "no margin":
            # Layers that commute with a symmetric target stay symmetric: no eigenvalue of the product ever changes its sign.
            turned = _rotation(self.size, generator)
            signs = torch.ones(self.size, dtype=torch.float64)
            signs[0] = -1.0
            phi = turned.T @ torch.diag(signs * torch.linspace(1.0, 2.0, self.size, dtype=torch.float64)) @ turned
            weights = [torch.eye(self.size, dtype=torch.float64)] * depth
        elif kind == "unbalanced":
            weights = [self.uneven * weights[0], weights[1] / self.uneven, *weights[2:]]
        allowed = DeepLinearRate(weights, phi, 1.0).report().allowed_rate or 0.0
        rate = allowed if kind == "allowed" else self.rate
        monitor = DeepLinearRate(weights, phi, rate)
        for _ in range(self.steps):
            rest = product(weights) - phi
            monitor.record(0.5 * float(rest.square().sum()))
            if not math.isfinite(monitor.losses[-1]) or monitor.losses[-1] < 1e-24:
                break
            # The gradient of layer j is (W_N ... W_{j+1})' rest (W_{j-1} ... W_1)'.
            weights = [w - rate * _after(weights, j).T @ rest @ _before(weights, j).T for j, w in enumerate(weights)]
        report, losses = monitor.report(), monitor.losses
        finite = math.isfinite(losses[-1])
        known = report.predicted is not None and finite
        return _Linear(
            report.verdict,
            speed(losses, report.predicted or 0.0) if known else math.nan,
            losses[-1] / losses[0] if finite else math.inf,
            allowed,
            losses,
        )

    def _wide(self, kind: str, width: int, seed: int) -> _Wide:
        generator = torch.Generator().manual_seed(seed)
        n = self.samples
        x = functional.normalize(torch.randn(n, n, generator=generator, dtype=torch.float64))
        y = torch.sign(torch.randn(n, generator=generator, dtype=torch.float64))
        start = torch.randn(width, n, generator=generator, dtype=torch.float64)
        a = torch.sign(torch.randn(width, 1, generator=generator, dtype=torch.float64))
        least, stable = NTKRate(x, 1.0).least, NTKRate(x, 1.0).report().largest_rate
        rate = least / n**2 if kind == "allowed" else 0.5 * stable
        monitor, w, kernels = NTKRate(x, rate), start, []
        for step in range(self.steps):
            z = x @ w.T
            rest = (z.relu() @ a).squeeze(1) / math.sqrt(width) - y
            monitor.record(float(rest @ rest), w if step in (0, self.steps - 1) else None)
            if step in (0, self.steps - 1) and monitor.at_weights is not None:
                kernels.append(monitor.at_weights)
            w = w - rate / math.sqrt(width) * a * ((z >= 0.0) * rest[:, None]).T @ x
        report, error = monitor.report(), math.sqrt(monitor.errors[0])
        return _Wide(
            speed(monitor.errors, report.predicted),
            min(kernels) / report.eigenvalue,
            float((w - start).norm(dim=1).max()),
            4.0 * math.sqrt(n) * error / (math.sqrt(width) * report.eigenvalue),
            width_of_the_proof(n, report.eigenvalue, error, 0.1),
            monitor.errors,
        )

    def _error_figure(self, runs: dict[tuple[str, int], list[_Wide]]) -> Figure:
        steps = list(range(0, self.steps, max(1, self.steps // 40)))
        lines = []
        for width in self.widths[::2]:
            found = runs["practice", width]
            lines.append(band(f"width {width}", steps, [[r.errors[k] / r.errors[0] for r in found] for k in steps], True))
        return Figure("Two layers: squared error over that at the start", "step", "squared error / first", tuple(lines), log_y=True)

    def _way_figure(self, runs: dict[tuple[str, int], list[_Wide]]) -> Figure:
        rows = {"measured": [[r.way for r in runs["practice", w]] for w in self.widths]}
        rows["bound of the theorem"] = [[r.bound for r in runs["practice", w]] for w in self.widths]
        lines = tuple(band(name, self.widths, row, True) for name, row in rows.items())
        return Figure("Two layers: largest way of a neuron's weights", "width", "way", lines, log_x=True, log_y=True)


def _rotation(size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def _after(weights: Sequence[Tensor], j: int) -> Tensor:
    return product(weights[j + 1 :]) if j + 1 < len(weights) else torch.eye(weights[-1].shape[0], dtype=torch.float64)


def _before(weights: Sequence[Tensor], j: int) -> Tensor:
    return product(weights[:j]) if j else torch.eye(weights[0].shape[1], dtype=torch.float64)


def _linear_figure(runs: dict[tuple[str, int], list[_Linear]]) -> Figure:
    lines = []
    for depth in sorted({d for _, d in runs}):
        found = runs["practice", depth]
        steps = list(range(0, min(len(r.losses) for r in found), max(1, len(found[0].losses) // 40)))
        lines.append(band(f"{depth} layers", steps, [[r.losses[k] / r.losses[0] for r in found] for k in steps], True))
    return Figure(
        "Deep linear networks: loss over that at the start, at the rate of practice", "step", "loss / first", tuple(lines), log_y=True
    )
