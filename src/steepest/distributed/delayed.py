"""Descent along late gradients: the delay itself is drawn, whoever the workers are."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.distributed.delays import Delay
from steepest.distributed.flat import gather, scatter, set_gradients
from steepest.distributed.method import OptimizerFactory
from steepest.distributed.problem import OneByOne, Problem
from steepest.errors import UsageError


def delayed_descent(problem: Problem, optimizer: OptimizerFactory, delay: Delay, steps: int, *, seed: int = 0) -> tuple[Tensor, list[int]]:
    """x_{t+1} = x_t + (the optimizer's step with the gradient at x_{t - tau_t} on batch t of worker 0).

    tau_t is drawn from ``delay``, rounded down, at most t. Without delays this is the serial method, bit for bit. An optimizer whose step
    has an argument ``delay`` is told tau_t. Only versions that a later step will look at are kept.

    Args:
        problem: the model is left with the last parameters.
        optimizer: made over the model's parameters.
        delay: counted in updates.
        steps: at least 1.
        seed: of the delays.

    Returns:
        The last parameters as one vector, and the delays.

    Raises:
        UsageError: for fewer than one step.
    """
    if steps < 1:
        raise UsageError(f"steps is {steps}: give at least 1")
    draw = delay.draws(np.random.default_rng(seed))
    delays = [min(int(draw()), t) for t in range(steps)]
    last = {t - tau: t for t, tau in enumerate(delays)}
    parameters = problem.parameters
    own = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    made, gradient = optimizer(own), OneByOne(problem)
    told = "delay" in inspect.signature(type(made).step).parameters
    step: Any = made.step
    versions: dict[int, Tensor] = {}
    for t, tau in enumerate(delays):
        if t in last:
            versions[t] = gather(own)
        set_gradients(gradient([versions[t - tau]], [problem.batches(0, t)])[0], own)
        step(delay=tau) if told else step()
        if last[t - tau] == t:
            del versions[t - tau]
    scatter(gather(own), parameters)
    return gather(own), delays
