"""How steep is a network? Proven brackets of Lipschitz constants, certified radii, certificates anyone can check.

``steepest.bound(model, sample=x)`` brackets a constant, ``steepest.local_constants(model, x, radius)`` bounds those around many inputs,
``steepest.check(certificate, model)`` verifies a certificate, ``steepest.certify(model, x, y)`` certifies radii of inputs, and
``steepest.audit()`` does the whole job. ``with steepest.watch() as run`` observes training, ``steepest.diagnose(script)`` says what
is wrong with it, ``steepest.race(task)`` compares descent methods; see ``steepest.api``. Names load on first use, so that the checker
alone needs no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steepest.api import audit as audit
    from steepest.api import bound as bound
    from steepest.api import certify as certify
    from steepest.api import check as check
    from steepest.api import diagnose as diagnose
    from steepest.api import generalisation as generalisation
    from steepest.api import local_constants as local_constants
    from steepest.api import race as race
    from steepest.api import study as study
    from steepest.api import watch as watch
    from steepest.results import Bracket as Bracket
    from steepest.results import Domain as Domain

__version__ = "0.1.0"
__all__ = [
    "Bracket",
    "Domain",
    "__version__",
    "audit",
    "bound",
    "certify",
    "check",
    "diagnose",
    "generalisation",
    "local_constants",
    "race",
    "study",
    "watch",
]

_HOMES = {
    "audit": "steepest.api",
    "bound": "steepest.api",
    "certify": "steepest.api",
    "check": "steepest.api",
    "diagnose": "steepest.api",
    "generalisation": "steepest.api",
    "local_constants": "steepest.api",
    "study": "steepest.api",
    "race": "steepest.api",
    "watch": "steepest.api",
    "Bracket": "steepest.results",
    "Domain": "steepest.results",
}


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Import binds a submodule in its package; a verb that has its module's name stays the verb.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'steepest' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
