"""Norms, margins and bound of one trained network and its training data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steepest.errors import UnsupportedOperatorError, UsageError
from steepest.graph import Graph
from steepest.measures.margin_bound import margin_bound, margins
from steepest.measures.path_norm import path_norm
from steepest.measures.spectral_complexity import chain
from steepest.numerics.rounding import sum_above, up
from steepest.results import Bracket, Generalisation
from steepest.robustness.decisions import scores

_CHUNK = 1024


def generalise(
    graph: Graph,
    x: Tensor,
    y: Tensor,
    *,
    reference: Graph | None = None,
    bracket: Bracket | None = None,
    delta: float = 0.01,
    margin: float | None = None,
    name: str = "network",
) -> Generalisation:
    """See ``steepest.generalisation``.

    Args:
        graph: a classifier; its flattened output are the classes. A last softmax, which changes no answer, is left out.
        x: ``[n, *input_shape]``, float64.
        y: ``[n]``, int64.
        reference: the network at its start.
        bracket: of the same network, in l2, over all inputs.
        delta, margin: as there.
        name: what people call the network.
    """
    graph = scores(graph)
    classes = math.prod(graph.shape)
    _require(classes, x, y, delta, margin)
    digest = graph.record().digest
    if bracket is not None and (bracket.digest, bracket.norm, bracket.domain.kind, bracket.output) != (digest, 2.0, "all", None):
        raise UsageError(
            "the bracket must be of this network (without a last softmax), in l2, over all inputs and all outputs: "
            "steepest.bound(model, sample=x)"
        )
    layers = chain(graph, reference)
    with torch.no_grad():
        outputs = torch.cat([graph.evaluate(part).reshape(len(part), classes) for part in x.split(_CHUNK)])
    if not outputs.isfinite().all():
        raise UsageError("the network's outputs hold NaN or infinity")
    found = margins(outputs, y)
    ones = torch.full((len(x), 1), float(layers.biased), dtype=torch.float64)
    data_norm = up(math.sqrt(float(sum_above(torch.cat([x.flatten(1), ones], 1).square().flatten(), 0))))
    norms, remark = _path_norms(graph)
    return Generalisation(
        name=name,
        digest=digest,
        layers=layers.layers,
        product=layers.product,
        complexity=layers.complexity,
        biased=layers.biased,
        referenced=reference is not None,
        width=layers.width,
        margins=found.numpy().copy(),
        data_norm=data_norm,
        bound=margin_bound(layers, found, data_norm, delta, margin),
        path_norms=norms,
        path_remark=remark,
        lipschitz=None if bracket is None else bracket.upper,
    )


def _path_norms(graph: Graph) -> tuple[tuple[float, float] | None, str]:
    try:
        return (path_norm(graph, 1), path_norm(graph, 2)), ""
    except UnsupportedOperatorError as error:
        return None, str(error)


def _require(classes: int, x: Tensor, y: Tensor, delta: float, margin: float | None) -> None:
    if len(x) < 2:
        raise UsageError(f"the bound is over at least two samples, not {len(x)}")
    if y.shape != (len(x),):
        raise UsageError(f"{len(x)} inputs came with labels of shape {list(y.shape)}")
    if y.min() < 0 or y.max() >= classes:
        raise UsageError(f"labels must be from 0 to {classes - 1}, and go from {int(y.min())} to {int(y.max())}")
    if not 0 < delta < 1:
        raise UsageError(f"delta is a probability between 0 and 1, not {delta:g}")
    if margin is not None and not 0 < margin < math.inf:
        raise UsageError(f"the margin must be positive and finite, not {margin:g}")
