"""The proof of a lower bound: the secant slope between two points of the domain, rounded down."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from steepest.graph import Graph
from steepest.numerics.interval import Interval
from steepest.numerics.rounding import ROOT_TINY, above, below, gamma
from steepest.results import Domain

MARGIN = 1e-9
"""Relative distance that points keep from the surface of a ball, so that every sound test of membership accepts them."""


def norm_above(x: Interval, p: float) -> Tensor:
    """Upper bound of ``|x|_p`` along the last axis, over a set."""
    size = x.magnitude()
    slack = 1.0 + gamma(size.shape[-1] + 4)
    if p == math.inf:
        return size.amax(-1)
    if p == 1:
        return above(size.sum(-1) * slack)
    # Divided by a power of two near the largest, so that squares neither overflow nor vanish.
    scale = _power_of_two(size.amax(-1, keepdim=True))
    return above(above(((size / scale).square().sum(-1) * slack + ROOT_TINY).sqrt() * slack) * scale[..., 0])


def norm_below(x: Interval, p: float) -> Tensor:
    """Lower bound of ``|x|_p`` along the last axis, over a set."""
    size = torch.maximum(x.lo, -x.hi).clamp(min=0.0)
    slack = 1.0 - gamma(size.shape[-1] + 4)
    if p == math.inf:
        return size.amax(-1)
    if p == 1:
        return below(size.sum(-1) * slack).clamp(min=0.0)
    scale = _power_of_two(size.amax(-1, keepdim=True))
    return below(below((size / scale).square().sum(-1).sqrt() * slack) * scale[..., 0]).clamp(min=0.0)


def _power_of_two(x: Tensor) -> Tensor:
    usable = torch.where(torch.isfinite(x) & (x > 1e-290), x, 1.0)
    return torch.exp2(torch.floor(torch.log2(usable)))


def slopes_below(graph: Graph, x: Tensor, y: Tensor, p: float) -> Tensor:
    """Lower bounds of ``|f(x) - f(y)|_p / |x - y|_p`` in exact arithmetic.

    Both points pass through the network as intervals with outward rounding; the numerator is the least norm of any
    difference of the two enclosures, the denominator is rounded up. Zero where nothing is known, or ``x = y``.

    Args:
        graph: the network, exact float64 parameters.
        x: ``[count, *input_shape]``, float64.
        y: the same shape.
        p: 1, 2 or inf, at both ends.

    Returns:
        ``[count]``, float64, non-negative and finite.
    """
    count = len(x)
    with torch.no_grad():
        ends = graph.enclose(Interval.point(torch.cat([x, y])))[-1].map(lambda t: t.flatten(1))
    first, second = ends.map(lambda t: t[:count]), ends.map(lambda t: t[count:])
    apart = norm_above(Interval.point(x.flatten(1)) - Interval.point(y.flatten(1)), p)
    moved = norm_below(first - second, p)
    slope = below(moved / apart)
    known = torch.isfinite(moved) & torch.isfinite(apart) & (apart > 0) & (x != y).flatten(1).any(-1)
    return torch.where(known & torch.isfinite(slope), slope.clamp(min=0.0), 0.0)


def inside(domain: Domain, x: Tensor) -> Tensor:
    """Where points ``[count, *input_shape]`` surely lie in the domain: rounding counts against it; ``[count]`` booleans."""
    flat = x.flatten(1)
    finite = torch.isfinite(flat).all(-1)
    if domain.kind == "all":
        return finite
    if domain.kind == "box":
        lo, hi = _ends(domain)
        return finite & (flat >= lo).all(-1) & (flat <= hi).all(-1)
    centre, radius, norm = _ball(domain)
    reach = norm_above(Interval.point(flat) - Interval.point(centre.expand_as(flat)), norm)
    return finite & (reach <= radius * (1.0 - MARGIN / 2))


def pull_inside(domain: Domain, x: Tensor) -> Tensor:
    """Points moved into the domain where they lie outside: clamped to a box, drawn radially into a ball."""
    flat = x.flatten(1)
    if domain.kind == "box":
        lo, hi = _ends(domain)
        flat = torch.minimum(torch.maximum(flat, lo), hi)
    elif domain.kind == "ball":
        centre, radius, norm = _ball(domain)
        kept = radius * (1.0 - MARGIN)
        offset = flat - centre
        if norm == math.inf:
            flat = centre + offset.clamp(-kept, kept)
        else:
            reach = torch.linalg.vector_norm(offset, ord=norm, dim=-1, keepdim=True)
            flat = torch.where(reach > kept, centre + offset * (kept / reach.clamp(min=1e-300)), flat)
    return flat.reshape(x.shape)


def make_room(domain: Domain, x: Tensor, step: Tensor) -> Tensor:
    """Midpoints moved so that ``x - step`` and ``x + step`` lie in the domain, where it is wide enough for both."""
    flat, move = x.flatten(1), step.flatten(1)
    if domain.kind == "box":
        lo, hi = _ends(domain)
        low, high = lo + move.abs(), hi - move.abs()
        middle = torch.nan_to_num(0.5 * lo + 0.5 * hi, nan=0.0, posinf=0.0, neginf=0.0)
        flat = torch.where(low <= high, torch.minimum(torch.maximum(flat, low), high), middle)
    elif domain.kind == "ball":
        centre, radius, norm = _ball(domain)
        offset = flat - centre
        room = (radius * (1.0 - MARGIN) - torch.linalg.vector_norm(move, ord=norm, dim=-1, keepdim=True)).clamp(min=0.0)
        if norm == math.inf:
            flat = centre + torch.minimum(torch.maximum(offset, -room), room)
        else:
            reach = torch.linalg.vector_norm(offset, ord=norm, dim=-1, keepdim=True)
            flat = torch.where(reach > room, centre + offset * (room / reach.clamp(min=1e-300)), flat)
    return flat.reshape(x.shape)


def _ends(domain: Domain) -> tuple[Tensor, Tensor]:
    assert domain.lo is not None and domain.hi is not None
    return _tensor(domain.lo), _tensor(domain.hi)


def _ball(domain: Domain) -> tuple[Tensor, float, float]:
    assert domain.centre is not None and domain.radius is not None and domain.norm is not None
    return _tensor(domain.centre), domain.radius, domain.norm


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64).reshape(-1))
