"""GroupSort and MaxMin: channels sorted within groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupSort(nn.Module):
    """The channels of ``[N, C, ...]`` in ascending order within groups of neighbours; 1-Lipschitz in every lp, and keeps every norm.

    Args:
        group: channels in a group, at least 2; it must divide C.

    Raises:
        ValueError: for a group below 2, or channels that it does not divide.

    Source: Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (2019).
    """

    def __init__(self, group: int = 2) -> None:
        super().__init__()
        if group < 2:
            raise ValueError(f"a group needs at least 2 channels, not {group}")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """The sorted channels, of the same shape."""
        if x.dim() < 2 or x.shape[1] % self.group:
            raise ValueError(f"expected [N, C, ...] with C a multiple of {self.group}, not {list(x.shape)}")
        groups = x.unflatten(1, (-1, self.group))
        # Two need no sort, except where the graph is taken, in which a sort is known by its kind.
        if self.group == 2 and not torch.compiler.is_exporting():
            first, second = groups.unbind(2)
            # Half of the work of minimum and maximum and their gradients.
            over = torch.relu(first - second)
            return torch.stack((first - over, second + over), 2).flatten(1, 2)
        return groups.sort(2).values.flatten(1, 2)

    def extra_repr(self) -> str:
        """The group."""
        return f"group={self.group}"


class MaxMin(GroupSort):
    """GroupSort in pairs of neighbouring channels.

    Source: Anil, Lucas and Grosse (2019), section 4.1; OPLU of Chernodub and Nowicki (2016).
    """

    def __init__(self) -> None:
        super().__init__(2)
