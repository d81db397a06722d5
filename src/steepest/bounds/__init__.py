"""One file per algorithm that bounds a Lipschitz constant from above; none knows another."""

from steepest.bounds.jacobian import ClarkeJacobian
from steepest.bounds.lipsdp import LipSDP
from steepest.bounds.product import Product

__all__ = ["ClarkeJacobian", "LipSDP", "Product"]
