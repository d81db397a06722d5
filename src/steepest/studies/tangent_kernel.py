"""The tangent kernel of dense ReLU networks in the parametrisation of Jacot et al.: of a network, and at infinite width."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class NTKLinear(nn.Module):
    """``x W' / sqrt(in)`` with W from N(0, 1): the parametrisation in which the tangent kernel has a limit; no bias.

    Source: A. Jacot, F. Gabriel, C. Hongler, Neural tangent kernel: convergence and generalization in neural networks, NeurIPS 2018.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    @property
    def scale(self) -> float:
        """What the weights are multiplied by."""
        return self.weight.shape[1] ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs]`` to ``[n, outputs]``."""
        return x @ self.weight.T * self.scale


class _ScaledReLU(nn.Module):
    """``sqrt(2) relu``, which keeps the mean square of Gaussian inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2.0) * x.relu()


def ntk_network(inputs: int, width: int, outputs: int, hidden: int = 2) -> nn.Sequential:
    """A dense ReLU network in this parametrisation."""
    sizes = [inputs, *[width] * hidden, outputs]
    layers: list[nn.Module] = []
    for k in range(hidden + 1):
        layers += [NTKLinear(sizes[k], sizes[k + 1]), *([_ScaledReLU()] if k < hidden else [])]
    return nn.Sequential(*layers)


def kernel(model: nn.Module, x: Tensor, other: Tensor | None = None, output: int = 0) -> Tensor:
    """The empirical tangent kernel ``<df(x_i)/dw, df(x'_j)/dw>`` of one output, ``[n, n']``, without forming a Jacobian.

    A dense layer's gradient for one sample is the outer product of the signal behind it and the derivative before it, and inner products
    of outer products multiply: the kernel is a sum over layers of ``(d d'^T) * (h h'^T + 1 where there is a bias)``.

    Args:
        model: a chain of ``NTKLinear`` or ``nn.Linear`` and activations by element.
        x: ``[n, inputs]``; other: ``[n', inputs]``, by default the same.
        output: which.
    """
    left = _signals(model, x, output)
    right = left if other is None else _signals(model, other, output)
    total = torch.zeros(len(x), len(x if other is None else other), dtype=x.dtype)
    for a, b in zip(left, right, strict=True):
        total += (a.derivative @ b.derivative.T) * (a.scale**2 * a.signal @ b.signal.T + float(a.bias))
    return total


def limit_kernel(x: Tensor, other: Tensor | None = None, hidden: int = 2) -> Tensor:
    """The kernel at infinite width, in float64, of inputs that are not zero; for each output the same, and zero between outputs.

    With ``S_0 = x'x' / inputs`` and ``c`` the cosine of layer l: ``S_{l+1} = sqrt(S_ii S_jj) (sqrt(1 - c^2) + c (pi - arccos c)) / pi``,
    ``T_{l+1} = S_{l+1} + T_l (pi - arccos c) / pi``, ``T_0 = S_0``.

    Source: Jacot et al. 2018, theorem 1; Y. Cho, L. Saul, Kernel methods for deep learning, NeurIPS 2009, for the expectations.
    """
    x = x.double()
    other = x if other is None else other.double()
    covariance = x @ other.T / x.shape[1]
    lengths = torch.outer(x.square().mean(1).sqrt(), other.square().mean(1).sqrt())
    tangent = covariance
    for _ in range(hidden):
        cosine = (covariance / lengths).clamp(-1.0, 1.0)
        angle = math.pi - torch.arccos(cosine)
        covariance = lengths * ((1.0 - cosine.square()).sqrt() + cosine * angle) / math.pi
        tangent = covariance + tangent * angle / math.pi
    return tangent


def descent_of_kernel(train: Tensor, cross: Tensor, start: Tensor, start_elsewhere: Tensor, y: Tensor, rate: float, steps: int) -> Tensor:
    """What gradient descent on ``|f - y|^2 / (2 n)`` makes of the function at other points where the tangent kernel stays as it is.

    ``f' + K' K^-1 (1 - (1 - rate K / n)^steps) (y - f)``, by eigenvalues, in float64; this is the network made linear at its start.

    Args:
        train: K between training points ``[n, n]``; cross: K' of other points with them, ``[n', n]``.
        start, start_elsewhere: f and f' before training, ``[n, outputs]`` and ``[n', outputs]``; y: targets.
        rate, steps: of descent.

    Source: J. Lee et al., Wide neural networks of any depth evolve as linear models under gradient descent, NeurIPS 2019, equation 11.
    """
    n = len(train)
    values, vectors = torch.linalg.eigh(train.double())
    # (1 - (1 - r v / n)^t) / v is r t / n at v = 0.
    safe = values.clamp_min(1e-12 * float(values[-1]))
    filtered = (1.0 - (1.0 - rate * safe / n) ** steps) / safe
    rest = vectors @ (filtered[:, None] * (vectors.T @ (y - start).double()))
    return start_elsewhere.double() + cross.double() @ rest


@dataclass(frozen=True, eq=False)
class _Layer:
    """What enters a layer, the output's derivative by what leaves it, and how the layer multiplies its weights."""

    signal: Tensor
    derivative: Tensor
    scale: float
    bias: bool


def _signals(model: nn.Module, x: Tensor, output: int) -> list[_Layer]:
    found: list[tuple[Tensor, Tensor, float, bool]] = []
    h = x
    for module in model.children():
        before = h.detach()
        h = module(h)
        if isinstance(module, (NTKLinear, nn.Linear)):
            # Samples do not meet in these networks: the gradient of the sum is that of each.
            found.append((before, h, module.scale if isinstance(module, NTKLinear) else 1.0, getattr(module, "bias", None) is not None))
    gradients = torch.autograd.grad(h[:, output].sum(), [z for _, z, _, _ in found])
    return [_Layer(a, g, s, bias) for (a, _, s, bias), g in zip(found, gradients, strict=True)]
