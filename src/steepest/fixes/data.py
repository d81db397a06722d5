"""Interventions at the data: their scale, their order, and values that are not numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from steepest.fixes.intervention import Intervention
from steepest.fixes.losses import valued
from steepest.fixes.seams import Seams

POINTWISE = "mse_loss l1_loss smooth_l1_loss huber_loss"
_ENOUGH = 2000


class Moments:
    """Mean and standard deviation of the first samples, by Chan's update; each along the axes that are kept."""

    def __init__(self) -> None:
        self.count, self.samples = 0, 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, x: Tensor, axes: tuple[int, ...]) -> None:
        """One batch more, until there are enough."""
        if self.samples >= _ENOUGH:
            return
        x = x.detach().double()
        n = x.numel() // max(1, x.mean(axes, keepdim=True).numel())
        mean = x.mean(axes, keepdim=True)
        squares = (x - mean).square().sum(axes, keepdim=True)
        if self.mean is None or self.squares is None:
            self.mean, self.squares = mean, squares
        else:
            shift = mean - self.mean
            total = self.count + n
            self.mean = self.mean + shift * n / total
            self.squares = self.squares + squares + shift.square() * self.count * n / total
        self.count += n
        self.samples += len(x)

    def scale(self) -> Tensor:
        """Standard deviations, 1 where they vanish."""
        assert self.squares is not None
        std = (self.squares / max(1, self.count)).sqrt()
        return torch.where(std > 1e-8, std, torch.ones_like(std))


@dataclass(frozen=True)
class StandardiseInputs(Intervention):
    """Inputs of mean 0 and variance 1, by feature or channel, from the first 2,000 training samples (LeCun et al. 1998, section 4.3)."""

    @property
    def words(self) -> str:
        """In words."""
        return "inputs standardised by feature"

    def attach(self, seams: Seams) -> None:
        """At the entry of each model."""
        known: dict[tuple[int, tuple[int, ...]], Moments] = {}

        def standardise(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            x = args[0] if args else None
            if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
                return None
            axes = (0,) if x.ndim == 2 else (0, *range(2, x.ndim)) if x.ndim >= 4 else (0, 1)
            moments = known.setdefault((id(model), tuple(n for i, n in enumerate(x.shape) if i not in axes)), Moments())
            if torch.is_grad_enabled():
                moments.add(x, axes)
            if moments.mean is None:
                return None
            seams.touch()
            return (((x - moments.mean) / moments.scale()).to(x.dtype), *args[1:])

        seams.entered.append(standardise)


@dataclass(frozen=True)
class StandardiseTargets(Intervention):
    """The network learns targets of mean 0 and variance 1; its outputs are scaled back, so that losses and predictions keep their units."""

    @property
    def words(self) -> str:
        """In words."""
        return "targets standardised"

    def attach(self, seams: Seams) -> None:
        """Statistics at the loss; outputs scaled at the exit of the model, the gradient at the loss."""
        moments = Moments()

        def unscale(model: nn.Module, output: Any) -> Any:
            if moments.mean is None or not isinstance(output, Tensor) or not output.is_floating_point():
                return output
            seams.touch()
            return output * float(moments.scale()) + float(moments.mean)

        def loss(name: str, proceed: Any, input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not input.requires_grad:
                return proceed(input, target, *args, **kwargs)
            y = target.detach().reshape(-1)
            moments.add(y, (0,))
            s = float(moments.scale())
            result = proceed(input, target, *args, **kwargs)
            return valued(result, result / (s * s if name == "mse_loss" else s))

        seams.outputs.append(unscale)
        seams.around(POINTWISE, loss)


@dataclass(frozen=True)
class CleanData(Intervention):
    """NaN and infinity in inputs become 0."""

    @property
    def words(self) -> str:
        """In words."""
        return "NaN and infinity in the inputs replaced by 0"

    def attach(self, seams: Seams) -> None:
        """At the entry of each model."""

        def clean(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            x = args[0] if args else None
            if not isinstance(x, Tensor) or not x.is_floating_point() or bool(torch.isfinite(x).all()):
                return None
            seams.touch()
            return (torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), *args[1:])

        seams.entered.append(clean)


@dataclass(frozen=True)
class Shuffle(Intervention):
    """Samples in random order: data loaders shuffle; slices of tensors of one length go through one fixed permutation of that length."""

    @property
    def words(self) -> str:
        """In words."""
        return "training data shuffled"

    def attach(self, seams: Seams) -> None:
        """At the construction of loaders, and at slices outside of models once training has begun."""
        construct = DataLoader.__init__
        orders: dict[int, Tensor] = {}
        stepped = [False]

        def made(self: DataLoader[Any], dataset: Any, *args: Any, **kwargs: Any) -> None:
            plain = kwargs.get("sampler") is None and kwargs.get("batch_sampler") is None and len(args) <= 1
            if plain and not isinstance(dataset, IterableDataset) and not kwargs.get("shuffle"):
                seams.touch()
                kwargs["shuffle"] = True
            construct(self, dataset, *args, **kwargs)

        def sliced(name: str, proceed: Any, tensor: Tensor, index: Any) -> Any:
            rows = index[0] if isinstance(index, tuple) and index else index
            part = isinstance(rows, slice) and rows.step in (None, 1) and isinstance(rows.start, int) and isinstance(rows.stop, int)
            if not part or not stepped[0] or seams.depth or tensor.requires_grad or tensor.ndim == 0:
                return proceed(tensor, index)
            n = len(tensor)
            if n not in orders:
                orders[n] = torch.randperm(n, generator=torch.Generator().manual_seed(0))
            seams.touch()
            chosen = tensor.index_select(0, orders[n][rows].to(tensor.device))
            return chosen[:, *index[1:]] if isinstance(index, tuple) and len(index) > 1 else chosen

        def first(optimizer: object) -> None:
            stepped[0] = True

        seams.replace(DataLoader, "__init__", made)
        seams.around("__getitem__", sliced)
        seams.after_step.append(first)
