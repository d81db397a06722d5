"""The network as a graph of operators."""

from steepest.graph.graph import Graph, Node, depended_on
from steepest.graph.operator import Input, Operator, Shape

__all__ = ["Graph", "Input", "Node", "Operator", "Shape", "depended_on"]
