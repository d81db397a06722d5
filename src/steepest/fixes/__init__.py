"""Fixes tried from outside: a script is run again under an intervention at global hooks, and what it reaches is compared."""

from steepest.fixes.intervention import Intervention, Several
from steepest.fixes.trying import Attempt, Limits, Surroundings, rerun, try_fixes

__all__ = ["Attempt", "Intervention", "Limits", "Several", "Surroundings", "rerun", "try_fixes"]
