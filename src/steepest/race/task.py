"""What methods race on: a model, its loss over batches, and an evaluation."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from steepest.capture.factory import call_factory
from steepest.errors import UsageError

TASKS = (
    "digits_mlp",
    "fashion_cnn",
    "autoencoder",
    "char_rnn",
    "transformer",
    "logistic",
    "quadratic",
    "rosenbrock",
    "beale",
    "saddle",
)
"""The tasks that come with the package, each in ``steepest.race.tasks`` under its name."""


@dataclass(frozen=True)
class Landscape:
    """A function of two variables to be drawn; such a task is never ranked.

    Args:
        function: heights at tensors x and y of one shape.
        x, y: the window.
        minima: where they are.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    x: tuple[float, float]
    y: tuple[float, float]
    minima: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Task:
    """Something to descend on.

    Args:
        name: short, as people type it.
        title: one line for the page.
        model: makes the network; called under the trial's seed, so that ``torch``'s own initialisation differs from seed to seed.
        batches: makes an endless iterator of batches from a generator that carries the trial's seed; all its randomness has to come from
            there, which is what gives every method the same batches in the same order.
        loss: training loss of a model on a batch: a scalar tensor with a gradient.
        evaluate: the measure by which methods are judged, lower is better; called without gradients, the model in evaluation mode.
        measure: what ``evaluate`` returns, in words.
        steps: gradients a trial may compute; a method that needs two for a step pays for two.
        every: gradients between two evaluations.
        target: the value to reach; None: from tuned baselines.
        score: a second measure after the last step, higher is better, shown and not judged.
        score_name: what it is, in words.
        landscape: makes this a drawing of paths; ``model`` then has one parameter with two entries.
    """

    name: str
    title: str
    model: Callable[[], nn.Module]
    batches: Callable[[Generator], Iterator[Any]]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], float]
    measure: str = "validation loss"
    steps: int = 300
    every: int = 10
    target: float | None = None
    score: Callable[[nn.Module], float] | None = None
    score_name: str | None = None
    landscape: Landscape | None = None


def shuffled(size: int, *tensors: Tensor) -> Callable[[Generator], Iterator[tuple[Tensor, ...]]]:
    """For ``Task.batches``: rows of tensors of equal length, shuffled anew for each epoch; an incomplete last batch is left out."""
    count = len(tensors[0])
    if size > count:
        raise UsageError(f"a batch of {size} out of {count} samples")

    def batches(generator: Generator) -> Iterator[tuple[Tensor, ...]]:
        while True:
            order = torch.randperm(count, generator=generator)
            for k in range(0, count - size + 1, size):
                chosen = order[k : k + size]
                yield tuple(t[chosen] for t in tensors)

    return batches


def full_batch(*tensors: Tensor) -> Callable[[Generator], Iterator[tuple[Tensor, ...]]]:
    """For ``Task.batches``: the same tensors at every step."""

    def batches(generator: Generator) -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield tensors

    return batches


def same_batch(task: Task) -> bool:
    """Whether the first two batches are one and the same object, as those of ``full_batch`` are."""
    batches = task.batches(Generator().manual_seed(0))
    return next(batches) is next(batches)


@lru_cache(maxsize=32)
def load_task(spec: str, data: str | None = None) -> Task:
    """The task of that name, or what ``module:function`` returns.

    Args:
        spec: one of ``TASKS``, or ``module:function``.
        data: folder with data, for a task that does not bring its own.

    Raises:
        UsageError: for an unknown name (lists the known ones), a function that fails or gives no Task, or data that are not there.
    """
    if ":" in spec:
        task = call_factory(spec)
        if not isinstance(task, Task):
            raise UsageError(f"{spec} gives {type(task).__name__}: it must return a steepest.race.Task")
        return task
    if spec not in TASKS:
        raise UsageError(f"there is no task {spec!r}; known are {', '.join(TASKS)}, and your own as module:function")
    module = importlib.import_module(f"steepest.race.tasks.{spec}")
    return module.task(data) if "data" in inspect.signature(module.task).parameters else module.task()


def fingerprint(spec: str) -> str:
    """sha256 of the file that defines a task, and of the versions its outcome depends on."""
    from steepest import __version__

    name = spec.partition(":")[0] if ":" in spec else f"steepest.race.tasks.{spec}"
    found = sys.modules.get(name) or importlib.import_module(name)
    digest = hashlib.sha256(f"{__version__} {torch.__version__} {sys.version}".encode())
    if getattr(found, "__file__", None):
        digest.update(Path(str(found.__file__)).read_bytes())
    return digest.hexdigest()
