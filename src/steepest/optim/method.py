"""What the catalogue says of one descent method."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch.optim import Optimizer

from steepest.errors import UsageError, require_extra
from steepest.optim.space import Range


class Need(StrEnum):
    """What a training loop must give a method beyond ``loss.backward()`` and ``step()``."""

    CLOSURE = "closure"
    """``step(closure)``: the method evaluates loss and gradient itself, more than once a step."""
    GRADIENT = "gradient first"
    """The gradients are in place before ``step(closure)`` is called."""
    LOSS = "loss value"
    """``step(loss=loss)`` after ``backward``, or ``step(closure)``."""
    FULL_BATCH = "full batch"
    """The same loss in every step: gradients of different batches are not comparable."""
    SNAPSHOT = "full gradients"
    """``step(closure)``, and ``snapshot((loss(batch), len(batch)) for batch in loader)`` before the first step and now and then."""
    COMPONENTS = "per-sample losses"
    """``step(closure, index)``: ``index`` names the samples, the closure returns their losses without ``backward``."""
    MODES = "train and eval"
    """``optimizer.train()`` before training and ``optimizer.eval()`` before evaluation: the weights differ."""
    MODEL = "model and batch"
    """``build(name, params, model=model, criterion=criterion)``, and ``step(batch=(x, y))`` after ``backward``."""


@dataclass(frozen=True)
class Method:
    """A descent method: what it is, where it comes from, how to build and to tune it.

    Args:
        name: the name in the catalogue.
        title: the name in the literature.
        source: the paper.
        import_path: ``package.module.Class``.
        extra: the extra of steepest that installs it; empty where torch or steepest suffice.
        options: what the name fixes, such as ``amsgrad=True``.
        defaults: what it takes where nothing else is given, such as ``momentum=0.9``.
        space: per option the range it is tuned over, ``lr`` always among them. ``beta1`` and ``beta2`` are put into ``betas`` by ``build``.
        summed: the option m of a method that follows the sum of m^k times past gradients, where others average them. A gradient then moves
            the parameters by ``lr / (1 - m)`` in all, the effective rate, and the range of ``lr`` is that of the effective rate.
        needs: what the training loop must give beyond gradients.
        package: the module that the extra brings; by default the import path's first.
    """

    name: str
    title: str
    source: str
    import_path: str
    extra: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Range] = field(default_factory=dict)
    needs: frozenset[Need] = frozenset()
    summed: str = ""
    package: str = ""

    @property
    def available(self) -> bool:
        """Whether the package that has it is installed."""
        return importlib.util.find_spec(self.package or self.import_path.split(".")[0]) is not None

    @property
    def rate_name(self) -> str:
        """What ``space["lr"]`` is the range of."""
        return f"lr / (1 - {self.summed})" if self.summed else "lr"

    def rate(self, options: Mapping[str, float]) -> float:
        """The number that ``space["lr"]`` is the range of: the effective rate of options."""
        return options["lr"] / (1.0 - options[self.summed]) if self.summed else options["lr"]

    def point(self, coordinates: Mapping[str, float]) -> dict[str, float]:
        """The options at coordinates in [0, 1], one per option of the space.

        With rate and momentum drawn apart, most points would have an effective rate that lies outside the range of plain descent: the
        effective rate decides where descent is stable and how far it comes.

        Source: Shallue et al. 2019, who tune the effective rate.
        """
        options = {name: span.at(coordinates[name]) for name, span in self.space.items()}
        if self.summed:
            options["lr"] *= 1.0 - options[self.summed]
        return options

    def load(self) -> type[Optimizer]:
        """The class.

        Raises:
            UsageError: where its extra is not installed; says which.
        """
        module, _, name = self.import_path.rpartition(".")
        if self.extra:
            require_extra(self.package or module, self.extra)
        return getattr(importlib.import_module(module), name)

    def build(self, params: Iterable[Any], **options: Any) -> Optimizer:
        """The optimizer over parameters or parameter groups, as the class takes them.

        Args:
            params: parameters, named parameters or groups.
            **options: of the class, before those that the name fixes; ``beta1`` and ``beta2`` may stand for its ``betas``.

        Raises:
            UsageError: where the extra is missing, an option is fixed by the name, the rate is negative, or the class refuses an option.
        """
        fixed = sorted(options.keys() & self.options.keys())
        if fixed:
            raise UsageError(f"{self.name} fixes {', '.join(fixed)}: leave it out, or choose another method")
        if "lr" in options and not bool((torch.as_tensor(options["lr"]) >= 0.0).all()):
            raise UsageError(f"{self.name}: lr is {options['lr']}: a rate of at least 0 is needed")
        cls = self.load()
        try:
            return cls(params, **{**self.defaults, **self.options, **_joined_betas(cls, options)})
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self.name} cannot be built with {options}: {error}") from error


def _joined_betas(cls: type[Optimizer], options: dict[str, Any]) -> dict[str, Any]:
    """``beta1`` and ``beta2`` as the tuple that most optimizers take; what is not given keeps the default of the class."""
    betas = inspect.signature(cls).parameters.get("betas")
    if betas is None or not options.keys() & {"beta1", "beta2"}:
        return options
    joined = {key: value for key, value in options.items() if key not in ("beta1", "beta2")}
    return joined | {"betas": (options.get("beta1", betas.default[0]), options.get("beta2", betas.default[1]))}
