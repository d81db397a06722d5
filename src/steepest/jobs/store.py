"""Results on disk: one small JSON each, there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from steepest.errors import UsageError


class Job(Protocol):
    """Something to be done, known by everything that decides its outcome."""

    @property
    def digest(self) -> str:
        """sha256 by which its result is found again."""
        ...


J = TypeVar("J", bound=Job)
R = TypeVar("R")


@dataclass(frozen=True)
class Store(ABC, Generic[J, R]):
    """A folder of finished jobs, each under its digest.

    Args:
        folder: made when the first result is written.
    """

    format: ClassVar[str]
    """Written into every file; of another format nothing is read."""

    folder: Path

    @abstractmethod
    def encode(self, job: J, result: R) -> dict[str, Any]:
        """What is written, as JSON."""

    @abstractmethod
    def decode(self, content: Mapping[str, Any]) -> R:
        """The result again.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """

    def read(self, job: J) -> R | None:
        """The result of that job; None where there is none, or its file is damaged."""
        try:
            content = json.loads(self._path(job).read_text(encoding="utf-8"))
            return self.decode(content) if content["format"] == self.format else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, job: J, result: R) -> None:
        """Keep a result, in one step.

        Raises:
            UsageError: where it cannot be written.
        """
        content = {"format": self.format, **self.encode(job, result)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".job.")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(content, file, allow_nan=False)
                os.replace(temporary, self._path(job))
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise UsageError(f"cannot write into {self.folder}: {error.strerror}") from error

    def clear(self) -> None:
        """Forget all results; other files in the folder stay."""
        for path in self.folder.glob("*.json"):
            if len(path.stem) == 64 and set(path.stem) <= set("0123456789abcdef"):
                path.unlink()

    def _path(self, job: J) -> Path:
        return self.folder / f"{job.digest}.json"
