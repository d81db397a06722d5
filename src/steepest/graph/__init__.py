"""The network as a graph of operators."""

from steepest.graph.graph import Graph, Node
from steepest.graph.operator import Input, Operator, Shape

__all__ = ["Graph", "Input", "Node", "Operator", "Shape"]
