"""All studies by name."""

from __future__ import annotations

from steepest.errors import UsageError
from steepest.studies.adam_divergence import AdamDivergence
from steepest.studies.covariate_shift import CovariateShift
from steepest.studies.depth import Depth
from steepest.studies.edge_of_stability import EdgeOfStability
from steepest.studies.gan_stability import GanStability
from steepest.studies.generalisation import GeneralisationStudy
from steepest.studies.ghost_batches import GhostBatches
from steepest.studies.hardness import Hardness
from steepest.studies.large_batch import LargeBatch
from steepest.studies.late_gradients import LateGradients
from steepest.studies.lottery_tickets import LotteryTickets
from steepest.studies.mode_connectivity import ModeConnectivity
from steepest.studies.momentum import Momentum
from steepest.studies.normalisation import Normalisation
from steepest.studies.ntk import NTK
from steepest.studies.proven_rates import ProvenRates
from steepest.studies.saddle_escape import SaddleEscape
from steepest.studies.sensitivity import Sensitivity
from steepest.studies.signal_propagation import SignalPropagation
from steepest.studies.smoothness import Smoothness
from steepest.studies.study import Study
from steepest.studies.temperature import Temperature
from steepest.studies.ultra_deep import UltraDeep
from steepest.studies.warm_up import WarmUp

STUDIES: tuple[type[Study], ...] = (
    Normalisation,
    CovariateShift,
    Smoothness,
    GhostBatches,
    Depth,
    SignalPropagation,
    UltraDeep,
    AdamDivergence,
    ProvenRates,
    NTK,
    ModeConnectivity,
    LotteryTickets,
    LargeBatch,
    Momentum,
    SaddleEscape,
    EdgeOfStability,
    GeneralisationStudy,
    WarmUp,
    Sensitivity,
    Temperature,
    LateGradients,
    GanStability,
    Hardness,
)


def find(name: str) -> type[Study]:
    """The study of that name.

    Raises:
        UsageError: where there is none.
    """
    for study in STUDIES:
        if study.name == name:
            return study
    raise UsageError(f"there is no study {name!r}; there are {', '.join(s.name for s in STUDIES)}")
