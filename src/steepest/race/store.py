"""Trials on disk: one small JSON each, there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from steepest.errors import UsageError
from steepest.race.trial import Setting
from steepest.results.race import RacedTrial

_FORMAT = "steepest-trial/1"


@dataclass(frozen=True)
class Store:
    """A folder of finished trials, each under the digest of its full setting.

    Args:
        folder: made when the first trial is written.
    """

    folder: Path

    def read(self, setting: Setting) -> RacedTrial | None:
        """The trial of that setting; None where there is none, or its file is damaged."""
        try:
            content = json.loads(self._path(setting).read_text(encoding="utf-8"))
            return RacedTrial.from_json(content["trial"]) if content["format"] == _FORMAT else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, setting: Setting, trial: RacedTrial) -> None:
        """Keep a trial, in one step.

        Raises:
            UsageError: where it cannot be written.
        """
        content = {"format": _FORMAT, "setting": asdict(setting), "trial": trial.to_json()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".trial.")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(content, file, allow_nan=False)
                os.replace(temporary, self._path(setting))
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise UsageError(f"cannot write into {self.folder}: {error.strerror}") from error

    def clear(self) -> None:
        """Forget all trials; other files in the folder stay."""
        for path in self.folder.glob("*.json"):
            if len(path.stem) == 64 and set(path.stem) <= set("0123456789abcdef"):
                path.unlink()

    def _path(self, setting: Setting) -> Path:
        return self.folder / f"{setting.digest}.json"
