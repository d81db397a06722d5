"""Initialisations that torch.nn.init lacks; all change a module in place and return what they did."""

from steepest.init.critical import CriticalScale, critical_
from steepest.init.delta_orthogonal import delta_orthogonal_, orthogonal_
from steepest.init.fixup import FixupScale, fixup_
from steepest.init.lsuv import LsuvLayer, lsuv_

__all__ = ["CriticalScale", "FixupScale", "LsuvLayer", "critical_", "delta_orthogonal_", "fixup_", "lsuv_", "orthogonal_"]
