"""The gradient noise scale: how large a batch is worth its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, func, nn

from steepest.errors import UsageError
from steepest.measures.objective import Batch, LossFunction, Objective, Parameters, apply, flat, same_randomness

Z = 1.959964
"""Normal quantile of a two-sided interval of 95 %."""


@dataclass(frozen=True)
class NoiseScale:
    """``B = tr(Sigma) / |G|^2``: below a batch of B, doubling the batch nearly halves the steps that are needed.

    G is the true gradient, Sigma the covariance of the gradients of single samples: the simple noise scale of McCandlish et al. 2018,
    equation 2.9.

    Args:
        scale: in samples; infinity where the gradient does not rise above its noise.
        low, high: an interval of 95 %, by Fieller's theorem on jackknife covariances.
        trace: unbiased estimate of ``tr(Sigma)``.
        squared_norm: unbiased estimate of ``|G|^2``; may be negative.
        samples: how many samples or groups it rests on.
    """

    scale: float
    low: float
    high: float
    trace: float
    squared_norm: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        """The JSON form; infinity as a word."""
        return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


def noise_scale(model: nn.Module, loss_fn: LossFunction, batch: Batch, parts: int | None = None) -> NoiseScale:
    """The noise scale at the model's parameters, from the gradients of single samples or of parts of the batch.

    Cost: by sample two to four gradients of the batch (``vmap``), twice that where the gradients of all samples do not fit into 128 MB;
    in parts one gradient.

    Args:
        batch: ``(x, y)`` with samples along the first axes; ``loss_fn`` averages over them.
        parts: None for single samples; else into how many equal micro-batches the batch is split (a rest is left out), at least 3: the way
            where samples depend on each other, as with batch normalisation in training.

    Raises:
        UsageError: when samples are asked for one by one of a model that normalises over its batch.

    Source: McCandlish et al. 2018, appendix A.1 (unbiased estimates from two batch sizes, here one part and the whole).
    """
    objective = Objective(model, loss_fn, batch)
    if parts is None:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and (m.training or not m.track_running_stats) for m in model.modules()):
            raise UsageError(
                "a model that normalises over its batch has no gradients of single samples: say into how many parts to split the batch"
            )
        rows, size = lambda: _by_sample(objective), 1
    else:
        size = _length(batch[0]) // parts
        if parts < 3 or not size:
            raise UsageError(
                f"a batch of {_length(batch[0])} cannot be split into {parts} parts: at least 3, with a sample each, are needed"
            )
        kept = torch.stack([_part(objective, slice(k * size, (k + 1) * size)) for k in range(parts)])
        rows = lambda: iter((kept,))  # noqa: E731
    return _from_rows(rows, size)


def from_gradients(gradients: Tensor, size: int) -> NoiseScale:
    """The noise scale from independent gradients ``[n, parameters]``, each the mean over ``size`` samples; at least 3 of them."""
    return _from_rows(lambda: iter((gradients,)), size)


def from_pairs(products: Tensor, distances: Tensor, size: int) -> NoiseScale:
    """The noise scale from pairs of gradients of independent batches, a pair for each of several steps.

    Args:
        products: ``<g, g'>``, an unbiased estimate of ``|G|^2`` each, ``[n]``.
        distances: ``|g - g'|^2``, ``[n]``.
        size: samples behind each gradient.
    """
    traces = 0.5 * size * distances.double()
    both = torch.stack([traces, products.double()])
    spread = torch.cov(both) / len(products) if len(products) > 1 else torch.full((2, 2), math.inf, dtype=torch.float64)
    return _fieller(both[0].mean(), both[1].mean(), spread, len(products))


def _from_rows(rows: Callable[[], Iterator[Tensor]], size: int) -> NoiseScale:
    squares, total, only = [], None, None
    for r in rows():
        squares.append(r.square().sum(1).double())
        only = r if total is None else None
        total = r.sum(0) if total is None else total + r.sum(0)
    squares = torch.cat(squares)
    n = len(squares)
    assert total is not None and n > 2, "at least three gradients"
    mean = total / n
    along = torch.cat([r @ mean for r in (rows() if only is None else (only,))]).double()
    whole = mean.double().square().sum()

    def estimates(n: int, squares: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
        variance = (squares - n * whole) / (n - 1)
        return size * variance, whole - variance / n

    trace, norm = estimates(n, squares.sum(), whole)
    # Leaving out row j: the mean becomes (n mean - g_j) / (n - 1).
    left = (n**2 * whole - 2 * n * along + squares) / (n - 1) ** 2
    without = torch.stack(estimates(n - 1, squares.sum() - squares, left))
    return _fieller(trace, norm, torch.cov(without, correction=0) * (n - 1), n)


def _fieller(trace: Tensor, norm: Tensor, spread: Tensor, samples: int) -> NoiseScale:
    """All r for which ``trace - r norm`` is within ``Z`` standard deviations of 0 (Fieller 1954)."""
    t, g = float(trace), float(norm)
    tt, tg, gg = float(spread[0, 0]), float(spread[0, 1]), float(spread[1, 1])
    a, b, c = g * g - Z * Z * gg, t * g - Z * Z * tg, t * t - Z * Z * tt
    root = math.sqrt(max(0.0, b * b - a * c)) if all(map(math.isfinite, (a, b, c))) else math.inf
    if a > 0.0 and g > 0.0:
        low, high = (b - root) / a, (b + root) / a
    else:
        # The gradient may be zero: all large scales are possible.
        low, high = ((b - root) / a if a < 0.0 < c else 0.0), math.inf
    return NoiseScale(t / g if g > 0.0 else math.inf, max(0.0, low), high, t, g, samples)


def _by_sample(objective: Objective) -> Iterator[Tensor]:
    """Gradients of single samples, ``[some, parameters]`` at a time."""
    x, y = objective.batch
    own = objective.parameters

    def loss(parameters: Parameters, x: Any, y: Any) -> Tensor:
        one = _map(lambda t: t[None], (x, y))
        return objective.loss_fn(apply(objective.model, parameters, one[0]), one[1]).reshape(())

    each = func.vmap(func.grad(loss), in_dims=(None, 0, 0), randomness="different")
    some = max(1, 2**25 // sum(p.numel() for p in own.values()))
    for begin in range(0, _length(x), some):
        part = _map(lambda t, b=begin: t[b : b + some], (x, y))
        with same_randomness():
            found = each(own, *part)
        yield torch.cat([found[n].flatten(1) for n in own], 1)


def _part(objective: Objective, rows: slice) -> Tensor:
    part = _map(lambda t: t[rows], objective.batch)
    return flat(list(Objective(objective.model, objective.loss_fn, part).gradient()[1].values()))


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {k: _map(function, v) for k, v in value.items()}
    return tuple(_map(function, v) for v in value) if isinstance(value, (tuple, list)) else value


def _length(value: Any) -> int:
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return len(value)
