"""Checkpoints of a synchronous run, from which it goes on bit for bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from steepest.distributed.method import require_period
from steepest.errors import UsageError


@dataclass(frozen=True)
class Checkpoints:
    """A folder that all processes reach; one file per rank and step.

    Every rank writes its own state (between two averages workers differ, and so do the states of their optimizers); older files go only
    when all ranks have written the new ones. So whenever a process is killed, there is a step whose files are complete.

    Args:
        folder: made where it is missing; of one run.
        every: steps between two checkpoints, at least 1.
    """

    folder: str | Path
    every: int = 100

    def __post_init__(self) -> None:
        require_period("every", self.every)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write this rank's state; waits for the other ranks."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = self._path(step)
        part = path.with_suffix(".part")
        with part.open("wb") as out:
            torch.save(dict(state), out)
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
        dist.barrier()
        for older in self._steps():
            if older < step:
                self._path(older).unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """This rank's state at the last step that all ranks have; None where there is none.

        Raises:
            UsageError: where the files are of a run with another number of processes.
        """
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, self._steps())
        others = [p for p in Path(self.folder).glob("rank*-step*.pt") if int(p.name[4 : p.name.index("-")]) >= dist.get_world_size()]
        common = set(found[0]).intersection(*found[1:])
        if others or (any(found) and not common):
            raise UsageError(
                f"{self.folder} holds checkpoints of another run: start as many processes as that run had, or give an empty folder"
            )
        return torch.load(self._path(max(common)), weights_only=True) if common else None

    def _path(self, step: int) -> Path:
        return Path(self.folder) / f"rank{dist.get_rank()}-step{step}.pt"

    def _steps(self) -> list[int]:
        return sorted(int(p.stem.rpartition("step")[2]) for p in Path(self.folder).glob(f"rank{dist.get_rank()}-step*.pt"))
