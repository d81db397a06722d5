"""Spectral normalisation by the norm of the layer as it is applied."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from steepest.layers.constraint import Constraint, M, Setting, require_layer


class SpectralNorm(Constraint):
    """W -> W / sigma with sigma the l2 norm of the layer, padding, stride, dilation and groups included, by power iteration.

    In training one iteration through the layer and its adjoint is made per use, and sigma is differentiable in W at fixed singular
    vectors. In evaluation the iteration is converged once for each weight. It is a lower estimate: what is above it disappears at
    ``export``, which proves the norm.

    Args:
        module: dense or convolutional; it is only looked at.
        size: spatial size of a convolution's input.
        iterations: per use in training; at least 1.

    Source: Miyato, Kataoka, Koyama and Yoshida, "Spectral normalization for generative adversarial networks" (2018), where a
    kernel is taken as a matrix; here the operator itself, as Farnia, Zhang and Tse (2019) do for circles.
    """

    vector: Tensor

    def __init__(self, module: nn.Module, size: tuple[int, ...] | None = None, iterations: int = 1) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {iterations}")
        weight = module.weight
        assert isinstance(weight, Tensor)
        self.setting, self.size, self.iterations = Setting.of(module), size, iterations
        shape = self.setting.operator(weight.detach(), size).in_shapes[0]
        self.register_buffer("vector", torch.randn(shape, dtype=weight.dtype, device=weight.device))
        self._settled: int | None = None
        self.settle(weight.detach())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over the norm of the layer."""
        if self.training:
            self._settled = None
            for _ in range(self.iterations - 1):
                self._norm(weight.detach(), keep=True)
        elif self._settled != weight._version and not torch.compiler.is_exporting():
            self.settle(weight.detach())
            self._settled = weight._version
        return weight / self._norm(weight, keep=self.training)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning a weight stores it as it is; what is used afterwards is its normalised form."""
        return weight

    def settle(self, weight: Tensor) -> None:
        """Iterate until the estimate rises by less than 1e-7 of itself in ten iterations, 2,000 at most."""
        before = self._norm(weight, keep=False).item()
        for _ in range(200):
            vector = self.vector.clone()
            now = before
            for _ in range(10):
                now = self._norm(weight, keep=True).item()
            if not now > before * (1 + 1e-7):
                # So that a settled layer stays as it is, bit by bit.
                self.vector.copy_(vector)
                break
            before = now

    def extra_repr(self) -> str:
        """Size and iterations."""
        return f"size={self.size}, iterations={self.iterations}"

    def _norm(self, weight: Tensor, keep: bool) -> Tensor:
        """``|W' u|`` for u along W v, differentiable in W at fixed u; whether v becomes the direction of ``W' u``."""
        layer = self.setting.operator(weight, self.size)
        with torch.no_grad():
            image = layer.linear(self.vector)
            image = image / image.norm().clamp(min=1e-30)
        back = layer.adjoint(image)
        norm = back.norm().clamp(min=1e-12)
        if keep:
            with torch.no_grad():
                self.vector.copy_(back / norm)
        return norm


def spectral_normalise(module: M, size: tuple[int, ...] | int | None = None, iterations: int = 1) -> M:
    """Divide the weight of a layer by the layer's l2 norm from now on.

    Every padding mode, stride, dilation and number of groups is taken, since the norm is that of the layer as it is applied. It is that
    at one size of input: zero padding gives less at a smaller one, and ``export`` proves the sizes that it sees.

    Remove it with ``torch.nn.utils.parametrize.remove_parametrizations(module, "weight")``.

    Args:
        module: ``Linear``, ``Conv1d``, ``Conv2d`` or ``Conv3d``.
        size: spatial size of a convolution's input; one number for all axes.
        iterations: of the power method, per use in training.

    Returns:
        The same module.

    Raises:
        ValueError: for another module, a size that is missing or does not fit, or iterations below 1.

    Source: Miyato et al. (2018), see ``SpectralNorm``.
    """
    require_layer(module, "spectral normalisation")
    weight = module.weight
    assert isinstance(weight, Tensor)
    sizes = (size,) * (weight.dim() - 2) if isinstance(size, int) else size
    parametrize.register_parametrization(module, "weight", SpectralNorm(module, sizes, iterations))
    return module
