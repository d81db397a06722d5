"""Many small GANs trained side by side, some with spectral normalisation of their critics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Sampler = Callable[[torch.Generator, int], Tensor]
"""A batch of data: generator and count to ``[count, dimension]``."""

SLOPE = 0.1
"""Of the leaky ReLU in all networks (Miyato et al. 2018, appendix B)."""


@dataclass(frozen=True)
class Setting:
    """How one GAN is trained.

    Args:
        rate: of Adam, for both networks.
        constant: the critic's Lipschitz constant under spectral normalisation; None: the critic is not normalised.
        seed: of everything.
    """

    rate: float
    constant: float | None
    seed: int


class Stack:
    """M dense networks of one architecture, as one tensor a layer.

    Args:
        sizes: entries from input to output.
        seeds: of the weights, one for each network: equal seeds have equal weights.
    """

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int]) -> None:
        self.weights, self.biases = [], []
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for k, (a, b) in enumerate(itertools.pairwise(sizes)):
            scale = math.sqrt((2.0 if k < len(sizes) - 2 else 1.0) / a)
            self.weights.append(torch.stack([scale * torch.randn(b, a, generator=g) for g in generators]).requires_grad_())
            self.biases.append(torch.zeros(len(seeds), 1, b, requires_grad=True))

    @property
    def parameters(self) -> list[Tensor]:
        """All that is trained."""
        return [*self.weights, *self.biases]

    def __call__(self, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """``[M, n, inputs]`` to ``[M, n, outputs]``, with other weights where they are given."""
        for k, (w, b) in enumerate(zip(weights or self.weights, self.biases, strict=True)):
            x = torch.baddbmm(b, functional.leaky_relu(x, SLOPE) if k else x, w.mT)
        return x


class SpectralNormalisation:
    """Weights over their largest singular value, as one step of power iteration a training step estimates it; the first times a constant.

    Args:
        weights: ``[M, out, in]`` each.
        constants: for each network; of None it stays as it is.

    Source: Miyato, Kataoka, Koyama and Yoshida 2018, algorithm 1.
    """

    def __init__(self, weights: Sequence[Tensor], constants: Sequence[float | None]) -> None:
        self.where = torch.tensor([c is not None for c in constants])[:, None, None]
        self.constants = torch.tensor([1.0 if c is None else c for c in constants])[:, None, None]
        generator = torch.Generator().manual_seed(0)
        self.left = [torch.randn(1, w.shape[1], 1, generator=generator).expand(len(w), -1, -1) for w in weights]
        for _ in range(20):
            self.step(weights)

    def step(self, weights: Sequence[Tensor]) -> None:
        """One step of power iteration."""
        with torch.no_grad():
            right = [functional.normalize(w.mT @ u, dim=1) for w, u in zip(weights, self.left, strict=True)]
            self.left = [functional.normalize(w @ v, dim=1) for w, v in zip(weights, right, strict=True)]
            self.right = right

    def __call__(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The normalised weights, differentiable, with the singular vectors held fixed."""
        sigma = [u.mT @ w @ v for w, u, v in zip(weights, self.left, self.right, strict=True)]
        normal = [torch.where(self.where, w / s.clamp(min=1e-12), w) for w, s in zip(weights, sigma, strict=True)]
        return [self.constants * normal[0], *normal[1:]]


@dataclass
class Gans:
    """GANs with the non-saturating loss and Adam, one step of the critic to one of the generator.

    Args:
        settings: one for each.
        latent: entries of the generator's input.
        hidden: of the hidden layers of both networks.
        dimension: of the data.
        batch: of data, and of made ones.
        squash: the generator's outputs end in tanh.
    """

    settings: Sequence[Setting]
    latent: int
    hidden: Sequence[int]
    dimension: int
    batch: int
    squash: bool = False

    def __post_init__(self) -> None:
        seeds = [s.seed for s in self.settings]
        self.generator = Stack((self.latent, *self.hidden, self.dimension), seeds)
        self.critic = Stack((self.dimension, *self.hidden, 1), [1000 + s for s in seeds])
        self.normal = SpectralNormalisation(self.critic.weights, [s.constant for s in self.settings])
        self.random = {s: torch.Generator().manual_seed(2000 + s) for s in dict.fromkeys(seeds)}

    def make(self, count: int) -> Tensor:
        """Samples of all generators, ``[M, count, dimension]``; equal seeds have equal inputs."""
        drawn = {s: torch.randn(count, self.latent, generator=g) for s, g in self.random.items()}
        made = self.generator(torch.stack([drawn[s.seed] for s in self.settings]))
        return made.tanh() if self.squash else made

    def critics(self) -> list[list[Tensor]]:
        """The weights of each critic, as they are used."""
        with torch.no_grad():
            return [list(w) for w in zip(*self.normal(self.critic.weights), strict=True)]

    def train(self, sample: Sampler, steps: int, each_step: Callable[[int], None]) -> None:
        """Train all.

        Args:
            sample: of the data; equal seeds see equal data.
            steps: of both networks.
            each_step: called with the step's number before it.
        """
        rates = torch.tensor([s.rate for s in self.settings])[:, None, None]
        descents = [_Adam(net.parameters, rates) for net in (self.critic, self.generator)]
        for step in range(steps):
            each_step(step)
            drawn = {s: sample(g, self.batch) for s, g in self.random.items()}
            data = torch.stack([drawn[s.seed] for s in self.settings])
            self.normal.step(self.critic.weights)
            with torch.no_grad():
                made = self.make(self.batch)
            weights = self.normal(self.critic.weights)
            losses = functional.softplus(-self.critic(data, weights)) + functional.softplus(self.critic(made, weights))
            descents[0].step(torch.autograd.grad(losses.mean((1, 2)).sum(), self.critic.parameters))
            weights = [w.detach() for w in self.normal(self.critic.weights)]
            losses = functional.softplus(-self.critic(self.make(self.batch), weights))
            descents[1].step(torch.autograd.grad(losses.mean((1, 2)).sum(), self.generator.parameters))


class _Adam:
    """Adam (Kingma and Ba 2015) with beta = (0.5, 0.999) and a rate for each of the stacked networks."""

    def __init__(self, parameters: Sequence[Tensor], rates: Tensor) -> None:
        self.parameters, self.rates, self.count = parameters, rates, 0
        self.mean, self.square = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[Tensor]) -> None:
        self.count += 1
        first, second = 1.0 - 0.5**self.count, 1.0 - 0.999**self.count
        with torch.no_grad():
            for p, g, m, v in zip(self.parameters, gradients, self.mean, self.square, strict=True):
                m.mul_(0.5).add_(g, alpha=0.5)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                p.sub_(self.rates * (m / first) / ((v / second).sqrt() + 1e-8))
