"""Trials on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from steepest import jobs
from steepest.race.trial import Setting
from steepest.results.race import RacedTrial


@dataclass(frozen=True)
class Store(jobs.Store[Setting, RacedTrial]):
    """A folder of finished trials, each under the digest of its full setting."""

    format: ClassVar[str] = "steepest-trial/1"

    def encode(self, job: Setting, result: RacedTrial) -> dict[str, Any]:
        """The setting, for readers, and the trial."""
        return {"setting": asdict(job), "trial": result.to_json()}

    def decode(self, content: Mapping[str, Any]) -> RacedTrial:
        """The trial."""
        return RacedTrial.from_json(content["trial"])
