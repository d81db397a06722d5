"""What a data loader says of itself."""

from __future__ import annotations

from typing import Any

from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, SequentialSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler


def describe(loader: Any) -> tuple[int | None, int | None, bool | None]:
    """Batches, batch size and whether the order is random; each None where the loader does not say."""
    if isinstance(loader.dataset, IterableDataset):
        return None, loader.batch_size, None
    try:
        batches = len(loader)
    except TypeError:
        batches = None
    sampler, size = loader.sampler, loader.batch_size
    if type(loader.batch_sampler) is BatchSampler:
        sampler, size = loader.batch_sampler.sampler, loader.batch_sampler.batch_size
    elif loader.batch_sampler is not None:
        return batches, size, None
    if isinstance(sampler, DistributedSampler):
        return batches, size, sampler.shuffle
    if isinstance(sampler, (RandomSampler, WeightedRandomSampler)):
        return batches, size, True
    return batches, size, False if isinstance(sampler, SequentialSampler) else None
