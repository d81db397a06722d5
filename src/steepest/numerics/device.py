"""Computing where an accelerator is: records of tensors are moved there, and what torch makes meanwhile is made there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from steepest.errors import UsageError

T = TypeVar("T")


def require_device(name: str) -> torch.device:
    """A device by its name, if it is there and has float64.

    Raises:
        UsageError: where it is not, or has no float64 (Apple's).
    """
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device).sum().item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise UsageError(f"the device {name!r} cannot be used: {str(error).strip().splitlines()[0]}") from error
    return device


@contextmanager
def working_on(device: torch.device | str) -> Iterator[None]:
    """What torch makes inside is made on the device; convolutions keep the whole of float32."""
    if torch.device(device).type == "cpu":
        yield
        return
    with torch.device(device), torch.backends.cudnn.flags(allow_tf32=False):
        yield


def moved(value: T, device: torch.device | str) -> T:
    """The same record with every tensor in it on the device: dataclasses, tuples and dictionaries of them.

    Args:
        value: not changed; what is shared stays shared.
        device: where to.
    """
    return _moved(value, device, {})


def _moved(value: Any, device: torch.device | str, done: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, tuple) and type(value) is tuple:
        result: Any = tuple(_moved(v, device, done) for v in value)
    elif isinstance(value, dict):
        result = {k: _moved(v, device, done) for k, v in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        result = copy.copy(value)
        names = {f.name for f in fields(value)}
        # What was cached belongs to the old place.
        for name in [name for name in vars(result) if name not in names]:
            del vars(result)[name]
        for name in names:
            object.__setattr__(result, name, _moved(getattr(value, name), device, done))
    else:
        return value
    done[id(value)] = result
    return result
