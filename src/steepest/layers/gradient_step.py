"""Residual blocks that are gradient steps of a convex function, so that they expand nothing: CPL, SLL, and Householder activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.layers.constraint import CONVS, Conv, constraint_of, paddings
from steepest.layers.sdp import rescale_outputs
from steepest.layers.spectral import spectral_normalise

_ADJOINT = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class GradientStep(nn.Module):
    """``x - 2 V' relu(V x + b)`` with ``|V| <= 1``: of norm one, and close to orthogonal where V is.

    ``V' relu(V x + b)`` is the gradient of ``|relu(V x + b)|^2 / 2``, which is convex with a gradient of constant ``|V|^2``; a step of
    length ``2 / |V|^2`` or less along it is a map of constant one.

    Args:
        layer: V and b: a constrained layer, of any number of outputs. A convolution keeps its size: stride one, zero padding, the same on
            both sides.

    Raises:
        ValueError: for a layer whose weight is not constrained, or a setting that cannot be guaranteed, by name.

    Source: Meunier, Delattre, Araujo and Allauzen, "A dynamical system perspective for Lipschitz neural networks" (2022).
    """

    def __init__(self, layer: nn.Linear | Conv) -> None:
        super().__init__()
        if constraint_of(layer) is None:
            raise ValueError(f"a gradient step needs a layer whose weight is constrained, not a plain {type(layer).__name__}")
        if isinstance(layer, CONVS):
            if any(s != 1 for s in layer.stride):
                raise ValueError(f"a gradient step keeps the size of its input: stride {layer.stride} does not")
            pads = paddings(layer)
            if any(p != (0, 0) for p in pads) and layer.padding_mode != "zeros":
                raise ValueError(f"a gradient step cannot be guaranteed with padding_mode={layer.padding_mode!r}: use zeros")
            if any(before != after for before, after in pads):
                raise ValueError(f"a gradient step needs the same padding on both sides, not {pads}")
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        layer = self.layer
        weight = layer.weight
        if isinstance(layer, nn.Linear):
            return x - 2.0 * (torch.relu(functional.linear(x, weight, layer.bias)) @ weight)
        pads = [p for p, _ in paddings(layer)]
        convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(pads)]
        hidden = torch.relu(convolve(x, weight, layer.bias, 1, pads, layer.dilation, layer.groups))
        adjoint = _ADJOINT[len(pads)](hidden, weight, None, 1, pads, 0, layer.groups, layer.dilation)
        return x - 2.0 * adjoint


class Difference(nn.Module):
    """``x - branch(x)``: what is left of a gradient step when it is exported; the branch holds V, a ReLU and 2 V'.

    Args:
        branch: keeps the shape.
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x - self.branch(x)


class Householder(nn.Module):
    """Each pair of neighbouring channels is reflected, or not, so that it ends on one side of a line: of norm one, and keeps every l2 norm.

    ``z -> z + 2 v relu(-v'z)`` with v = (sin(t/2), -cos(t/2)); the angle t of each pair is learnt and begins at pi / 2, which sorts in
    descending order.

    Args:
        channels: C of ``[N, C, ...]``, even.

    Raises:
        ValueError: for an odd number, or an input of another shape.

    Source: Singla, Singla and Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100" (2022), section 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels must be even and positive, not {channels}")
        self.channels = channels
        self.angle = nn.Parameter(torch.full((channels // 2,), math.pi / 2))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(f"expected [N, {self.channels}, ...], not {list(x.shape)}")
        pairs = x.unflatten(1, (-1, 2))
        sine, cosine = (f(self.angle / 2).reshape(1, -1, *[1] * (x.dim() - 2)) for f in (torch.sin, torch.cos))
        first, second = pairs.unbind(2)
        over = 2.0 * torch.relu(cosine * second - sine * first)
        return torch.stack((first + sine * over, second - cosine * over), 2).flatten(1, 2)

    def rows(self, dims: int) -> nn.Linear | Conv:
        """-v' of every pair as a layer for inputs of so many axes."""
        half = self.channels // 2
        normals = torch.stack((-torch.sin(self.angle / 2), torch.cos(self.angle / 2)), 1).detach()
        if dims == 2:
            layer: nn.Linear | Conv = nn.Linear(self.channels, half, bias=False).to(normals)
            weight = torch.zeros_like(layer.weight)
            weight[torch.arange(half)[:, None], torch.arange(self.channels).reshape(half, 2)] = normals
        else:
            layer = CONVS[dims - 3](self.channels, half, 1, groups=half, bias=False).to(normals)
            weight = normals.reshape(layer.weight.shape)
        with torch.no_grad():
            layer.weight.copy_(weight)
        return layer

    def extra_repr(self) -> str:
        """The channels."""
        return f"{self.channels}"


def sll(layer: nn.Linear | Conv) -> GradientStep:
    """An SLL residual block, ``x - 2 W' T^-1 relu(W x + b)``: a gradient step with rescaled outputs.

    The bias is that of the rescaled form, ``T^-1/2 W x + b``; ReLU passes the positive factor, so the two are the same family of maps.

    Args:
        layer: ``Linear(n, hidden)`` or a convolution that keeps the size.

    Raises:
        ValueError: as ``GradientStep``.

    Source: Araujo et al. (2023), see ``RescaledOutputs``.
    """
    return GradientStep(rescale_outputs(layer))


def cpl(layer: nn.Linear | Conv, size: tuple[int, ...] | int | None = None) -> GradientStep:
    """A convex potential layer, ``x - 2 W' relu(W x + b) / |W|^2``: a gradient step with a spectrally normalised layer.

    Args:
        layer: ``Linear(n, hidden)`` or a convolution that keeps the size.
        size: spatial size of a convolution's input.

    Raises:
        ValueError: as ``GradientStep`` and ``spectral_normalise``.

    Source: Meunier et al. (2022), see ``GradientStep``; here with the norm of the layer as it is applied, padding included.
    """
    return GradientStep(spectral_normalise(layer, size))


def plain_step(layer: nn.Linear | Conv) -> Difference:
    """The gradient step of a plain layer, of plain layers: bounds recognise it by its weights V and 2 V'."""
    return Difference(nn.Sequential(layer, nn.ReLU(), _twice_adjoint(layer)))


def _twice_adjoint(layer: nn.Linear | Conv) -> nn.Module:
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        adjoint: nn.Module = nn.Linear(layer.out_features, layer.in_features, bias=False).to(weight)
        doubled = 2.0 * weight.mT
    else:
        kind = _TRANSPOSED[len(layer.kernel_size) - 1]
        pads = tuple(p for p, _ in paddings(layer))
        adjoint = kind(
            layer.out_channels,
            layer.in_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            padding=pads,  # type: ignore[arg-type]
            groups=layer.groups,
            dilation=layer.dilation,  # type: ignore[arg-type]
            bias=False,
        ).to(weight)
        doubled = 2.0 * weight
    adjoint.load_state_dict({"weight": doubled})
    return adjoint
