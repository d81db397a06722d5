"""scikit-learn's digits as training and test tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.errors import require_extra


@dataclass(frozen=True, eq=False)
class Digits:
    """Images ``[n, 1, 8, 8]``, float32, with mean zero and variance one over the training set, and their labels."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_digits(train: int = 1400) -> Digits:
    """The same split at every call: ``train`` images to train on, the others to test.

    Raises:
        UsageError: where scikit-learn is not installed.
    """
    digits = require_extra("sklearn.datasets", "example").load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[order]
    y = torch.tensor(digits.target)[order]
    std, mean = torch.std_mean(x[:train])
    x = (x - mean) / std
    return Digits(x[:train], y[:train], x[train:], y[train:])
