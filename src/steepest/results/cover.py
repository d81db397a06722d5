"""An argument by pieces: a tree of cuts through the inputs, and one argument for each piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steepest.results.domain import array_to_json


@dataclass(frozen=True, eq=False)
class Cover:
    """Boxes of ``(u, tau)`` that cover the domain's inputs ``u / tau``, cut along coordinates, and what bounds each piece.

    Over a bounded domain there is one box, the domain's, with ``tau = 1``; over all inputs they are faces of a cube (docs/certificate.md).

    Args:
        scale: half sides of the cube, ``[inputs]``; empty where there is none, and the whole domain is one box with ``tau = 1``.
        coordinate: int64, for every node of the trees in preorder, the lower side first: the coordinate of ``(u, tau)`` that is cut; or,
            counting on from these, an entry of the network's nodes, one node after the other, whose sign is told apart; or -1 for a piece.
        at: float64, where; zero for a sign and for a piece.
        pieces: for every piece in order: multipliers by node, or none where the Clarke Jacobian's intervals suffice.
    """

    scale: np.ndarray
    coordinate: np.ndarray
    at: np.ndarray
    pieces: tuple[Mapping[int, np.ndarray], ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "scale": array_to_json(self.scale),
            "coordinate": array_to_json(self.coordinate),
            "at": array_to_json(self.at),
            "pieces": [[{"node": node, "multipliers": array_to_json(t)} for node, t in piece.items()] for piece in self.pieces],
        }
