"""An argument by activation patterns: a tree of cuts at the kinks of neurons, and what bounds or empties each leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from steepest.results.domain import array_to_json


@dataclass(frozen=True, eq=False)
class Patterns:
    """Trees over the pieces that neurons may be on, one for each row of the Jacobian in linf, each column in l1, and one in l2.

    Neurons are the entries of all activations, one node after the other, and q is the most kinks that any of them has.

    Args:
        first: int64 ``[2, neurons]``, the first and the last piece that each neuron may be on over the whole domain.
        cut: int64, for every node of the trees in preorder, the lower side first: ``neuron q + kink`` where it is cut, -1 for a leaf
            with multipliers, -2 for a leaf without an interior; less where it is without one as a function of what the neurons of a
            level read, -3 for the first.
        chosen: int64, for every leaf with multipliers, in order, its row of ``multipliers`` and of ``weights``.
        multipliers: float64 ``[count, neurons]``.
        weights: float64 ``[count, inputs]`` of the inputs that are free (in l1 of the outputs); no columns in l2.
        counts: int64, for every leaf without an interior, in order, how many constraints show it.
        codes: int64, those: ``2 (neuron q + kink)``, one more where the neuron is above that kink.
        shares: float64, their multipliers.
    """

    first: np.ndarray
    cut: np.ndarray
    chosen: np.ndarray
    multipliers: np.ndarray
    weights: np.ndarray
    counts: np.ndarray
    codes: np.ndarray
    shares: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: array_to_json(getattr(self, name)) for name in self.__dataclass_fields__}

    @property
    def numbers(self) -> int:
        """How many it holds in all."""
        return sum(getattr(self, name).size for name in self.__dataclass_fields__)
