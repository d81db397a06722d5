"""One file per algorithm that bounds a Lipschitz constant from above; none knows another."""

from steepest.bounds.jacobian import ClarkeJacobian
from steepest.bounds.linear_jacobian import LinearJacobian
from steepest.bounds.lipsdp import ChannelLipSDP, LipSDP, LocalLipSDP, PieceLipSDP
from steepest.bounds.product import Product
from steepest.bounds.rowwise import Rowwise
from steepest.bounds.signs import Signs
from steepest.bounds.splitting import Splitting

__all__ = [
    "ChannelLipSDP",
    "ClarkeJacobian",
    "LinearJacobian",
    "LipSDP",
    "LocalLipSDP",
    "PieceLipSDP",
    "Product",
    "Rowwise",
    "Signs",
    "Splitting",
]
