"""The function of Du et al. on which gradient descent takes exponential time: saddles in a row, each seen from nearer than the last."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chain:
    """A saddle per coordinate; the way out of one is the way into the next.

    With ``a = |x|`` and k the first coordinate with ``a_k < 2 reach``:

        f = sum_{j < k} L (a_j - 4 reach)^2 - nu k + [ -c a_k^2 + L a_{k+1}^2  where a_k <= reach
                                                       g_1(a_k) + g_2(a_k) a_{k+1}^2  beyond ]  + sum_{j > k+1} L a_j^2

    ``g_1`` joins ``-c a^2`` to ``L (a - 4 reach)^2 - nu`` and ``g_2`` joins L to -c, both with two continuous derivatives. While descent
    leaves saddle k through ``a_k``, which grows by ``1 + 2 rate c`` a step, all later coordinates shrink by ``1 - 2 rate L``: it meets
    saddle k + 1 the nearer the longer it has been on its way. The minimum is at ``|x_j| = 4 reach``.

    Args:
        outward: L, the curvature across; inward: c, that of the way out.
        reach: half the length of each part; starts have ``|x_j| <= reach``.

    Source: S. Du et al., Gradient descent can take exponential time to escape saddle points, NeurIPS 2017, section 4; defined here on all
    orthants by reflection.
    """

    outward: float = 1.0
    inward: float = 1.0
    reach: float = 1.0

    @property
    def depth(self) -> float:
        """``nu = L (2 reach)^2 - g_1(2 reach)``: how much lower each saddle lies than the one before."""
        return 4.0 * self.outward * self.reach**2 - float(self._first(torch.tensor(2.0 * self.reach, dtype=torch.float64))[0])

    def factor(self, rate: float) -> float:
        """The time to pass d saddles over that to pass d - 1, in the long run: ``1 + log(1 / (1 - 2 rate L)) / log(1 + 2 rate c)``.

        At saddle k + 1 a coordinate has shrunk for all the time so far, and must grow back.
        """
        return 1.0 + math.log(1.0 / (1.0 - 2.0 * rate * self.outward)) / math.log1p(2.0 * rate * self.inward)

    def value(self, x: Tensor) -> Tensor:
        """``[..., d]`` to ``[...]``."""
        a, place, here, following, beyond, _ = self._parts(x)
        passed, later = place < 0, place > 1
        level = torch.where(
            beyond,
            self._first(here)[0] + self._second(here)[0] * following**2,
            -self.inward * here**2 + self.outward * following**2,
        )
        done = passed.all(-1)
        level = torch.where(done, 0.0, level)
        return (
            level
            + self.outward * ((a - 4.0 * self.reach) ** 2 * passed).sum(-1)
            + self.outward * (a**2 * later).sum(-1)
            - self.depth * passed.sum(-1)
        )

    def gradient(self, x: Tensor) -> Tensor:
        """``[..., d]``."""
        a, place, here, following, beyond, last = self._parts(x)
        first, second = self._first(here), self._second(here)
        at = torch.where(beyond, first[1] + second[1] * following**2, -2.0 * self.inward * here)
        next_to = 2.0 * torch.where(beyond, second[0], self.outward) * following
        found = torch.where(place < 0, 2.0 * self.outward * (a - 4.0 * self.reach), 2.0 * self.outward * a)
        found = torch.where(place == 0, at.unsqueeze(-1), found)
        found = torch.where((place == 1) & ~last.unsqueeze(-1), next_to.unsqueeze(-1), found)
        return found * x.sign()

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``|x|``, each coordinate's place after k, ``a_k``, ``a_{k+1}`` or 0, whether beyond reach, whether k is the last."""
        a, d = x.abs(), x.shape[-1]
        inside = a < 2.0 * self.reach
        k = torch.where(inside.any(-1), inside.long().argmax(-1), d)
        place = torch.arange(d) - k.unsqueeze(-1)
        here = a.gather(-1, k.clamp(max=d - 1).unsqueeze(-1)).squeeze(-1)
        last = k >= d - 1
        following = torch.where(last, 0.0, a.gather(-1, (k + 1).clamp(max=d - 1).unsqueeze(-1)).squeeze(-1))
        return a, place, here, following, here > self.reach, last

    def _first(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """``g_1`` and its derivative, the cubic that has ``-2 c reach`` and ``-4 L reach`` at the ends with slopes ``-2 c`` and ``2 L``."""
        t, r = a / self.reach - 1.0, self.reach
        left, right = -2.0 * self.inward * r, -4.0 * self.outward * r
        up, down = -2.0 * self.inward * r, 2.0 * self.outward * r
        cubic = (2.0 * left + up - 2.0 * right + down, -3.0 * left - 2.0 * up + 3.0 * right - down, up, left)
        slope = ((cubic[0] * t + cubic[1]) * t + cubic[2]) * t + cubic[3]
        rise = (((cubic[0] / 4.0 * t + cubic[1] / 3.0) * t + cubic[2] / 2.0) * t + cubic[3]) * t
        return -self.inward * r**2 + r * rise, slope

    def _second(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """``g_2`` and its derivative: from L to -c along ``10 t^3 - 15 t^4 + 6 t^5``."""
        t, fall = a / self.reach - 1.0, self.outward + self.inward
        return self.outward - fall * t**3 * (10.0 - 15.0 * t + 6.0 * t**2), -fall * 30.0 * t**2 * (1.0 - t) ** 2 / self.reach


@dataclass(frozen=True)
class Perturbation:
    """Where the gradient is at most ``gradient``, and the last time ``pause`` steps ago, a uniform point of a ball of that radius is added.

    Source: C. Jin et al., How to escape saddle points efficiently, ICML 2017, algorithm 2, without its test for the end.
    """

    radius: float = 0.01
    gradient: float = 0.02
    pause: int = 30


def steps_to_minimum(chain: Chain, start: Tensor, rate: float, most: int, perturbed: Perturbation | None = None, seed: int = 0) -> Tensor:
    """``[n]``, the steps of gradient descent until every coordinate is past the last saddle; ``most`` where it is not by then.

    Args:
        chain: the function.
        start: ``[n, d]``.
        rate: of the steps.
        most: steps.
        perturbed: where given, small gradients are answered by a random displacement.
        seed: of the displacements.
    """
    x, steps = start.clone(), torch.full(start.shape[:1], float(most))
    alive, generator = torch.arange(len(x)), torch.Generator().manual_seed(seed)
    since = torch.full(start.shape[:1], float("inf"))
    for t in range(1, most + 1):
        gradient = chain.gradient(x)
        if perturbed is not None:
            due = (gradient.norm(dim=1) <= perturbed.gradient) & (since >= perturbed.pause)
            if due.any():
                x = torch.where(due.unsqueeze(1), x + in_ball(x.shape, perturbed.radius, generator), x)
                gradient = chain.gradient(x)
            since = torch.where(due, 0.0, since + 1.0)
        x = x - rate * gradient
        past = (x.abs() >= 2.0 * chain.reach).all(1)
        if past.any():
            steps[alive[past]] = float(t)
            x, alive, since = x[~past], alive[~past], since[~past]
            if not len(x):
                break
    return steps


def in_ball(shape: torch.Size, radius: float, generator: torch.Generator) -> Tensor:
    """``[n, d]`` points, uniform in the ball."""
    direction = torch.randn(shape, dtype=torch.float64, generator=generator)
    length = torch.rand(shape[0], 1, dtype=torch.float64, generator=generator) ** (1.0 / shape[1])
    return radius * length * direction / direction.norm(dim=1, keepdim=True)
