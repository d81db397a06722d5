"""One training run."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Generator as Gen
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from steepest.errors import ModelError, SteepestError, UsageError
from steepest.numerics.threads import threads
from steepest.optim.catalogue import find
from steepest.optim.method import Need
from steepest.race.schedule import find_schedule
from steepest.race.task import Task, load_task
from steepest.results.race import Evaluation, RacedTrial


@dataclass(frozen=True)
class Setting:
    """Everything that decides the outcome of a trial.

    Args:
        task: its name or ``module:function``.
        fingerprint: of the task's source and of the versions.
        data: folder of the task's data.
        method: name in the catalogue.
        point: its options.
        seed: of initial parameters and batches.
        steps, every: gradients in all, and between evaluations.
        schedule: of the rate, in ``steepest.race.schedule``.
    """

    task: str
    fingerprint: str
    data: str | None
    method: str
    point: tuple[tuple[str, float], ...]
    seed: int
    steps: int
    every: int
    schedule: str = "constant"

    @property
    def digest(self) -> str:
        """sha256 by which the trial is found again."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def run_trial(setting: Setting, task: Task | None = None) -> RacedTrial:
    """Train once on one thread, from the setting's seed.

    Initial parameters, batches and dropout depend on the seed alone, so two methods with the same seed differ in nothing but the method.
    Steps are gradients: a method that evaluates its closure twice for a step has used two. The trial ends early when the loss is no longer
    finite.

    Args:
        setting: what to do.
        task: the task itself; by default looked up by its name.

    Raises:
        UsageError: where the task or the method fails.
    """
    task = task or load_task(setting.task, setting.data)
    try:
        with _alone(setting.seed):
            return _train(setting, task)
    except SteepestError:
        raise
    except Exception as error:
        options = ", ".join(f"{k}={v:g}" for k, v in setting.point)
        raise UsageError(f"{setting.method} ({options}) failed on {task.name}: {type(error).__name__}: {error}") from error


def require_finite(task: Task, seed: int) -> None:
    """Refuse a task that is broken before any method has touched it.

    Raises:
        ModelError: where the loss of the first batch, its gradient, or the first evaluation is not finite.
        UsageError: where the task fails, or its loss is no scalar with a gradient.
    """
    try:
        with _alone(seed):
            model = task.model()
            model.train()
            loss = task.loss(model, next(task.batches(torch.Generator().manual_seed(seed))))
            if loss.numel() != 1 or not loss.requires_grad:
                raise UsageError(
                    f"the loss of {task.name} has shape {list(loss.shape)}: it must be a scalar that depends on the model's parameters"
                )
            loss.sum().backward()
            finite = all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
            model.eval()
            with torch.no_grad():
                value = float(task.evaluate(model))
    except SteepestError:
        raise
    except Exception as error:
        raise UsageError(f"{task.name} fails before the first step: {type(error).__name__}: {error}") from error
    first = float(loss.detach())
    for what, number in (("loss", first), ("evaluation", value), ("gradient", 0.0 if finite else math.nan)):
        if not math.isfinite(number):
            raise ModelError(
                f"the {what} of {task.name} is {'not finite' if what == 'gradient' else number} before the first step, so no method can "
                "descend: (a) the data hold NaN or infinity, (b) the initial weights are too large, (c) the loss divides by zero or takes "
                "a logarithm of it"
            )


@contextmanager
def _alone(seed: int) -> Gen[None]:
    """One thread and a seeded generator; both as before afterwards."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _train(setting: Setting, task: Task) -> RacedTrial:
    model = task.model()
    batches = task.batches(torch.Generator().manual_seed(setting.seed))
    parameters = [p for p in model.parameters() if p.requires_grad]
    method = find(setting.method)
    optimizer = method.build(parameters, **dict(setting.point))
    schedule, rates = find_schedule(setting.schedule), [group["lr"] for group in optimizer.param_groups]
    path = [_place(parameters)] if task.landscape else []
    evaluations = [_look(task, model, optimizer, 0, 0.0, math.nan)]
    model.train()
    losses: list[float] = []
    gradients, looked, seconds, diverged = 0, 0, 0.0, None
    while gradients < setting.steps and diverged is None:
        started = time.process_time()
        batch = next(batches)

        def closure(batch: Any = batch) -> torch.Tensor:
            optimizer.zero_grad()
            loss = task.loss(model, batch)
            loss.backward()
            losses.append(float(loss.detach()))
            return loss

        before = len(losses)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = schedule(gradients, setting.steps) * rate
        if Need.GRADIENT in method.needs:
            closure()
        optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]  torch's stub wants a float and takes the tensor
        seconds += time.process_time() - started
        gradients += max(1, len(losses) - before)
        if task.landscape:
            path.append(_place(parameters))
        if not all(map(math.isfinite, losses[before:])) or (task.landscape and not all(map(math.isfinite, path[-1]))):
            diverged = gradients
        if gradients // setting.every > looked // setting.every or gradients >= setting.steps or diverged is not None:
            mean = sum(losses) / len(losses)
            losses.clear()
            evaluations.append(_look(task, model, optimizer, gradients, seconds, mean))
            looked = gradients
            model.train()
    score = None
    if task.score is not None and diverged is None:
        with torch.no_grad(), _evaluating(model, optimizer):
            score = float(task.score(model))
    finite = [p for p in path if all(map(math.isfinite, p))]
    return RacedTrial(setting.method, dict(setting.point), setting.seed, tuple(evaluations), diverged, score, tuple(finite))


def _look(task: Task, model: nn.Module, optimizer: Optimizer, step: int, seconds: float, loss: float) -> Evaluation:
    with torch.no_grad(), _evaluating(model, optimizer):
        value = float(task.evaluate(model))
    return Evaluation(step, seconds, value if math.isfinite(value) else math.inf, loss)


@contextmanager
def _evaluating(model: nn.Module, optimizer: Optimizer) -> Gen[None]:
    """Evaluation mode of the model, and of a method that trains on other weights than it evaluates (schedule-free)."""
    modes = [getattr(optimizer, name, None) for name in ("eval", "train")]
    model.eval()
    if callable(modes[0]):
        modes[0]()
    try:
        yield
    finally:
        if callable(modes[1]):
            modes[1]()
        model.train()


def _place(parameters: list[nn.Parameter]) -> tuple[float, float]:
    x, y = torch.cat([p.detach().flatten() for p in parameters]).tolist()
    return x, y
