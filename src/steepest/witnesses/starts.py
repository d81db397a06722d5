"""Where a search begins: points of a domain at many scales, near data and away from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.results import Domain
from steepest.witnesses.chart import Chart, FirstLayer, Free, InBall, InBox, Preconditioner
from steepest.witnesses.secant import pull_inside

FEW = 16
"""Up to so many inputs, sampling, small boxes and evolution find what gradients miss."""


@dataclass(frozen=True, eq=False)
class Terrain:
    """A domain with a sense of scale: what is typical, from data where there are any, else from the first layer.

    Args:
        domain: where points may lie.
        data: flat typical inputs ``[count, n]`` within the domain, possibly none.
        scale: a typical scale of each input, ``[n]``, positive.
        least, most: how far from zero an unbounded search reaches, from and to.
        preconditioner: for unbounded searches.
    """

    domain: Domain
    data: Tensor
    scale: Tensor
    least: float
    most: float
    preconditioner: Preconditioner | None

    @staticmethod
    def of(graph: Graph, domain: Domain, data: Tensor | None, dtype: torch.dtype) -> Terrain:
        """Scales of a network and a domain."""
        inputs = math.prod(graph.input_shape)
        seen = torch.zeros(0, inputs, dtype=torch.float64) if data is None else data.detach().to(torch.float64).reshape(-1, inputs)
        seen = seen[torch.isfinite(seen).all(-1)]
        if len(seen) > 4096:
            seen = seen[torch.linspace(0, len(seen) - 1, 4096).long()]
        layer = FirstLayer.of(graph)
        spread = (seen - seen.mean(0)).square().mean(0).sqrt() if len(seen) > 1 else seen.abs().sum(0)
        if (spread > 0).any():
            low = high = spread.square().mean().sqrt().item()
            scale = spread.clamp(min=1e-2 * low if inputs > FEW else 1e-9 * low)
        else:
            scale = torch.ones(inputs, dtype=torch.float64) if layer is None else layer.kinks()
            natural = scale.log().mean().exp().item()
            low, high = min(natural, 1.0), max(natural, 1.0)
        preconditioner = None
        if domain.kind == "all" and inputs <= FEW:
            preconditioner = Preconditioner.diagonal((scale / scale.log().mean().exp()).to(dtype))
        elif domain.kind == "all" and layer is not None:
            preconditioner = Preconditioner.of(layer, dtype)
        return Terrain(domain, pull_inside(domain, seen).to(dtype), scale.to(dtype), low * 10**-1.5, high * 10**1.5, preconditioner)

    @property
    def inputs(self) -> int:
        """Number of input entries."""
        return len(self.scale)

    @property
    def dtype(self) -> torch.dtype:
        """Of the points."""
        return self.scale.dtype

    def boxes(self, shape: tuple[int, ...], count: int) -> list[Terrain]:
        """Boxes of growing width at the domain's own scale, for searching all inputs where steep regions are small."""
        middle = self.data.mean(0).double() if len(self.data) else torch.zeros(self.inputs, dtype=torch.float64)
        scale = self.scale.double() / self.scale.double().log().mean().exp()
        low, high = math.log10(0.5 * self.least * 10**1.5), math.log10(2.0 * self.most * 10**-1.5)
        terrains = []
        for half in torch.logspace(low, high, count, dtype=torch.float64).tolist():
            lo, hi = ((middle + sign * half * scale).reshape(shape).numpy() for sign in (-1.0, 1.0))
            box = Domain("box", lo=lo, hi=hi)
            data = pull_inside(box, self.data.double()).to(self.dtype)
            terrains.append(Terrain(box, data, self.scale, self.least, self.most, None))
        return terrains

    @property
    def unit(self) -> float:
        """The middle scale."""
        return math.sqrt(self.least * self.most)

    def sides(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ends of a box and its width, or a typical scale where a side is unbounded or has no width."""
        assert self.domain.lo is not None and self.domain.hi is not None
        lo = torch.from_numpy(self.domain.lo.reshape(-1).copy())
        hi = torch.from_numpy(self.domain.hi.reshape(-1).copy())
        width = hi - lo
        width = torch.where(torch.isfinite(width), width, self.unit)
        return lo.to(self.dtype), hi.to(self.dtype), torch.where(width > 0, width, 1.0).to(self.dtype)

    def draw(self, count: int, generator: torch.Generator, spread: Tensor | None = None) -> Tensor:
        """Random flat points of the domain ``[count, n]``: half near data where there are any.

        Args:
            count: how many.
            generator: of the randomness.
            spread: scales of the unbounded draws, ``[count, 1]``; by default log-uniform from ``least`` to ``most``.
        """
        near = count // 2 if len(self.data) else 0
        far = count - near
        normal = torch.randn(count, self.inputs, generator=generator, dtype=self.dtype)
        uniform = torch.rand(count, self.inputs, generator=generator, dtype=self.dtype)
        share = torch.rand(count, 1, generator=generator, dtype=self.dtype)
        if spread is None:
            spread = self.least * (self.most / self.least) ** share
        if self.domain.kind == "all":
            points = spread * normal
            if self.preconditioner is not None:
                variables = torch.randn(count, self.preconditioner.forward.shape[1], generator=generator, dtype=self.dtype)
                conditioned = spread * (variables @ self.preconditioner.forward.mT)
                points = torch.where(torch.arange(count)[:, None] % 4 == 3, points, conditioned)
            reach = self.unit * 10 ** (3.0 * share - 2.0)
        elif self.domain.kind == "box":
            lo, hi, width = self.sides()
            corner = (uniform < share).to(self.dtype)
            where = torch.where(torch.arange(count)[:, None] % 2 == 0, uniform, corner)
            anchor = torch.where(torch.isfinite(lo), lo, torch.where(torch.isfinite(hi), hi, 0.0))
            bounded = torch.isfinite(hi - lo)
            points = torch.where(bounded, lo.nan_to_num(neginf=0.0) + width * where, anchor + spread * normal)
            points = torch.minimum(torch.maximum(points, lo), hi)
            reach = width * 10 ** (3.0 * share - 3.0)
        else:
            points = self._in_ball(normal, uniform, share)
            assert self.domain.radius is not None
            reach = self.domain.radius / math.sqrt(self.inputs) * 10 ** (2.0 * share - 2.0)
        if near:
            # The first of these stay where the data are.
            moved = torch.arange(near)[:, None] >= near // 4
            picked = self.data[torch.randint(len(self.data), (near,), generator=generator)]
            points[far:] = picked + moved * (reach * normal)[far:]
        return self.keep(points)

    def _in_ball(self, normal: Tensor, uniform: Tensor, share: Tensor) -> Tensor:
        """Half on the sphere, half within; corners and single coordinates among them."""
        assert self.domain.centre is not None and self.domain.radius is not None and self.domain.norm is not None
        norm = self.domain.norm
        if norm == math.inf:
            direction = torch.where(torch.arange(len(normal))[:, None] % 2 == 0, 2.0 * uniform - 1.0, normal.sign())
        else:
            sparse = normal * (uniform < 10 ** (-3.0 * share))
            direction = torch.where(torch.arange(len(normal))[:, None] % 2 == 0, normal, sparse)
            direction = direction / torch.linalg.vector_norm(direction, ord=norm, dim=-1, keepdim=True).clamp(min=1e-30)
        inner = torch.where(share < 0.5, 1.0, 2.0 * (share - 0.5))
        centre = torch.from_numpy(self.domain.centre.reshape(-1).copy()).to(self.dtype)
        return centre + self.domain.radius * inner * direction

    def keep(self, x: Tensor) -> Tensor:
        """Points drawn into the domain, in float64 and back."""
        return x if self.domain.kind == "all" else pull_inside(self.domain, x.to(torch.float64)).to(self.dtype)

    def jitter(self, x: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
        """Points moved by a normal step of ``share`` (``[count, 1]``) of the domain's scale, or of their own where it has none."""
        step = share * torch.randn(x.shape, generator=generator, dtype=self.dtype)
        if self.domain.kind == "all":
            step = step * x.square().mean(-1, keepdim=True).sqrt().clamp(min=self.least)
        elif self.domain.kind == "box":
            step = step * self.sides()[2]
        else:
            assert self.domain.radius is not None
            step = step * (self.domain.radius / (1.0 if self.domain.norm == math.inf else math.sqrt(self.inputs)))
        return self.keep(x + step)

    def chart(self, x: Tensor) -> Chart:
        """Coordinates for climbing from the given points."""
        if self.domain.kind == "all":
            variables = x if self.preconditioner is None else x @ self.preconditioner.inverse.mT
            size = variables.square().mean(-1, keepdim=True).sqrt()
            size = torch.where(size > 1e-3 * self.least, size, self.least)
            start = variables / size
            flat = Free(torch.zeros_like(x), size, start, self.preconditioner)
            # What the first layer does not see stays where it is.
            return Free(x - flat.points(start), size, start, self.preconditioner)
        if self.domain.kind == "box":
            lo, hi, width = self.sides()
            return InBox(lo, hi, width, x, torch.arange(len(x))[:, None] % 2 == 0)
        assert self.domain.centre is not None and self.domain.radius is not None and self.domain.norm is not None
        centre = torch.from_numpy(self.domain.centre.reshape(-1).copy()).to(self.dtype)
        return InBall(centre, self.domain.radius, self.domain.norm, x)


@dataclass(eq=False)
class Scales:
    """The scales at which searches of all inputs start: spread evenly at first, then most of them where others did well.

    Args:
        terrain: its range of scales is where they may lie.
        spreads: of the starts so far.
        values: what they reached.
    """

    terrain: Terrain
    spreads: Tensor
    values: Tensor

    @staticmethod
    def of(terrain: Terrain) -> Scales:
        """Nothing learnt yet."""
        return Scales(terrain, torch.zeros(0, 1, dtype=terrain.dtype), torch.zeros(0, dtype=terrain.dtype))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Scales ``[count, 1]``: three in four near those of the best tenth so far."""
        low, high = math.log10(self.terrain.least), math.log10(self.terrain.most)
        spread = torch.logspace(low, high, count, dtype=self.terrain.dtype)[:, None]
        if not len(self.values):
            return spread
        good = self.spreads[self.values.topk(-(-len(self.values) // 10)).indices]
        near = good[torch.randint(len(good), (count,), generator=generator)]
        near = near * 10 ** (0.3 * torch.randn(count, 1, generator=generator, dtype=spread.dtype))
        return torch.where(torch.arange(count)[:, None] % 4 == 0, spread, near.clamp(0.1 * self.terrain.least, 10.0 * self.terrain.most))

    def learn(self, spread: Tensor, value: Tensor) -> None:
        """What starts at these scales reached; those near data were not drawn by them."""
        drawn = len(spread) - (len(spread) // 2 if len(self.terrain.data) else 0)
        self.spreads = torch.cat([self.spreads, spread[:drawn]])
        self.values = torch.cat([self.values, value[:drawn]])
