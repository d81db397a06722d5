"""The base of what probes return: frozen records of numbers that survive a trip through JSON."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Any, Self, Union, get_args, get_origin, get_type_hints


class Measured:
    """A frozen dataclass of numbers, words, tuples of these and further records; never a tensor."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form; numbers that are not finite are written as words."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # pyright: ignore[reportArgumentType]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The record that ``to_json`` wrote."""
        hints = get_type_hints(cls)
        return cls(**{f.name: _typed(data[f.name], hints[f.name]) for f in fields(cls) if f.name in data})  # pyright: ignore[reportArgumentType]


def _plain(value: Any) -> Any:
    if isinstance(value, Measured):
        return value.to_json()
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def _typed(value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [a for a in get_args(hint) if a is not type(None)]
        return None if value is None else _typed(value, options[0])
    if origin is tuple:
        kinds = get_args(hint)
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            return tuple(_typed(v, kinds[0]) for v in value)
        return tuple(_typed(v, k) for v, k in zip(value, kinds, strict=True))
    if hint is float:
        return float(value)
    if isinstance(hint, type) and is_dataclass(hint) and issubclass(hint, Measured):
        return hint.from_json(value)
    return value
