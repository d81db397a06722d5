"""What was measured in one run, as the rules read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from steepest.probes.finite import NonFinite
from steepest.probes.fit import Fit
from steepest.probes.inputs import Inputs
from steepest.probes.leak import Leak
from steepest.probes.losses import Losses
from steepest.probes.modes import Modes
from steepest.probes.parameters import Parameters
from steepest.probes.reachable import Reachable
from steepest.probes.signals import Signals
from steepest.probes.steps import Steps
from steepest.probes.task import Task

RECORDS: tuple[type[Any], ...] = (Losses, Task, Fit, Inputs, Reachable, Signals, Parameters, Steps, Modes, Leak, NonFinite)


@dataclass(frozen=True)
class Case:
    """The records of the probes; None where a probe had nothing to say."""

    losses: Losses | None = None
    task: Task | None = None
    fit: Fit | None = None
    inputs: Inputs | None = None
    reachable: Reachable | None = None
    signals: Signals | None = None
    parameters: Parameters | None = None
    steps: Steps | None = None
    modes: Modes | None = None
    leak: Leak | None = None
    nonfinite: NonFinite | None = None

    @classmethod
    def of(cls, records: Iterable[Any]) -> Self:
        """From records of probes in any order; others are left out."""
        names = dict(zip(RECORDS, (f.name for f in fields(cls)), strict=True))
        return cls(**{names[type(r)]: r for r in records if type(r) in names})

    @classmethod
    def from_json(cls, measurements: Mapping[str, Any]) -> Self:
        """From the JSON of a run: the name of each record to its fields."""
        return cls.of(kind.from_json(measurements[kind.__name__]) for kind in RECORDS if kind.__name__ in measurements)
