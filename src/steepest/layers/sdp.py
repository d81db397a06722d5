"""Rescaled outputs whose Gram matrix is at most the identity: the weight of SLL layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from steepest.layers.aol import lattice_gram
from steepest.layers.constraint import CONVS, Constraint, M, require_circle, require_layer


class RescaledOutputs(Constraint):
    """W -> T^-1/2 W with ``T_ii = sum_j |W W'|_ij q_j / q_i``, q positive and learnt, for which ``T^-1/2 W W' T^-1/2 <= I``.

    One number per output channel. For a convolution ``W W'`` is that of the whole lattice at stride one, of which zero padding, strides
    and a circle at stride one take pieces.

    Args:
        module: dense or convolutional; it is only looked at.

    Source: Araujo, Havens, Delattre, Allauzen and Hu, "A unified algebraic perspective on Lipschitz neural networks" (2023), theorem 3.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        weight = module.weight
        assert isinstance(weight, Tensor)
        self.groups: int = getattr(module, "groups", 1)
        self.log_q = nn.Parameter(weight.new_zeros(self.groups, len(weight) // self.groups))

    def forward(self, weight: Tensor) -> Tensor:
        """The rescaled weight."""
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
        ones = (1,) * (weight.dim() - 2)
        sums = lattice_gram(grouped.transpose(1, 2), ones, ones)[0][:, 0]
        q = self.log_q.exp()
        scale = ((sums @ q[:, :, None])[:, :, 0] / q).clamp(min=1e-8).rsqrt()
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning a weight stores it as it is; what is used afterwards is its rescaled form."""
        return weight


def rescale_outputs(module: M) -> M:
    """Rescale the outputs of a layer so that its l2 norm is at most one, whatever the weight; ``sll`` makes residual blocks of it.

    Any stride, dilation and number of groups, padding with zeros, or circular at stride one.

    Args:
        module: ``Linear``, ``Conv1d``, ``Conv2d`` or ``Conv3d``.

    Returns:
        The same module.

    Raises:
        ValueError: for another module, or a setting that cannot be guaranteed, by name.

    Source: Araujo et al. (2023), see ``RescaledOutputs``.
    """
    require_layer(module, "a layer with rescaled outputs")
    if isinstance(module, CONVS):
        require_circle(module, "a convolution with rescaled outputs")
    constraint = RescaledOutputs(module)
    parametrize.register_parametrization(module, "weight", constraint)
    return module
