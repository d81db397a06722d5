"""The errors steepest raises on purpose, each with the exit code the command line returns for it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class SteepestError(Exception):
    """Base of every error that is the message itself: shown without a traceback."""

    exit_code = 1


class ThresholdError(SteepestError):
    """A threshold the user gave was not met, or a certificate does not hold."""

    exit_code = 1


class UsageError(SteepestError):
    """An option, argument or shape that does not fit."""

    exit_code = 2


class ModelError(SteepestError):
    """A model or data file that cannot be taken: missing, damaged, unsafe, or with values that are not numbers."""

    exit_code = 3


class UnsupportedOperatorError(ModelError):
    """An operator that is not understood, or is not a Lipschitz map; refused by name, never skipped.

    Args:
        operator: the name the model gives it, such as ``aten.sign.default`` or ``Sign``.
        where: the node it was met at.
        why: one clause that says what is wrong with it.
    """

    def __init__(self, operator: str, where: str, why: str) -> None:
        super().__init__(f"operator {operator} at {where!r} cannot be taken: {why}")
        self.operator, self.where, self.why = operator, where, why


class LimitError(SteepestError):
    """A limit on time or memory was reached; what was valid so far has been written."""

    exit_code = 4


class SoundnessError(SteepestError):
    """A lower bound exceeded an upper bound: a bug in steepest, never a property of the network.

    Args:
        message: what contradicts what.
        replay: JSON with everything needed to see it again.
    """

    exit_code = 70

    def __init__(self, message: str, replay: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.replay = replay


def require_extra(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        UsageError: when the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"this needs {module}: pip install 'steepest[{extra}]'") from error
