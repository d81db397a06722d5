"""From constrained layers to plain ones whose l2 norm is proven to be at most one."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steepest.layers.batch_norm import LipschitzBatchNorm
from steepest.layers.constraint import CONVS, Conv, M, Setting, constraint_of
from steepest.layers.gradient_step import GradientStep, Householder, plain_step
from steepest.layers.pooling import ScaledAvgPool2d
from steepest.layers.spectral import SpectralNorm

_TARGET = 1.0 - 2.0**-24


def settle_(model: M) -> M:
    """Converge the power iterations of all spectrally normalised layers, so that ``model.eval()`` computes what ``export`` gives.

    Args:
        model: changed in place (buffers alone).

    Returns:
        The same model.
    """
    for module in model.modules():
        if isinstance(constraint_of(module), SpectralNorm):
            listed = module.get_submodule("parametrizations.weight")
            constraint, weight = listed[0], listed.original  # type: ignore[index]
            assert isinstance(constraint, SpectralNorm) and isinstance(weight, Tensor)
            constraint.settle(weight.detach())
    return model


def export(model: nn.Module, sample: Tensor, tolerance: float = 0.01) -> nn.Module:
    """A copy in evaluation mode in which each constrained layer is a plain one of ``torch.nn``, of proven l2 norm at most one.

    Weights are computed in float64, the norm of each layer as it is applied (at the sizes that the sample brings) is proven with rounding
    accounted for, and the weight divided by what it exceeds one by, usually some 1e-7 to 1e-5, before it is rounded to the model's dtype.
    A network of such layers, 1-Lipschitz activations and rearrangements is then proven by ``steepest.bound`` to be 1-Lipschitz, and
    ``steepest check`` agrees.

    Args:
        model: any module that holds layers of ``steepest.layers``; not changed. Other layers are copied as they are.
        sample: a batch of inputs; the norm of a convolution depends on their size.
        tolerance: the most by which a norm may have to be reduced.

    Returns:
        The plain network, on the model's device. Its outputs are those of the model in evaluation mode up to rounding and these factors;
        where power iterations had not converged, up to that (``settle_`` converges them).

    Raises:
        ValueError: where a norm cannot be proven within the tolerance, or the sample does not reach a layer, naming it.
    """
    reference = next((p for p in model.parameters() if p.is_floating_point()), sample)
    exact = settle_(copy.deepcopy(model).cpu().double().eval())
    export = _Export(_shapes(exact, sample), reference.dtype, tolerance)
    plain = export.convert(exact, "").to(device=reference.device, dtype=reference.dtype)
    return plain.eval()


def _ours(module: nn.Module) -> bool:
    return isinstance(module, (LipschitzBatchNorm, ScaledAvgPool2d, GradientStep, Householder)) or constraint_of(module) is not None


def _shapes(model: nn.Module, sample: Tensor) -> dict[nn.Module, set[tuple[int, ...]]]:
    """The shapes of the inputs that every layer sees."""
    seen: dict[nn.Module, set[tuple[int, ...]]] = defaultdict(set)

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module].add(tuple(inputs[0].shape))

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if _ours(m)]
    try:
        with torch.no_grad():
            model(sample.detach().cpu().double())
    finally:
        for handle in handles:
            handle.remove()
    return seen


class _Export:
    """What has been made of each module so far."""

    def __init__(self, shapes: dict[nn.Module, set[tuple[int, ...]]], dtype: torch.dtype, tolerance: float) -> None:
        self.shapes, self.dtype, self.tolerance = shapes, dtype, tolerance
        self.made: dict[nn.Module, nn.Module] = {}

    def convert(self, module: nn.Module, name: str) -> nn.Module:
        """The plain form of a module; what is no layer of ours is kept, with its children converted."""
        if module not in self.made:
            self.made[module] = module
            if _ours(module):
                self.made[module] = self._plain(module, name or type(module).__name__)
            else:
                for key, child in module._modules.items():
                    if child is not None:
                        module._modules[key] = self.convert(child, f"{name}.{key}" if name else key)
        return self.made[module]

    def _plain(self, module: nn.Module, name: str) -> nn.Module:
        shapes = self.shapes[module]
        if not shapes:
            raise ValueError(f"the sample does not reach the layer {name!r}, so that its norm cannot be proven")
        dims = len(next(iter(shapes)))
        if isinstance(module, LipschitzBatchNorm):
            return module.plain(dims).double()
        if isinstance(module, ScaledAvgPool2d):
            return self._scaled(module.plain(next(iter(shapes))[1]).double(), shapes, name)
        if isinstance(module, Householder):
            if len({len(s) for s in shapes}) > 1:
                raise ValueError(f"the layer {name!r} sees inputs of different numbers of axes: use one for each")
            rows = module.rows(dims)
            return plain_step(self._scaled(rows, shapes, name))
        if isinstance(module, GradientStep):
            return plain_step(self._scaled(module.layer, shapes, name))
        assert isinstance(module, (nn.Linear, *CONVS))
        return self._scaled(module, shapes, name)

    @torch.no_grad()
    def _scaled(self, layer: nn.Linear | Conv, shapes: set[tuple[int, ...]], name: str) -> nn.Linear | Conv:
        """The layer as torch makes it, divided by its norm where that is above one."""
        rank = layer.weight.dim() - 2
        sizes = [None] if isinstance(layer, nn.Linear) else sorted({s[len(s) - rank :] for s in shapes})
        return _bare(layer, scaled_below_one(Setting.of(layer), layer.weight, sizes, self.dtype, self.tolerance, name))


def _bare(module: nn.Linear | Conv, weight: Tensor) -> nn.Linear | Conv:
    """The layer as torch makes it, with a given weight; a parametrisation cannot be removed from a copy without harm to the original."""
    if isinstance(module, nn.Linear):
        bare: nn.Linear | Conv = nn.Linear(module.in_features, module.out_features, module.bias is not None)
    else:
        kind = next(k for k in CONVS if isinstance(module, k))
        channels, names = (
            (module.in_channels, module.out_channels),
            ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
        )
        bare = kind(*channels, bias=module.bias is not None, **{name: getattr(module, name) for name in names})
    state = {"weight": weight} if module.bias is None else {"weight": weight, "bias": module.bias}
    bare.double().load_state_dict(state)
    return bare


def scaled_below_one(
    setting: Setting, weight: Tensor, sizes: Sequence[tuple[int, ...] | None], dtype: torch.dtype, tolerance: float, name: str
) -> Tensor:
    """The weight divided by its norm where that is above one, rounded to a dtype, and proven.

    Args:
        setting: of the layer.
        weight: float64.
        sizes: of inputs.
        dtype: what it will be stored in.
        tolerance: the most by which the norm may be reduced.
        name: of the layer, for messages.

    Raises:
        ValueError: where that is not enough.
    """
    norm, tried, spare = 0.0, weight.to(dtype).double(), 2.0**-24
    for _ in range(12):
        norm = max(setting.norm_above(tried, size) for size in sizes)
        if norm <= _TARGET:
            return tried
        if norm > 1.0 + tolerance:
            break
        weight, spare = weight * ((1.0 - spare) / norm), 4.0 * spare
        tried = weight.to(dtype).double()
    raise ValueError(
        f"the norm of the layer {name!r} is only proven to be at most {norm:.4g}, more than 1 + {tolerance:g}: "
        "(a) its weight is not finite or its power iteration has not converged, or "
        f"(b) padding {setting.mode!r} at this size leaves a gap that cannot be closed: use zeros or circular, or allow a larger "
        "tolerance, by which its outputs shrink"
    )
