"""A sampler that shows easy samples first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from steepest.optim.pacing import Pacing, Root


class CurriculumSampler(Sampler[int]):
    """In each epoch the easiest ``pacing.share(epoch)`` of the samples, rounded and at least one, each once, shuffled.

    ::

        sampler = CurriculumSampler(difficulty, Root(start=0.2, length=5))
        loader = DataLoader(data, batch_size=64, sampler=sampler)

    Self-paced learning takes the difficulty from the network being trained: begin with ``torch.zeros(len(data))`` (ties fall at random) and
    give ``update(index, losses)`` the losses met; ``optim.Indexed`` makes a data set yield its indices. Early epochs are shorter. ``epoch``
    counts by itself and can be set.

    Args:
        difficulty: one number per sample, such as the loss of a trained teacher; lower is easier. Not NaN.
        pacing: the share in use at epoch 0, 1, ...
        seed: of the shuffling.

    Raises:
        ValueError: without samples, or for a difficulty that is not a number.

    Source: Y. Bengio, J. Louradour, R. Collobert, J. Weston, Curriculum learning, ICML 2009; the sampling after G. Hacohen, D. Weinshall,
    ICML 2019; self-paced: M. P. Kumar, B. Packer, D. Koller, NeurIPS 2010, with a share of the samples for their threshold on the loss.
    """

    def __init__(self, difficulty: Tensor | Sequence[float], pacing: Pacing | None = None, seed: int = 0) -> None:
        self.difficulty = torch.as_tensor(difficulty, dtype=torch.float64).detach().cpu().clone()
        if self.difficulty.ndim != 1 or not len(self.difficulty):
            raise ValueError(f"difficulty has shape {tuple(self.difficulty.shape)}: one number per sample is needed")
        _require_numbers(self.difficulty)
        self.pacing = Root() if pacing is None else pacing
        self.epoch = 0
        self._generator = torch.Generator().manual_seed(seed)

    def update(self, index: Tensor | Sequence[int], losses: Tensor | Sequence[float]) -> None:
        """Replace the difficulty of samples, from the next epoch on.

        Raises:
            ValueError: for a loss that is not a number.
        """
        values = torch.as_tensor(losses, dtype=torch.float64).detach().cpu()
        _require_numbers(values)
        self.difficulty[torch.as_tensor(index).cpu()] = values

    def __len__(self) -> int:
        """How many samples the next epoch has."""
        return max(1, round(self.pacing.share(self.epoch) * len(self.difficulty)))

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(len(self.difficulty), generator=self._generator)
        # A stable sort of a shuffled order: samples of equal difficulty are drawn at random.
        easiest = order[torch.argsort(self.difficulty[order], stable=True)][: len(self)]
        shuffled = easiest[torch.randperm(len(easiest), generator=self._generator)]
        self.epoch += 1
        return iter(shuffled.tolist())

    def state_dict(self) -> dict[str, Any]:
        """Epoch, difficulties and the generator's state."""
        return {"epoch": self.epoch, "difficulty": self.difficulty.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``: the same epochs follow."""
        self.epoch, self.difficulty = state["epoch"], state["difficulty"].clone()
        self._generator.set_state(state["generator"])


def _require_numbers(values: Tensor) -> None:
    if bool(values.isnan().any()):
        raise ValueError(f"the difficulty of {int(values.isnan().sum())} samples is not a number")
