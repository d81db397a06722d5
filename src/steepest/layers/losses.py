"""Losses of networks whose Lipschitz constant is fixed: what they buy is margin."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def margin_cross_entropy(outputs: Tensor, labels: Tensor, temperature: float = 0.25, offset: float = 0.0) -> Tensor:
    """Cross-entropy of ``(outputs - offset at the label) / temperature``, times the temperature.

    An L-Lipschitz classifier is certified at radius r where the label leads by ``sqrt(2) L r``, so the offset to take is about that, or
    somewhat more. The temperature says over which differences of outputs the loss still asks for more: a network of constant one gives
    small outputs, at which plain cross-entropy (temperature 1) buys accuracy for margin, and a small one the other way round.

    Args:
        outputs: ``[n, classes]``.
        labels: ``[n]``, from 0.
        temperature: positive.
        offset: subtracted from the output at the label; at least 0.

    Returns:
        The mean over the batch.

    Raises:
        ValueError: for shapes, labels or numbers out of range.

    Source: Prach and Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz networks" (2022), section 5.
    """
    _require_labels(outputs, labels)
    _require("temperature", temperature, temperature > 0)
    _require("offset", offset, offset >= 0)
    moved = outputs - offset * functional.one_hot(labels, outputs.shape[1])
    return functional.cross_entropy(moved / temperature, labels) * temperature


def multiclass_hinge(outputs: Tensor, labels: Tensor, margin: float) -> Tensor:
    """``max(0, margin - (output at the label - largest other output))``.

    It asks for nothing more once the margin is there; with ``margin = sqrt(2) L r`` it is zero where radius r is certified for constant L.

    Args:
        outputs: ``[n, classes]``, two classes at least.
        labels: ``[n]``, from 0.
        margin: positive.

    Returns:
        The mean over the batch.

    Raises:
        ValueError: for shapes, labels or numbers out of range.

    Source: Crammer and Singer, "On the algorithmic implementation of multiclass kernel-based vector machines" (2001).
    """
    _require("margin", margin, margin > 0)
    return functional.relu(margin - margins(outputs, labels)).mean()


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """``[n]``: by how much the output at the label exceeds the largest other; over ``sqrt(2) L`` it is a certified l2 radius.

    Args:
        outputs: ``[n, classes]``, two classes at least.
        labels: ``[n]``, from 0.

    Raises:
        ValueError: for shapes or labels out of range.

    Source: Tsuzuku, Sato and Sugiyama, "Lipschitz-margin training" (2018), proposition 1.
    """
    _require_labels(outputs, labels)
    own = outputs.gather(1, labels[:, None])[:, 0]
    return own - outputs.scatter(1, labels[:, None], -math.inf).amax(1)


def hinge_kantorovich_rubinstein(outputs: Tensor, signs: Tensor, alpha: float = 10.0, margin: float = 1.0) -> Tensor:
    """``-(mean over signs +1 - mean over signs -1) + alpha mean max(0, margin - sign output)``, for 1-Lipschitz outputs.

    The first part is the dual form of the Wasserstein distance between the two sides, which rewards margin without end; the second
    classifies. For several classes give one column for each, with +1 at the label and -1 elsewhere; columns are averaged, and one in
    which a side is missing has only the part of the other.

    Args:
        outputs: ``[n]`` or ``[n, columns]``.
        signs: +1 or -1, the same shape.
        alpha: weight of the hinge; at least 0.
        margin: of the hinge; positive.

    Raises:
        ValueError: for shapes, signs or numbers out of range.

    Source: Serrurier, Mamalet, Gonzalez-Sanz, Boissin, Loubes and del Barrio, "Achieving robustness in classification using optimal
    transport with hinge regularization" (2021), equation 10.
    """
    if outputs.shape != signs.shape or outputs.dim() not in (1, 2) or len(outputs) == 0:
        raise ValueError(f"outputs and signs must both be [n] or [n, columns], not {list(outputs.shape)} and {list(signs.shape)}")
    if not (signs.abs() == 1).all():
        raise ValueError("signs must be +1 or -1")
    _require("alpha", alpha, alpha >= 0)
    _require("margin", margin, margin > 0)
    sides = ((signs == side).to(outputs.dtype) for side in (1, -1))
    above, below = ((outputs * side).sum(0) / side.sum(0).clamp(min=1) for side in sides)
    return (below - above).mean() + alpha * functional.relu(margin - signs * outputs).mean()


def with_bottom(outputs: Tensor, radius: float, constants: float | Tensor) -> Tensor:
    """The outputs with one more, GloRo's bottom: the largest that any other class can reach against the first within the radius.

    Where bottom is the largest of the ``classes + 1`` the answer is not certified at the radius; so cross-entropy of these outputs with
    the usual labels trains for certified accuracy, and their argmax is a classifier that abstains.

    Args:
        outputs: ``[n, classes]``, two classes at least.
        radius: in the norm of the constants, positive.
        constants: ``[classes, classes]``, Lipschitz constants of the differences of outputs; or one number for all, which is
            ``sqrt(2) L`` for an L-Lipschitz network in l2.

    Returns:
        ``[n, classes + 1]``.

    Raises:
        ValueError: for shapes or numbers out of range.

    Source: Leino, Wang and Fredrikson, "Globally-robust neural networks" (2021), equation 1.
    """
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        raise ValueError(f"outputs must be [n, classes] with two classes at least, not {list(outputs.shape)}")
    _require("radius", radius, radius > 0)
    pairs = torch.as_tensor(constants, dtype=outputs.dtype, device=outputs.device)
    classes = outputs.shape[1]
    if pairs.shape not in ((), (classes, classes)) or not (torch.isfinite(pairs) & (pairs >= 0)).all():
        raise ValueError(f"constants must be one number or [{classes}, {classes}], finite and at least 0")
    first = outputs.argmax(1)
    reach = outputs + radius * (pairs if pairs.dim() == 0 else pairs[first])
    bottom = reach.scatter(1, first[:, None], -math.inf).amax(1, keepdim=True)
    return torch.cat([outputs, bottom], 1)


def _require(name: str, value: float, good: bool) -> None:
    if not (good and math.isfinite(value)):
        raise ValueError(f"{name} is out of range: {value}")


def _require_labels(outputs: Tensor, labels: Tensor) -> None:
    if outputs.dim() != 2 or outputs.shape[1] < 2 or labels.shape != outputs.shape[:1] or len(outputs) == 0:
        raise ValueError(
            f"outputs must be [n, classes] with two classes at least, and labels [n], not {list(outputs.shape)} and {list(labels.shape)}"
        )
    if labels.dtype != torch.int64 or not ((labels >= 0) & (labels < outputs.shape[1])).all():
        raise ValueError(f"labels must be int64 numbers from 0 to {outputs.shape[1] - 1}")
