"""Interventions inside of models: activations, normalisation, dropout and ways around layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steepest.fixes.intervention import Intervention
from steepest.fixes.seams import ACTIVATIONS, WEIGHTED, Seams, before, followed

_WEIGHTED = " ".join(sorted(WEIGHTED))
_BOUNDED = ("sigmoid", "tanh", "hardsigmoid", "hardtanh", "softsign")
_HIDDEN = " ".join(sorted(ACTIVATIONS - {"softmax", "log_softmax", "logsigmoid"}))


def normalised(x: Tensor) -> Tensor:
    """Layer normalisation without parameters over all axes but the first (Ba et al. 2016); over the last where there are three."""
    if x.ndim < 2 or x[0].numel() < 4:
        return x
    return F.layer_norm(x, x.shape[-1:] if x.ndim == 3 else x.shape[1:])


@dataclass(frozen=True)
class Rectify(Intervention):
    """Layers get rectified values in place of those of bounded activations; gates and outputs stay as they are."""

    @property
    def words(self) -> str:
        """In words."""
        return "ReLU in place of sigmoid and tanh between layers"

    def attach(self, seams: Seams) -> None:
        """At the input of weighted layers."""

        def rectified(name: str, proceed: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            known = before(input)
            if seams.depth and known is not None and known[0] in _BOUNDED:
                seams.touch()
                input = F.relu(known[1])
            return proceed(input, *args, **kwargs)

        seams.around(_WEIGHTED, rectified)


@dataclass(frozen=True)
class Leak(Intervention):
    """Rectifiers that pass a hundredth of negative values (Maas et al. 2013)."""

    @property
    def words(self) -> str:
        """In words."""
        return "LeakyReLU in place of ReLU"

    def attach(self, seams: Seams) -> None:
        """At each rectifier inside of models."""

        def leaky(name: str, proceed: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not seams.depth:
                return proceed(input, *args, **kwargs)
            seams.touch()
            return followed("leaky_relu", F.leaky_relu, input, 0.01)

        seams.around("relu", leaky)


@dataclass(frozen=True)
class ActivationsBetween(Intervention):
    """A rectifier between weighted layers that follow each other directly."""

    @property
    def words(self) -> str:
        """In words."""
        return "ReLU between layers that had none"

    def attach(self, seams: Seams) -> None:
        """Results of weighted layers are marked; where one of them enters another such layer it is rectified."""

        def between(name: str, proceed: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if seams.depth and getattr(input, "_steepest_weighted", False):
                seams.touch()
                input = F.relu(input)
            return _mark(proceed(input, *args, **kwargs))

        def passed(name: str, proceed: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = proceed(input, *args, **kwargs)
            return _mark(result) if getattr(input, "_steepest_weighted", False) and isinstance(result, Tensor) else result

        seams.around("flatten view reshape max_pool2d avg_pool2d adaptive_avg_pool2d", passed)
        seams.around(_WEIGHTED, between)


@dataclass(frozen=True)
class LinearOutput(Intervention):
    """The model's output without its last activation, as a regression needs it."""

    @property
    def words(self) -> str:
        """In words."""
        return "linear outputs, the last activation left out"

    def attach(self, seams: Seams) -> None:
        """At the exit of models, and at losses by difference."""

        def linear(model: nn.Module, output: Any) -> Any:
            known = before(output)
            if known is None:
                return output
            seams.touch()
            return known[1]

        def loss(name: str, proceed: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            known = before(input)
            if known is not None:
                seams.touch()
                input = known[1]
            return proceed(input, *args, **kwargs)

        seams.outputs.append(linear)
        seams.around("mse_loss l1_loss smooth_l1_loss huber_loss", loss)


@dataclass(frozen=True)
class CalmPreactivations(Intervention):
    """What enters a bounded activation is divided by its root mean square in the first batch, where that is above 1."""

    @property
    def words(self) -> str:
        """In words."""
        return "what enters sigmoid and tanh scaled to root mean square 1"

    def attach(self, seams: Seams) -> None:
        """One factor for each call of an activation within a model, in their order."""
        factors: dict[tuple[int, int], float] = {}
        place = [0, 0]

        def enter(model: nn.Module, args: tuple[Any, ...]) -> None:
            place[:] = [id(model), 0]

        def calm(name: str, proceed: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not seams.depth:
                return proceed(input, *args, **kwargs)
            place[1] += 1
            key = (place[0], place[1])
            if key not in factors:
                factors[key] = max(1.0, float(input.detach().double().square().mean().sqrt()))
            if factors[key] == 1.0:
                return proceed(input, *args, **kwargs)
            seams.touch()
            return proceed(input / factors[key], *args, **kwargs)

        seams.entered.append(enter)
        seams.around(" ".join(_BOUNDED), calm)


@dataclass(frozen=True)
class NormaliseLayers(Intervention):
    """Layer normalisation before each hidden activation (Ba et al. 2016), without parameters of its own."""

    @property
    def words(self) -> str:
        """In words."""
        return "layer normalisation before each activation"

    def attach(self, seams: Seams) -> None:
        """Where a weighted layer gets the result of an activation."""

        def layer(name: str, proceed: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            known = before(input)
            if seams.depth and known is not None and known[0] in _HIDDEN.split() and known[1].ndim >= 2:
                seams.touch()
                input = _again(known[0], normalised(known[1])).reshape(input.shape)
            return proceed(input, *args, **kwargs)

        seams.around(_WEIGHTED, layer)


@dataclass(frozen=True)
class SkipConnections(Intervention):
    """Identity ways around each layer of equal width, in the order normalisation, activation, layer (He et al. 2016, identity mappings)."""

    @property
    def words(self) -> str:
        """In words."""
        return "identity skip connections around layers of equal width, with layer normalisation"

    def attach(self, seams: Seams) -> None:
        """Where a weighted layer gets the result of an activation of an equally shaped argument."""

        def residual(name: str, proceed: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
            known = before(input)
            if not seams.depth or known is None or known[0] not in _HIDDEN.split() or known[1].ndim < 2:
                return proceed(input, *args, **kwargs)
            result = proceed(_again(known[0], normalised(known[1])).reshape(input.shape), *args, **kwargs)
            if result.shape == known[1].shape:
                seams.touch()
                return result + known[1]
            return result

        seams.around(_WEIGHTED, residual)


@dataclass(frozen=True)
class GroupNorm(Intervention):
    """Group normalisation with one group (Wu & He 2018) in place of batch normalisation, with its weight and bias."""

    @property
    def words(self) -> str:
        """In words."""
        return "group normalisation in place of batch normalisation"

    def attach(self, seams: Seams) -> None:
        """In training and in evaluation alike."""

        def group(
            name: str, proceed: Any, input: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None,
            training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
        ) -> Tensor:  # fmt: skip
            seams.touch()
            return F.group_norm(input, 1, weight, bias, eps)

        seams.around("batch_norm", group)


@dataclass(frozen=True)
class DropoutTo(Intervention):
    """Another probability of dropout.

    Args:
        probability: it.
    """

    probability: float = 0.0

    @property
    def words(self) -> str:
        """In words."""
        return "no dropout" if self.probability == 0 else f"dropout with probability {self.probability:g}"

    def attach(self, seams: Seams) -> None:
        """At each dropout of torch."""

        def drop(name: str, proceed: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
            if p > 0:
                seams.touch()
            return proceed(input, self.probability, training, False) if p > 0 else proceed(input, p, training, inplace)

        seams.around("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout", drop)


def _again(name: str, x: Tensor) -> Tensor:
    return getattr(torch, name)(x) if name in ("sigmoid", "tanh", "relu", "selu") else getattr(F, name)(x)


def _mark(result: Tensor) -> Tensor:
    result._steepest_weighted = True  # pyright: ignore[reportAttributeAccessIssue]
    return result
