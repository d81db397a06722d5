"""The nearest change of answer by projected gradient descent on the margin, in a ball that shrinks as it succeeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.robustness.attack import DUAL, steepest
from steepest.robustness.decisions import Decisions


@dataclass(frozen=True)
class ShrinkingPGD:
    """Descends the margin ``f_c - f_j`` in a ball that shrinks while the answer is another, and grows while it is not.

    Each start descends the margin to one class, the nearest ones first by linearisation, the first start to whichever is ahead; from the
    best point known, or from a random place. Steps shrink with the cosine, and so does the change of the ball. All starts of all inputs
    go at once.

    Args:
        p: norm of the perturbation: 1, 2 or inf.
        starts: for each input.
        steps: gradients of each start.
        seed: of the random places.

    Source: Madry et al. 2018 (PGD), Carlini and Wagner 2017 (margin), Rony et al. 2019 and Pintor et al. 2021 (the ball that adapts).
    """

    p: float = 2.0
    starts: int = 5
    steps: int = 60
    seed: int = 0

    def points(self, at: Decisions, begin: Tensor, reach: Tensor) -> Tensor:
        """The nearest point with another answer that each start has met, or where it ended.

        Args:
            at: n inputs.
            begin: ``[n, *input_shape]``, the best points known.
            reach: ``[n]``, their distances or, where they have the input's own answer, the scale of what to try; finite and positive.

        Returns:
            ``[n, starts, *input_shape]``.
        """
        n, s = len(at.x), self.starts
        generator = torch.Generator().manual_seed(self.seed)
        size = at.x[0].numel()
        x = at.x.flatten(1)[:, None].expand(n, s, size).reshape(n * s, size)
        unit = reach[:, None].expand(n, s).reshape(-1, 1)
        noise = torch.randn(n * s, size, generator=generator, dtype=torch.float64)
        noise = noise / torch.linalg.vector_norm(noise, self.p, dim=1, keepdim=True).clamp(min=1e-30)
        first = torch.arange(s).repeat(n)[:, None] == 0
        known = (begin - at.x).flatten(1)[:, None].expand(n, s, size).reshape(n * s, size)
        delta = torch.where(first, known, noise * unit * torch.rand(n * s, 1, generator=generator, dtype=torch.float64))
        target = self._targets(at)
        best, nearest = delta.clone(), torch.full((n * s, 1), math.inf, dtype=torch.float64)
        radius = unit.clone()
        for k in range(self.steps):
            share = 0.5 * (1.0 + math.cos(math.pi * k / self.steps))
            margin, gradient = self._margin(at, x + delta, target)
            length = torch.linalg.vector_norm(delta, self.p, dim=1, keepdim=True)
            nearer = (margin < 0) & (length < nearest)
            best, nearest = torch.where(nearer, delta, best), torch.where(nearer, length, nearest)
            turn = 0.005 + 0.1 * share
            radius = torch.where(margin < 0, torch.minimum(radius, length) * (1.0 - turn), radius * (1.0 + turn))
            radius = torch.minimum(radius, nearest * (1.0 - 1e-4))
            # In l1 the steepest step moves one entry alone; every other step goes along the gradient, so that more of them are found.
            step = steepest(-gradient, 2.0 if self.p == 1 and k % 2 == 0 else self.p)
            delta = project(delta + (0.01 + 0.3 * share) * unit * step, radius, self.p)
        return (x + best).reshape(n, s, *at.x.shape[1:])

    def _targets(self, at: Decisions) -> Tensor:
        """For each start the class it goes for, ``[n starts]``; -1 for whichever is ahead."""
        z = at.x.clone().requires_grad_()
        values = at.graph.evaluate(z).flatten(1)
        others = at.others.gather(1, at.margins.argsort(1)[:, : max(self.starts, 10)])
        gaps = values.gather(1, at.answer[:, None]) - values.gather(1, others)
        lengths = [
            torch.linalg.vector_norm(torch.autograd.grad(gap.sum(), z, retain_graph=True)[0].flatten(1), DUAL[self.p], dim=1)
            for gap in gaps.unbind(1)
        ]
        order = (gaps.detach() / torch.stack(lengths, 1).clamp(min=1e-30)).argsort(1)
        ranked = others.gather(1, order)
        chosen = [torch.full((len(at.x),), -1)] + [ranked[:, k % ranked.shape[1]] for k in range(self.starts - 1)]
        return torch.stack(chosen, 1).flatten()

    def _margin(self, at: Decisions, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The margin at points ``[n starts, size]``, negative where the answer is another, and the gradient of what is descended."""
        z = z.detach().requires_grad_()
        values = at.graph.evaluate(z.reshape(-1, *at.x.shape[1:])).flatten(1)
        answer = at.answer[:, None].expand(len(at.x), self.starts).reshape(-1, 1)
        own = values.gather(1, answer)
        ahead = values.scatter(1, answer, -math.inf).argmax(1)
        goal = values.gather(1, torch.where(target < 0, ahead, target)[:, None])
        (gradient,) = torch.autograd.grad((own - goal).sum(), z)
        margin = (own - values.gather(1, ahead[:, None])).detach()
        return margin, torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def project(delta: Tensor, radius: Tensor, p: float) -> Tensor:
    """The points of lp balls of radii ``[n, 1]`` nearest to ``[n, size]`` in l2."""
    if p == math.inf:
        return torch.minimum(torch.maximum(delta, -radius), radius)
    length = torch.linalg.vector_norm(delta, p, dim=1, keepdim=True)
    if p == 2:
        return delta * (radius / length.clamp(min=1e-300)).clamp(max=1.0)
    # Onto the l1 ball by the threshold at which what is left of the entries adds up to the radius (Duchi et al. 2008).
    ordered = delta.abs().sort(1, descending=True).values
    excess = (ordered.cumsum(1) - radius) / torch.arange(1, delta.shape[1] + 1, dtype=torch.float64)
    last = (ordered > excess).sum(1, keepdim=True).clamp(min=1) - 1
    shrunk = delta.sign() * (delta.abs() - excess.gather(1, last)).clamp(min=0.0)
    return torch.where(length > radius, shrunk, delta)
