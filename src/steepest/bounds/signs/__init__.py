"""Branch and bound over activation patterns."""

from steepest.bounds.signs.search import Signs

__all__ = ["Signs"]
