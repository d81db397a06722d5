"""How many steps a loss takes at each batch size, the critical batch that this gives, and the noise scale on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from steepest.measures.noise_scale import noise_scale
from steepest.studies.digits import Digits
from steepest.studies.replicas import Replicas, orders
from steepest.studies.study import seeded


@dataclass(frozen=True)
class Tradeoff:
    """``steps(B) = least (1 + critical / B)``: as many steps as gradient descent takes, and more below the critical batch.

    Args:
        least: steps of an unlimited batch.
        critical: the batch at which twice as many are needed; the fewest samples over the fewest steps.
        misfit: root mean square of ``log(measured / fitted)``.

    Source: S. McCandlish, J. Kaplan, D. Amodei, OpenAI Dota Team, An empirical model of large-batch training, 2018, equation 2.11.
    """

    least: float
    critical: float
    misfit: float


def fit(batches: Sequence[int], steps: Sequence[float]) -> Tradeoff:
    """The least squares fit in logarithms; the critical batch is sought on a grid of 2 % steps, a hundredfold beyond the batches."""

    def at(critical: float) -> Tradeoff:
        logs = [math.log(s) - math.log1p(critical / b) for b, s in zip(batches, steps, strict=True)]
        mean = sum(logs) / len(logs)
        return Tradeoff(math.exp(mean), critical, math.sqrt(sum((v - mean) ** 2 for v in logs) / len(logs)))

    low, high = math.log(min(batches) / 100), math.log(max(batches) * 100)
    count = math.ceil((high - low) / 0.02)
    return min((at(math.exp(low + (high - low) * k / count)) for k in range(count + 1)), key=lambda t: t.misfit)


@dataclass(frozen=True)
class Race:
    """To one loss at one batch size.

    Args:
        steps: per seed, at the rate that took fewest; infinite where none arrived.
        rates: those rates.
    """

    steps: tuple[float, ...]
    rates: tuple[float, ...]


def race(
    make: Callable[[], nn.Module], data: Digits, batch: int, rates: Sequence[float], seeds: Sequence[int], target: float, limit: int
) -> Race:
    """Plain SGD until the loss on all training data is at the target, looked at after every step that is 5 % further than the last.

    Args:
        make: a network with weights from torch's random state.
        data: to train on.
        batch: samples in one.
        rates: that are tried, all for every seed.
        seeds: of weights and order.
        target: the loss.
        limit: of steps.
    """
    members = Replicas([seeded(make, s) for _ in rates for s in seeds])
    order = orders(seeds, len(data.x), batch, limit).repeat(len(rates), 1, 1)
    arrived = torch.full((len(order),), math.inf, dtype=torch.float64)
    due = [1]

    def look(step: int) -> None:
        if step >= due[0]:
            reached = members.losses(data.x, data.y) <= target
            arrived[reached & arrived.isinf()] = step
            due[0] = max(step + 1, math.ceil(1.05 * step))

    members.train(data.x, data.y, order, torch.tensor(rates).repeat_interleave(len(seeds)), each_step=look)
    look(max(limit, due[0]))
    steps, best = arrived.view(len(rates), len(seeds)).min(0)
    return Race(tuple(steps.tolist()), tuple(rates[k] for k in best.tolist()))


def scale_on_the_way(
    make: Callable[[], nn.Module], data: Digits, batch: int, rate: float, seed: int, steps: int, looks: int
) -> list[tuple[int, float]]:
    """The gradient noise scale at steps equally far apart of one run of SGD; where the gradient is lost in its noise, none is given."""
    model = seeded(make, seed)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    every = max(1, steps // looks)
    found = []
    for step, index in enumerate(orders([seed], len(data.x), batch, steps)[0]):
        if step % every == 0:
            scale = noise_scale(model, functional.cross_entropy, (data.x, data.y)).scale
            if math.isfinite(scale):
                found.append((step, scale))
        optimizer.zero_grad()
        functional.cross_entropy(model(data.x[index]), data.y[index]).backward()
        optimizer.step()
    return found
