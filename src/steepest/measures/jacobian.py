"""Singular values of Jacobians: dynamical isometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, func, nn

from steepest.measures.objective import apply, same_randomness, twice_differentiable
from steepest.measures.signals import own_parameters
from steepest.numerics.lanczos import extreme_eigenvalues

Function = Callable[[Tensor], Tensor]
ENTRIES = 2**24
"""Of dense Jacobians at once."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a Jacobian at one input; all equal to 1 is dynamical isometry (Saxe et al. 2014, Pennington et al. 2017).

    Args:
        layer: what it is the Jacobian of.
        largest: singular value.
        smallest: of the ``min(inputs, outputs)`` singular values.
        mean_square: of the same ones.
    """

    layer: str
    largest: float
    smallest: float
    mean_square: float

    @property
    def condition(self) -> float:
        """Largest over smallest."""
        return self.largest / self.smallest if self.smallest > 0.0 else float("inf")

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def singular_values(function: Function, x: Tensor) -> Tensor:
    """All singular values of the Jacobian at each of a batch of inputs, falling: ``[batch, min(inputs, outputs)]``.

    Cost: ``min(inputs, outputs)`` backward (or forward) passes of the batch at once, and the dense Jacobians.

    Args:
        function: of a batch, samples independent of each other.
        x: ``[batch, ...]``.
    """

    def one(sample: Tensor) -> Tensor:
        # A copy, since the function may begin with an operation in place.
        return function(sample[None].clone())[0].flatten()

    with same_randomness(), torch.no_grad():
        inputs, outputs = x[0].numel(), one(x[0]).numel()
        jacobian = func.vmap(func.jacrev(one) if outputs <= inputs else _by_columns(one), randomness="same")
        parts = x.split(max(1, ENTRIES // (inputs * outputs)))
        return torch.cat([torch.linalg.svdvals(jacobian(part).flatten(2)) for part in parts])


def _by_columns(one: Function) -> Function:
    """The Jacobian from as many products as there are inputs: J v is the derivative in u of J'u, which is linear in u."""

    def jacobian(sample: Tensor) -> Tensor:
        y, back = func.vjp(one, sample)[:2]
        forward = func.vjp(back, torch.zeros_like(y))[1]
        basis = torch.eye(sample.numel(), dtype=sample.dtype, device=sample.device).view(-1, *sample.shape)
        return func.vmap(lambda v: forward((v,))[0], randomness="same")(basis).mT

    return jacobian


def extreme_singular_values(function: Function, x: Tensor, steps: int = 60, tolerance: float = 1e-3) -> tuple[float, float]:
    """The largest and smallest singular value of the Jacobian at one input, by Lanczos on J'J (or JJ', whichever is smaller).

    Cost: at most ``steps`` backward passes and as many second backward passes, on one kept graph. The largest is within the tolerance;
    a smallest far below it is found from above only, and is not resolved below ``eps^1/2`` of the largest.

    Args:
        function: of a tensor, to a tensor.
        x: its input.
    """
    with torch.enable_grad(), same_randomness(), twice_differentiable():
        x = x.detach().requires_grad_()
        y = function(x.clone())
        dual = torch.zeros_like(y).requires_grad_()
        # J'u is linear in u: differentiating it in u gives J v, without a forward mode.
        (back,) = torch.autograd.grad(y, x, dual, create_graph=True)

        def forward(v: Tensor) -> Tensor:
            return torch.autograd.grad(back, dual, v.view_as(x), retain_graph=True)[0].flatten()

        def backward(u: Tensor) -> Tensor:
            return torch.autograd.grad(y, x, u.view_as(y), retain_graph=True)[0].flatten()

        wide = y.numel() < x.numel()
        size = min(x.numel(), y.numel())
        start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x.detach())
        both = (lambda u: forward(backward(u))) if wide else (lambda v: backward(forward(v)))
        found = extreme_eigenvalues(both, start, 1, min(1, size - 1), tolerance, steps)
    values = found.values.clamp(min=0.0).sqrt().tolist()
    return values[0], values[-1]


def input_output_spectrum(model: nn.Module, x: Tensor, dense: int = 512) -> Spectrum:
    """The spectrum of the whole model's Jacobian, over the samples of a batch (normalisation by batch is refused: use evaluation mode).

    Args:
        x: ``[batch, ...]``.
        dense: inputs or outputs per sample, whichever are fewer, up to which all singular values are computed; beyond, the extremes by
            Lanczos at the first sample, and ``mean_square`` from 16 random products.
    """
    own = own_parameters(model)
    return _spectrum("", lambda z: apply(model, own, z), x, dense)


def layer_spectra(model: nn.Module, x: Tensor, layers: Sequence[str] | None = None, dense: int = 512) -> tuple[Spectrum, ...]:
    """The spectrum of each layer's own Jacobian, at the inputs that it gets: from one layer's output to the next one's.

    Args:
        layers: qualified names; all modules without children that take one tensor, by default.
    """
    calls: list[tuple[str, nn.Module, Tensor]] = []

    def keep(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_floating_point() and args[0].ndim > 1:
            calls.append((name, module, args[0].detach().clone()))

    picked = [(n, m) for n, m in model.named_modules() if (n in layers if layers is not None else not any(True for _ in m.children()))]
    handles = [m.register_forward_pre_hook(lambda module, args, n=n: keep(n, module, args)) for n, m in picked]
    try:
        with torch.no_grad(), same_randomness():
            apply(model, own_parameters(model), x)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(_spectrum(n, lambda z, m=m: apply(m, own_parameters(m), z), at, dense) for n, m, at in calls)


def _spectrum(layer: str, function: Function, x: Tensor, dense: int) -> Spectrum:
    with torch.no_grad(), same_randomness():
        y = function(x[:1].clone())
    size = min(x[0].numel(), y.numel())
    if size <= dense:
        values = singular_values(function, x).double()
        return Spectrum(layer, float(values[:, 0].max()), float(values[:, -1].min()), float(values.square().mean()))
    one = x[:1]
    largest, smallest = extreme_singular_values(function, one)
    # E |J' u|^2 = |J|_F^2 for u of independent signs.
    generator, total, probes = torch.Generator().manual_seed(0), 0.0, 16
    with torch.enable_grad(), same_randomness():
        at = one.detach().requires_grad_()
        out = function(at.clone())
        for _ in range(probes):
            signs = (torch.randint(0, 2, out.shape, generator=generator) * 2 - 1).to(out)
            total += float(torch.autograd.grad(out, at, signs, retain_graph=True)[0].double().square().sum())
    return Spectrum(layer, largest, smallest, total / probes / size)
