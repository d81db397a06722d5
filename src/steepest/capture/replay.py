"""Every capture is replayed: the graph and the model must agree on random inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steepest.errors import ModelError
from steepest.graph import Graph


def replay(graph: Graph, reference: Callable[[Tensor], Tensor], seed: int = 0, count: int = 3, tolerance: float = 1e-9) -> None:
    """Compare graph and model at random inputs of several scales, in float64.

    Args:
        graph: the capture.
        reference: the model: an input of the graph's input shape to an output of its output shape.
        seed: of the inputs.
        count: how many.
        tolerance: largest difference, relative to the output's scale.

    Raises:
        ModelError: where they differ: the capture is wrong, and nothing is concluded from it.
    """
    generator = torch.Generator().manual_seed(seed)
    for k in range(count):
        x = torch.randn(graph.input_shape, generator=generator, dtype=torch.float64) * 4.0 ** (k - 1)
        expected, got = reference(x), graph.evaluate(x)
        if expected.shape != got.shape:
            raise ModelError(f"the capture gives shape {list(got.shape)} where the model gives {list(expected.shape)}: a bug in steepest")
        known = torch.isfinite(expected)
        scale = expected[known].abs().max().item() if known.any() else 1.0
        apart = (got - expected)[known].abs().max().item() if known.any() else 0.0
        if not apart <= tolerance * max(scale, 1.0):
            raise ModelError(
                f"the capture differs from the model by {apart:.3g} at a random input: a bug in steepest, please report the model"
            )
