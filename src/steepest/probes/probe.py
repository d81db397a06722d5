"""The base of all probes, and what a probe may ask of the run it watches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.probes.events import (
    Backward,
    Comparison,
    Criterion,
    Epoch,
    Forward,
    LossPoint,
    ModuleCall,
    ModuleGradient,
    Step,
)


@runtime_checkable
class Measurement(Protocol):
    """What a probe found: a frozen record of numbers, without tensors."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form; never NaN."""
        ...


M = TypeVar("M")


class Run(Protocol):
    """The run as a probe sees it: facts that the observer gathers anyway, so that no probe has to."""

    @property
    def steps(self) -> int:
        """Steps of all optimizers so far."""
        ...

    @property
    def losses(self) -> Sequence[LossPoint]:
        """Every value of the loss so far, in order."""
        ...

    @property
    def models(self) -> Sequence[nn.Module]:
        """The modules with parameters that were called outermost and are still alive, in the order of their first calls."""
        ...

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers that were made or have stepped and are still alive."""
        ...

    def module_name(self, module: nn.Module) -> str:
        """The qualified name of a module under its model; its class where it has none."""
        ...

    def parameter_name(self, parameter: Tensor) -> str:
        """The qualified name of a parameter under its model; its place in its optimizer where it has none."""
        ...

    def note(self, text: str) -> None:
        """Say something that people should know about what was observed; the same sentence is kept once."""
        ...


class Probe:
    """A question asked of a training run. Override what you need; the observer calls only what is overridden.

    An exception in any method drops this probe, with a note, and training goes on. Every method runs under ``torch.no_grad`` with
    all hooks of the observer silent; a method that differentiates enables gradients itself. State the cost in the class docstring.
    """

    run: Run

    every: int = 1
    """Ask only in each so-manyth sampled window: other windows reach this probe with ``sampled`` False and without module events."""

    def start(self, run: Run) -> None:
        """Watching begins; keeps ``run``."""
        self.run = run

    def on_forward(self, event: Forward) -> None:
        """A model was applied."""

    def on_module(self, event: ModuleCall) -> None:
        """Any module was applied, in a sampled window."""

    def on_module_gradient(self, event: ModuleGradient) -> None:
        """The gradient in a module's output is known, in a sampled window."""

    def on_criterion(self, event: Criterion) -> None:
        """A loss function was called."""

    def on_comparison(self, event: Comparison) -> None:
        """A prediction was compared with something."""

    def before_backward(self, event: Backward) -> None:
        """A backward pass is about to begin."""

    def after_backward(self, event: Backward) -> None:
        """A backward pass has ended."""

    def before_step(self, event: Step) -> None:
        """An optimizer is about to step: gradients are as it will use them."""

    def after_step(self, event: Step) -> None:
        """An optimizer has stepped."""

    def on_optimizer(self, optimizer: Optimizer) -> None:
        """An optimizer was made, or seen for the first time."""

    def on_epoch(self, event: Epoch) -> None:
        """A data loader begins to be read."""

    def finish(self) -> Measurement | None:
        """The run is over: what was measured, or None if there was nothing to measure."""
        return None
