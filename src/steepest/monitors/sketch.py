"""A fixed random subset of the coordinates of an optimizer's parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The coordinates taken of one parameter; None for all of them."""

    parameter: Tensor
    indices: Tensor | None

    def take(self, tensor: Tensor) -> Tensor:
        """Those coordinates of a tensor shaped like the parameter, ``[n]``; may be a view."""
        if self.indices is None or tensor.is_complex():
            flat = entries(tensor)
            return flat if self.indices is None else flat.index_select(0, self.indices)
        return tensor.take(self.indices)


@dataclass(frozen=True)
class Sketch:
    """``size`` of ``total`` coordinates, uniformly without replacement, the same ones at each step.

    A complex parameter counts as its real and imaginary parts, which the methods treat as coordinates of their own. A sum over all
    coordinates is estimated by ``total / size`` times the sum over the sketch: unbiased, and exact where all are taken.
    """

    shares: tuple[tuple[Share, ...], ...]
    size: int
    total: int

    @staticmethod
    def of(groups: Sequence[Sequence[Tensor]], size: int, seed: int = 0) -> Sketch:
        """A sketch of groups of parameters. Draws from a generator of its own."""
        total = sum(_size(p) for group in groups for p in group)
        size = min(size, total)
        chosen = None
        if size < total:
            # Distinct after unique: a few fewer than asked for, where the share is large.
            draws = torch.randint(total, (size,), generator=torch.Generator().manual_seed(seed))
            chosen = torch.unique(draws)
            size = len(chosen)
        shares, start = [], 0
        for group in groups:
            own = []
            for p in group:
                end = start + _size(p)
                if chosen is None:
                    own.append(Share(p, None))
                else:
                    inside = chosen[(chosen >= start) & (chosen < end)] - start
                    if len(inside):
                        own.append(Share(p, inside.to(p.device)))
                start = end
            shares.append(tuple(own))
        return Sketch(tuple(shares), size, total)

    @property
    def scale(self) -> float:
        """What sums over the sketch are multiplied by."""
        return self.total / max(self.size, 1)


def entries(tensor: Tensor) -> Tensor:
    """The real coordinates of a tensor, flat; may be a view."""
    return torch.view_as_real(tensor.resolve_conj()).reshape(-1) if tensor.is_complex() else tensor.reshape(-1)


def _size(parameter: Tensor) -> int:
    return parameter.numel() * (2 if parameter.is_complex() else 1)


def gather(shares: Sequence[Share], of: Callable[[Tensor], Tensor | None]) -> Tensor:
    """The sketch of a tensor per parameter, concatenated, a copy in float64; zeros where a parameter has none. Call it under no_grad."""
    return gather_rows(shares, of)[0]


def gather_rows(shares: Sequence[Share], *of: Callable[[Tensor], Tensor | None]) -> Tensor:
    """The same of several tensors per parameter at once, ``[len(of), coordinates]``."""
    parts = [
        share.take(torch.zeros_like(share.parameter) if (t := each(share.parameter)) is None else t) for each in of for share in shares
    ]
    device = parts[0].device
    joined = torch.cat([p if p.device == device else p.to(device) for p in parts])
    return (joined if joined.dtype == torch.float64 else joined.double()).view(len(of), -1)
