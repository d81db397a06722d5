"""Samples of the data as the run shows them: rows of inputs with their targets, without repetition, bounded in memory."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

WIDEST = 4096
"""Inputs with more entries a row are thinned to this many."""


def fingerprints(x: Tensor, most: int = 256) -> list[int]:
    """A checksum of the exact bytes of each of the first ``most`` rows."""
    rows = x.detach()[:most].cpu().contiguous()
    if rows.dtype == torch.bfloat16:
        rows = rows.float()
    return [zlib.crc32(np.ascontiguousarray(r).tobytes()) for r in rows.reshape(len(rows), -1).numpy()]


def thinned(x: Tensor, widest: int = WIDEST) -> Tensor:
    """Rows flattened, on the CPU, every so-manyth entry kept where there are more than ``widest``."""
    flat = x.detach().reshape(len(x), -1)
    stride = -(-flat.shape[1] // widest)
    return flat[:, ::stride].cpu().clone()


@dataclass
class Examples:
    """Distinct rows (input, target): ``per_batch`` of a batch at most, so that sorted data are met in full, and ``most`` in all."""

    most: int = 768
    per_batch: int = 16
    inputs: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    known: set[int] = field(default_factory=set)
    offset: int = 0
    repeats: int = 0

    @property
    def full(self) -> bool:
        """Whether nothing more is taken: there are enough rows, or the last batches brought nothing new."""
        return len(self.known) >= self.most or self.repeats >= 200

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take some rows of a batch; x and y have the same length."""
        if self.full or len(x) != len(y) or not len(x):
            return
        start = self.offset % len(x)
        self.offset += self.per_batch if len(x) > self.per_batch else 0
        x, y = x[start : start + self.per_batch], y[start : start + self.per_batch]
        fresh = []
        for i, mark in enumerate(fingerprints(x)):
            if mark not in self.known and len(self.known) < self.most:
                self.known.add(mark)
                fresh.append(i)
        self.repeats = 0 if fresh else self.repeats + 1
        if fresh:
            self.inputs.append(thinned(x[fresh]))
            self.targets.append(thinned(y[fresh], 64))

    def stacked(self) -> tuple[Tensor, Tensor] | None:
        """All rows; None where there are none or their widths differ."""
        if not self.inputs or len({x.shape[1] for x in self.inputs}) > 1 or len({y.shape[1] for y in self.targets}) > 1:
            return None
        return torch.cat(self.inputs), torch.cat(self.targets)
