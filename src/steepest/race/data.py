"""Data of the tasks: images of digits, images in the IDX format, a text that comes with Python."""

from __future__ import annotations

import gzip
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steepest.errors import ModelError, UsageError, require_extra

_VALIDATION = 400


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits: training inputs ``[1397, 64]`` in [0, 1] and labels, then 400 of validation; the split is always the same."""
    loaded = require_extra("sklearn.datasets", "example").load_digits()
    x = torch.tensor(loaded.images / 16.0, dtype=torch.float32).flatten(1)
    y = torch.tensor(loaded.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held, rest = order[:_VALIDATION], order[_VALIDATION:]
    return x[rest], y[rest], x[held], y[held]


@lru_cache(maxsize=1)
def text(length: int = 200_000) -> tuple[Tensor, Tensor, int]:
    """Python's own language reference (``pydoc_data.topics``) as numbers of characters.

    Returns the training part, the last tenth for validation, and how many different characters there are.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UsageError(
            "this Python comes without pydoc_data, whose text this task reads: install its standard library in full"
        ) from error
    joined = "\n".join(topics[key] for key in sorted(topics))
    kept = "".join(c for c in joined if c == "\n" or " " <= c <= "~")[:length]
    alphabet = {c: k for k, c in enumerate(sorted(set(kept)))}
    codes = torch.tensor([alphabet[c] for c in kept])
    cut = len(codes) * 9 // 10
    return codes[:cut], codes[cut:], len(alphabet)


def fashion(folder: str | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fashion-MNIST: images ``[n, 1, 28, 28]`` in [0, 1] and labels for training, then the same for validation.

    Args:
        folder: holds the four IDX files, plain or with ``.gz``, or has them in ``fashion-mnist`` or ``FashionMNIST/raw``. None:
            ``$STEEPEST_SHARED/data``.

    Raises:
        UsageError: where they are not there.
        ModelError: where a file is damaged.
    """
    if folder is None and not os.environ.get("STEEPEST_SHARED"):
        raise UsageError(
            "fashion_cnn needs the files of Fashion-MNIST: name their folder with --data, or set STEEPEST_SHARED to a folder with data/"
        )
    root = Path(folder) if folder is not None else Path(os.environ["STEEPEST_SHARED"]) / "data"
    for place in (root, root / "fashion-mnist", root / "FashionMNIST" / "raw"):
        files = [_idx_file(place, name) for name in _FILES]
        if all(files):
            images, labels, held, held_labels = (_idx(file) for file in files if file)
            if images.shape[1:] != (28, 28) or len(images) != len(labels) or held.shape[1:] != (28, 28) or len(held) != len(held_labels):
                raise ModelError(f"the files in {place} are not Fashion-MNIST: images have shapes {images.shape} and {held.shape}")
            return _scaled(images), torch.from_numpy(labels).long(), _scaled(held), torch.from_numpy(held_labels).long()
    raise UsageError(f"there is no Fashion-MNIST in {root}: it takes {', '.join(_FILES)}, with or without .gz")


_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format: two zeros, type 8, number of axes, big-endian lengths, the bytes."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ModelError(f"{path} is not an IDX file of bytes")
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[k : k + 4], "big") for k in range(4, start, 4))
    if len(raw) - start != np.prod(shape, dtype=np.int64):
        raise ModelError(f"{path} is cut off or too long: {len(raw) - start} bytes for {shape}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _scaled(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float().div_(255).unsqueeze(1)
