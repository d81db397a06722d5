"""A data set that says which sample it gave."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset


class Indexed(Dataset[tuple[Any, ...]]):
    """``(index, *sample)`` for every sample of a data set with ``__getitem__`` and ``__len__``.

    Args:
        data: the data set; a sample that is no tuple becomes a tuple of one.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        sample = self.data[index]
        return (index, *sample) if isinstance(sample, tuple | list) else (index, sample)

    def __len__(self) -> int:
        return len(self.data)
