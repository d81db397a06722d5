"""A Lur'e system as matrices: the slow reference for what follows signals one by one."""

from typing import NamedTuple

import torch


class DenseForm(NamedTuple):
    """``sum_{i in j} (G_i d)^2 <= sum_{i in j} (H_i d)^2`` for all multipliers j, with ``C d`` the output."""

    inputs: int
    G: torch.Tensor
    H: torch.Tensor
    G_of: torch.Tensor
    H_of: torch.Tensor
    C: torch.Tensor

    def decoupled(self):
        """H and C in the variables ``(x, w = G xi)``, in which every constraint reads ``|w_j| <= |H_j (x, w)|``."""
        n, size = self.inputs, self.C.shape[1]
        change = torch.cat([torch.eye(n, size, dtype=torch.float64), self.G])
        both = torch.linalg.solve_triangular(change, torch.cat([self.H, self.C]), upper=False, left=False)
        return both[: len(self.H)], both[len(self.H) :]


def dense(system):
    """All constraints as rows of matrices."""
    place, at = {}, 0
    for i in system.variables:
        place[i] = slice(at, at + system.signals[i].size)
        at += system.signals[i].size
    none = torch.zeros(0, at, dtype=torch.float64)
    gs, hs, wide = [none], [none], torch.zeros(system.signals[system.output].size, at, dtype=torch.float64)
    for s in system.stages:
        rows = torch.zeros(system.signals[s.v].size, at, dtype=torch.float64)
        for i, block in system.matrices(s.v).items():
            rows[:, place[i]] = block.T
        g = torch.zeros(system.signals[s.z].size, at, dtype=torch.float64)
        g[:, place[s.z]] = torch.eye(len(g), dtype=torch.float64)
        gs.append(g if s.tied else g - s.middle[:, None] * rows)
        hs.append(s.radius[:, None] * rows)
    for i, block in system.matrices(system.output).items():
        wide[:, place[i]] = block.T
    empty = torch.zeros(0, dtype=torch.int64)
    return DenseForm(
        system.signals[0].size,
        torch.cat(gs),
        torch.cat(hs),
        torch.cat([empty, *(s.z_of for s in system.stages)]),
        torch.cat([empty, *(s.v_of for s in system.stages)]),
        wide,
    )
