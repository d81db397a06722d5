"""How well a trained network may be expected to generalise, by its norms and margins."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steepest.results.domain import number_to_json

_LEVELS = (0.0, 0.01, *(k / 20 for k in range(1, 21)))


@dataclass(frozen=True)
class LayerNorms:
    """The norms of one layer ``x -> sigma(A x)`` that enter the bound, each proven and rounded up.

    Args:
        node: its name in the graph.
        op: the operator's code.
        inputs, outputs: entries of its input and output, with the constant one where biases take part.
        spectral: largest singular value s of the whole operator A, padding, positions and bias included.
        distance: ``|A' - M'|_{2,1}``: the sum over A's rows, one for each output entry, of their distance to those of the reference M.
        gain: Lipschitz constant rho of what follows until the next layer: activation, pooling, reshaping.
    """

    node: str
    op: str
    inputs: int
    outputs: int
    spectral: float
    distance: float
    gain: float


@dataclass(frozen=True)
class MarginBound:
    """A bound of the probability of a wrong answer, and its parts; above 1 it says nothing.

    Args:
        value: the sum of the parts.
        margin: gamma, at which it was evaluated.
        share: of the samples with a margin of at most gamma.
        complexity: the part that the norms are responsible for.
        confidence: the part that delta and the union over norms and margins are responsible for.
        delta: the bound fails with at most this probability over the draw of the samples.
    """

    value: float
    margin: float
    share: float
    complexity: float
    confidence: float
    delta: float

    @property
    def vacuous(self) -> bool:
        """Whether it promises nothing: an error of at most 100 %."""
        return not self.value < 1.0


@dataclass(frozen=True, eq=False)
class Generalisation:
    """Norms, margins and the bound that follows from them.

    Args:
        name: what people call the network.
        digest: of the network it speaks of.
        layers: from first to last.
        product: of all spectral norms and gains: the plain Lipschitz constant that the theorem uses.
        complexity: spectral complexity R_A.
        biased: whether biases take part, as one more constant input of every layer; all norms then include it.
        referenced: whether distances are from given matrices; else from zero.
        width: the most entries between two layers.
        margins: ``[n]``, float64: ``f_y - max_{j != y} f_j`` of every sample.
        data_norm: root of the sum of all squared inputs, with the constant one where biases take part.
        bound: Theorem 1.1 with its constants.
        path_norms: the l1 and the l2 path norm; None where the network is not made of ReLU layers.
        path_remark: why there are none.
        lipschitz: a proven Lipschitz constant of the whole network in l2, where one was given.
    """

    name: str
    digest: str
    layers: tuple[LayerNorms, ...]
    product: float
    complexity: float
    biased: bool
    referenced: bool
    width: int
    margins: np.ndarray
    data_norm: float
    bound: MarginBound
    path_norms: tuple[float, float] | None = None
    path_remark: str = ""
    lipschitz: float | None = None

    @property
    def error(self) -> float:
        """The share of the samples that are answered wrongly; a tie is wrong."""
        return float((self.margins <= 0).mean())

    @property
    def normalised_margins(self) -> np.ndarray:
        """``[n]``: margins over ``R_A |X|_2 / n``, comparable between networks and data (Bartlett et al. 2017, figures 2 and 3)."""
        scale = self.complexity * self.data_norm / len(self.margins)
        return self.margins / scale if scale > 0 else np.zeros_like(self.margins)

    @property
    def lipschitz_complexity(self) -> float | None:
        """Spectral complexity with the proven constant of the whole network in place of the product of norms.

        A measure to compare networks by, and no bound: the theorem's proof needs the product, over all networks with such norms.
        """
        if self.lipschitz is None:
            return None
        return self.complexity * (self.lipschitz / self.product) if self.product > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The JSON form: margins by quantiles, infinity as ``"inf"``."""
        return {
            "format": "steepest-generalisation/1",
            "model": {"name": self.name, "digest": self.digest},
            "samples": len(self.margins),
            "error": self.error,
            "bound": {**{key: number_to_json(v) for key, v in asdict(self.bound).items()}, "vacuous": self.bound.vacuous},
            "complexity": number_to_json(self.complexity),
            "product": number_to_json(self.product),
            "lipschitz": None if self.lipschitz is None else number_to_json(self.lipschitz),
            "lipschitz_complexity": None if self.lipschitz_complexity is None else number_to_json(self.lipschitz_complexity),
            "biased": self.biased,
            "referenced": self.referenced,
            "width": self.width,
            "data_norm": self.data_norm,
            "path_norms": None if self.path_norms is None else {"l1": self.path_norms[0], "l2": self.path_norms[1]},
            "path_remark": self.path_remark,
            "layers": [asdict(layer) for layer in self.layers],
            "margins": _quantiles(self.margins),
            "normalised_margins": _quantiles(self.normalised_margins),
        }

    def _repr_html_(self) -> str:
        # An import upwards, as for a bracket: notebooks ask the record itself for its picture.
        from steepest.report.fragments import generalisation_fragment

        return generalisation_fragment(self.to_json())


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{level:g}": float(np.quantile(values, level)) for level in _LEVELS}
