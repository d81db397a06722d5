"""Evolution on islands: for few inputs, where the steep regions are small and gradients do not lead there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from steepest.witnesses.budget import Budget
from steepest.witnesses.found import Found
from steepest.witnesses.landscape import Landscape
from steepest.witnesses.starts import Terrain


@dataclass(frozen=True)
class Evolution:
    """Every island keeps its steepest point and tries random steps of all sizes from it; the islands are halved again and again.

    Args:
        generations: how many.
        islands: at first; one half of them is left after each of ``halvings + 1`` equal parts of the run.
        children: tried in a generation, over all islands.
        halvings: see there.
    """

    generations: int
    islands: int
    children: int
    halvings: int = 7

    @staticmethod
    def sized(landscape: Landscape, generations: int) -> Evolution:
        """As many children as cost little more than one."""
        children = min(1024, max(8, 2**19 // landscape.entries))
        return Evolution(generations, children // 4, children)

    def run(self, landscape: Landscape, terrain: Terrain, begin: Found, generator: torch.Generator, budget: Budget) -> Found:
        """What is left of the islands, steepest first."""
        kept, whole = begin.best(self.islands), budget.left()
        for generation in range(self.generations):
            if budget.passed():
                break
            late = 0.0 if whole == math.inf else 1.0 - budget.left() / whole
            part = max(generation / self.generations, late)
            kept = kept.best(max(1, self.islands >> int(part * (self.halvings + 1))))
            count = len(kept.x)
            each = max(1, self.children // count)
            parents = kept.take(torch.arange(count).repeat_interleave(each))
            rows = len(parents.x)
            size = 10 ** (-5.0 * torch.rand(rows, 1, generator=generator, dtype=terrain.dtype))
            # In all coordinates, or in some.
            share = torch.rand(rows, 1, generator=generator).clamp(min=1.0 / landscape.inputs)
            some = torch.rand(parents.x.shape, generator=generator) < share
            x = torch.where(some, terrain.jitter(parents.x, size, generator), parents.x)
            value, v = landscape.hard(x, parents.v, 2)
            first = value.reshape(count, each).argmax(-1) + each * torch.arange(count)
            kept = kept.improved(Found(x, v, value).take(first))
        return kept.best(len(kept.x))
