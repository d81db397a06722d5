"""One loss evaluated twice: with the same random numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class SameRandomness:
    """The state of torch's generators at a point, to return to: dropout then draws the same masks again.

    Args:
        parameters: tensors whose devices are meant, beside the processor.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._cpu = torch.get_rng_state()
        self._devices = {p.device: torch.cuda.get_rng_state(p.device) for p in parameters if p.device.type == "cuda"}

    def restore(self) -> None:
        """Return to it."""
        torch.set_rng_state(self._cpu)
        for device, state in self._devices.items():
            torch.cuda.set_rng_state(state, device)
