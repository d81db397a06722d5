"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from steepest.errors import UsageError

Model = Annotated[str, typer.Argument(metavar="MODEL", help="model.onnx, weights.safetensors (with --model) or module:factory")]
Factory = Annotated[str | None, typer.Option("--model", metavar="MODULE:FACTORY", help="builds the network for safetensors weights")]
InputShape = Annotated[
    str | None, typer.Option("--input-shape", metavar="1,28,28", help="shape of one input without its batch axis, for PyTorch models")
]
Norm = Annotated[str, typer.Option("--norm", metavar="2|inf|1", help="norm of inputs and outputs")]
Effort = Annotated[str, typer.Option("--effort", metavar="fast|normal|high", help="how long to search, from both sides")]
Seed = Annotated[int, typer.Option("--seed", help="of every random choice")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="most processor threads; bounds take one where more are no faster")]
Device = Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="where multipliers are looked for")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]


def use_threads(threads: int | None) -> None:
    """Limit torch to so many threads."""
    if threads is not None:
        torch.set_num_threads(threads)


def read_shape(text: str | None) -> tuple[int, ...] | None:
    """``"1,28,28"`` as a tuple.

    Raises:
        UsageError: for anything else.
    """
    return None if text is None else _integers(text, "--input-shape", "positive integers such as 1,28,28", least=1)


def read_output(text: str | None) -> tuple[int, ...] | None:
    """``"I"`` or ``"I,J"`` as a tuple.

    Raises:
        UsageError: for anything else.
    """
    return None if text is None else _integers(text, "--output", "I or I,J", least=0)


def _integers(text: str, option: str, expected: str, least: int) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < least:
        raise UsageError(f"{option} takes {expected}, not {text!r}")
    return values
