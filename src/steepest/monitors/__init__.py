"""One file per convergence theory: what each says of a run as it goes."""

from steepest.monitors.abc_variance import ABCVariance as ABCVariance
from steepest.monitors.adam_type import AdamTypeMonitor as AdamTypeMonitor
from steepest.monitors.deep_linear import DeepLinearRate as DeepLinearRate
from steepest.monitors.descent_lemma import DescentLemma as DescentLemma
from steepest.monitors.edge_of_stability import EdgeOfStability as EdgeOfStability
from steepest.monitors.ntk_rate import NTKRate as NTKRate
from steepest.monitors.polyak_lojasiewicz import PolyakLojasiewicz as PolyakLojasiewicz

__all__ = ["ABCVariance", "AdamTypeMonitor", "DeepLinearRate", "DescentLemma", "EdgeOfStability", "NTKRate", "PolyakLojasiewicz"]
