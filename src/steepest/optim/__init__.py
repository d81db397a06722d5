"""Descent methods that torch.optim lacks, and every method by name (``steepest.optim.catalogue``)."""

from steepest.optim.adadelay import AdaDelay as AdaDelay
from steepest.optim.adafom import AdaFom as AdaFom
from steepest.optim.armijo import Armijo as Armijo
from steepest.optim.barzilai_borwein import BarzilaiBorwein as BarzilaiBorwein
from steepest.optim.curriculum import CurriculumSampler as CurriculumSampler
from steepest.optim.early_stopping import EarlyStopping as EarlyStopping
from steepest.optim.gradient_noise import GradientNoise as GradientNoise
from steepest.optim.indexed import Indexed as Indexed
from steepest.optim.kfac import KFAC as KFAC
from steepest.optim.pacing import Exponential as Exponential
from steepest.optim.pacing import Root as Root
from steepest.optim.polyak import StochasticPolyak as StochasticPolyak
from steepest.optim.saga import SAGA as SAGA
from steepest.optim.svrg import SVRG as SVRG

__all__ = [
    "KFAC",
    "SAGA",
    "SVRG",
    "AdaDelay",
    "AdaFom",
    "Armijo",
    "BarzilaiBorwein",
    "CurriculumSampler",
    "EarlyStopping",
    "Exponential",
    "GradientNoise",
    "Indexed",
    "Root",
    "StochasticPolyak",
]
