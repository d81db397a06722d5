"""Objects named ``module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from steepest.errors import UsageError


def call_factory(spec: str) -> Any:
    """Import ``module:name`` (the working directory is on the path) and call it where it can be called without arguments.

    Raises:
        UsageError: where there is no such thing, or it fails.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise UsageError(f"{spec!r} is not module:name")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"cannot import {module_name!r} of {spec!r}: {error}") from error
    found = getattr(module, name, None)
    if found is None:
        raise UsageError(f"{module_name!r} has no {name!r}")
    if not callable(found) or (hasattr(found, "state_dict") and not isinstance(found, type)):
        return found
    try:
        return found()
    except Exception as error:
        raise UsageError(f"{spec} failed: {type(error).__name__}: {error}") from error
