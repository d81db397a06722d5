"""A run that was watched: its losses, its steps, what the probes measured."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.probes.events import LossPoint
from steepest.probes.probe import Measurement

M = TypeVar("M")
_UNREAD = 256


class WatchedRun:
    """What ``with steepest.watch() as run`` gives: it fills while the block runs and is final after it. It holds no tensor of the run."""

    def __init__(self) -> None:
        self.steps = 0
        self.backwards = 0
        self.by_hand = False
        self._losses: list[LossPoint] = []
        self._unread: list[tuple[int, Tensor]] = []
        self._notes: dict[str, None] = {}
        self._records: tuple[Measurement, ...] = ()
        self._models: list[weakref.ref[nn.Module]] = []
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._module_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._parameter_names: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def __repr__(self) -> str:
        """One line: how much was seen."""
        last = f", last loss {self.losses[-1].value:.6g}" if self.losses else ""
        return f"<watched run: {self.steps} steps, {self.backwards} backward passes{last}>"

    @property
    def losses(self) -> Sequence[LossPoint]:
        """The value of the loss at every backward pass from a single number, in order."""
        self._read()
        return tuple(self._losses)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be observed, in sentences."""
        return tuple(self._notes)

    @property
    def models(self) -> Sequence[nn.Module]:
        """The modules with parameters that were called outermost and are still alive, in the order of their first calls."""
        return [m for m in (ref() for ref in self._models) if m is not None]

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers that were made or have stepped and are still alive."""
        return [o for o in (ref() for ref in self._optimizers) if o is not None]

    def measurements(self) -> tuple[Measurement, ...]:
        """The records of all probes that measured something; empty until the run is over."""
        return self._records

    def get(self, kind: type[M]) -> M | None:
        """The record of one type, or None where its probe had nothing to say."""
        return cast("M | None", next((r for r in self._records if isinstance(r, kind)), None))

    def note(self, text: str) -> None:
        """Keep a sentence, once."""
        self._notes[text] = None

    def module_name(self, module: nn.Module) -> str:
        """The qualified name of a module under its model; its class where it has none."""
        name = self._module_names.get(module)
        if name is None:
            for model in self.models:
                self._name_below(model, self._module_names[model])
            name = self._module_names.setdefault(module, type(module).__name__)
        return name

    def parameter_name(self, parameter: Tensor) -> str:
        """The qualified name of a parameter under its model; its place in its optimizer where it has none."""
        known = self._known(parameter)
        if known is None:
            for model in self.models:
                self._name_below(model, self._module_names[model])
            known = self._known(parameter)
        return known or self._place(parameter)

    def add_model(self, model: nn.Module) -> None:
        """A model is called for the first time; it is named after the script's variable that holds it, else after its class."""
        taken = {self._module_names.get(m) for m in self.models}
        base = name = _variable(model) or type(model).__name__
        count = 1
        while name in taken:
            count += 1
            name = f"{base}#{count}"
        self._models.append(weakref.ref(model))
        self._name_below(model, name)

    def add_loss(self, point: LossPoint, unread: Tensor | None = None) -> None:
        """Keep a value of the loss; ``unread`` is one that would make the accelerator wait and is read later, with others."""
        if unread is not None:
            self._unread.append((len(self._losses), unread))
        self._losses.append(point)
        if len(self._unread) >= _UNREAD:
            self._read()

    def assign_losses(self, count: int, optimizer: int) -> None:
        """The last ``count`` values are those of an optimizer that has just stepped."""
        for i in range(max(len(self._losses) - count, 0), len(self._losses)):
            p = self._losses[i]
            self._losses[i] = LossPoint(p.step, p.value, optimizer, p.weight)

    def close(self, records: tuple[Measurement, ...]) -> None:
        """The run is over."""
        self._read()
        self._records = records
        self._parameter_names.clear()

    def to_json(self) -> dict[str, Any]:
        """The JSON form: counts, losses, notes and the measurements under the names of their records."""
        return {
            "steps": self.steps,
            "backwards": self.backwards,
            "losses": [p.to_json() for p in self.losses],
            "notes": list(self.notes),
            "measurements": {type(r).__name__: r.to_json() for r in self._records},
        }

    def _read(self) -> None:
        if self._unread:
            places, values = zip(*self._unread, strict=True)
            self._unread = []
            for i, value in zip(places, torch.stack([v.float() for v in values]).tolist(), strict=True):
                p = self._losses[i]
                self._losses[i] = LossPoint(p.step, value, p.optimizer, p.weight)

    def _known(self, parameter: Tensor) -> str | None:
        ref, name = self._parameter_names.get(id(parameter), (None, None))
        return name if ref is not None and ref() is parameter else None

    def _name_below(self, model: nn.Module, name: str) -> None:
        for below, module in model.named_modules():
            full = f"{name}.{below}" if below else name
            if below == "" or module not in self._module_names:
                self._module_names[module] = full
            for key, parameter in module.named_parameters(recurse=False):
                if self._known(parameter) is None:
                    self._parameter_names[id(parameter)] = (weakref.ref(parameter), f"{full}.{key}")

    def _place(self, parameter: Tensor) -> str:
        for number, optimizer in enumerate(self.optimizers):
            for g, group in enumerate(optimizer.param_groups):
                for i, candidate in enumerate(group["params"]):
                    if candidate is parameter:
                        return f"optimizer {number}, group {g}, parameter {i}"
        return "a parameter without a name"


def _variable(model: nn.Module) -> str | None:
    """The global variable of the calling script that holds a model."""
    frame = sys._getframe(1)
    seen: set[int] = set()
    while frame is not None:
        scope = frame.f_globals
        if id(scope) not in seen and not str(scope.get("__name__", "")).startswith(("torch.", "steepest.")):
            seen.add(id(scope))
            for name, value in list(scope.items()):
                if value is model and not name.startswith("_"):
                    return name
        frame = frame.f_back
    return None
