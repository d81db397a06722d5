"""Hands events to probes, and keeps whatever goes wrong there away from the script."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from steepest.probes.events import Event
from steepest.probes.probe import Probe
from steepest.watch.run import WatchedRun

_METHODS = (
    "on_forward",
    "on_module",
    "on_module_gradient",
    "on_criterion",
    "on_comparison",
    "before_backward",
    "after_backward",
    "before_step",
    "after_step",
    "on_optimizer",
    "on_epoch",
)
_COSTLY = ("on_module", "on_module_gradient")


class Listeners:
    """The probes of one run, by what they listen to.

    Nothing here raises into the script: a probe that fails is dropped, and if the observer fails itself it goes blind.

    Args:
        run: what is filled, and what the probes may ask.
    """

    def __init__(self, run: WatchedRun) -> None:
        self.run = run
        self.seeing, self.busy = True, False
        self.windows_left, self.windows, self.spent = 1, 1, 0.0
        self.probes: list[Probe] = []
        self.listeners: dict[str, list[tuple[Probe, Callable[[Any], None]]]] = {m: [] for m in _METHODS}

    def ask(self, probes: Sequence[Probe]) -> None:
        """Begin with these probes."""
        for probe in probes:
            if self._ask(probe, "start", probe.start, self.run):
                self.probes.append(probe)
        self._listen()

    def guard(self, action: Callable[[], object]) -> None:
        """Run our own work: silent, without gradients, and whatever goes wrong stays here."""
        if self.busy or not self.seeing:
            return
        start = time.perf_counter() if self.windows_left else math.inf
        self.busy = True
        # As torch.no_grad() does, without its object: this runs several times in every step.
        grad = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            action()
        except Exception as error:
            self.step_aside(error)
        finally:
            torch._C._set_grad_enabled(grad)
            self.busy = False
            self.spent += max(time.perf_counter() - start, 0.0)

    def safely(self, action: Callable[..., object], *arguments: Any) -> None:
        """Take something down that the script did; whatever goes wrong stays here."""
        try:
            action(*arguments)
        except Exception as error:
            self.step_aside(error)

    def step_aside(self, error: Exception) -> None:
        """See nothing more."""
        self.seeing = False
        self.run.note(f"the observer stopped watching after step {self.run.steps}: {type(error).__name__}: {error}")

    def tell(self, method: str, event: Event) -> None:
        """Hand an event to all who listen."""
        listeners = self.listeners[method]
        for probe, call in tuple(listeners) if listeners else ():
            told = event
            if event.sampled and probe.every > 1 and (self.windows - 1) % probe.every:
                if method in _COSTLY:
                    continue
                told = replace(event, sampled=False)
            self._ask(probe, method, call, told)

    def _ask(self, probe: Probe, method: str, call: Callable[..., Any], *told: Any) -> bool:
        try:
            call(*told)
        except Exception as error:
            self.run.note(f"the probe {type(probe).__name__} was dropped: {method} raised {type(error).__name__}: {error}")
            self.probes = [p for p in self.probes if p is not probe]
            self._listen()
            return False
        return True

    def _listen(self) -> None:
        for method, listeners in self.listeners.items():
            listeners[:] = [(p, getattr(p, method)) for p in self.probes if getattr(type(p), method) is not getattr(Probe, method)]
