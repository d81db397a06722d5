"""A model from whatever names it: a module, an ONNX file, safetensors weights with a factory, or a factory alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steepest.capture.factory import call_factory
from steepest.errors import ModelError, UsageError
from steepest.graph import Graph

_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}


@dataclass(frozen=True, eq=False)
class Loaded:
    """A captured network and what people call it."""

    graph: Graph
    name: str


def load(
    model: nn.Module | str | Path,
    *,
    factory: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    sample: Tensor | tuple[Tensor, ...] | None = None,
) -> Loaded:
    """Capture a model.

    Args:
        model: an ``nn.Module``; a path to ``.onnx`` or ``.safetensors``; or ``"module:factory"``.
        factory: for safetensors: ``"module:factory"`` that builds the network.
        input_shape: of one input without its batch axis, for PyTorch models.
        sample: a batch of inputs instead, for an ``nn.Module``.

    Raises:
        ModelError: a file that is missing, damaged or unsafe; an operator that is refused.
        UsageError: a factory that does not work, or an input shape that is missing.
    """
    if isinstance(model, nn.Module):
        return Loaded(_capture(model, input_shape, sample), type(model).__name__)
    path = Path(model)
    if path.suffix.lower() in _PICKLES:
        raise ModelError(
            f"{path} is a pickle, which can run any code and is never opened: save the weights with "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') and give --model module:factory"
        )
    if path.suffix.lower() == ".onnx":
        from steepest.capture.onnx import read_onnx

        if factory is not None:
            raise UsageError("--model belongs to safetensors weights; an ONNX file holds its own network")
        return Loaded(read_onnx(path), path.name)
    if path.suffix.lower() == ".safetensors":
        if factory is None:
            raise UsageError(f"{path} holds weights only: give --model module:factory that builds the network")
        module = _module(factory)
        _load_weights(module, path)
        return Loaded(_capture(module, input_shape, sample), path.name)
    if ":" in str(model) and not path.exists():
        return Loaded(_capture(_module(str(model)), input_shape, sample), str(model))
    if not path.exists():
        raise ModelError(f"there is no model {str(model)!r}: give model.onnx, weights.safetensors with --model, or module:factory")
    raise ModelError(f"{path} is no model that can be read: give model.onnx, weights.safetensors with --model, or module:factory")


def _module(factory: str) -> nn.Module:
    module = call_factory(factory)
    if not isinstance(module, nn.Module):
        raise UsageError(f"{factory} gives {type(module).__name__}, not an nn.Module")
    return module


def _load_weights(module: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is no safetensors file: {error}") from error
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit the network: {' '.join(str(error).split())}") from error


def _capture(module: nn.Module, input_shape: tuple[int, ...] | None, sample: Any) -> Graph:
    from steepest.capture.torch_export import from_module

    if sample is None:
        shape = input_shape or getattr(module, "input_shape", None)
        if shape is None:
            raise UsageError("a PyTorch model needs the shape of its input: --input-shape 1,28,28 (without the batch axis), or sample=")
        sample = torch.zeros(1, *shape)
    return from_module(module, sample)
