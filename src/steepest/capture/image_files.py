"""The usual files of image data sets: idx of MNIST and its kin, the binary version of CIFAR; without pickles or torchvision."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TypeVar

import numpy as np

from steepest.errors import ModelError

T = TypeVar("T")

_LARGEST = 2**31
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """One array from an idx file, ``.gz`` or plain.

    Args:
        path: such as ``train-images-idx3-ubyte.gz``.

    Returns:
        The array, in the machine's byte order.

    Raises:
        ModelError: for a file that is missing, damaged, no idx, or larger than 2 GiB unpacked.

    Source: the format's description by LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist.
    """
    content = _bytes(Path(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise ModelError(f"{path} is no idx file: it must begin with two zero bytes, a type and the number of axes")
    kind, rank = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise ModelError(f"{path} ends within its header")
    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) - start != math.prod(shape) * kind.itemsize:
        raise ModelError(f"{path} says it holds {list(shape)} values of {kind.itemsize} bytes, and has {len(content) - start} bytes")
    return np.frombuffer(content, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))


def read_mnist(folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of MNIST, Fashion-MNIST, KMNIST or another set in their four files.

    Args:
        folder: with ``train-images-idx3-ubyte`` and so on, each plain or ``.gz``.
        split: ``train`` or ``test``.

    Returns:
        x ``[n, 1, rows, columns]`` float32 in [0, 1], and y ``[n]`` int64.

    Raises:
        ModelError: for a file that is missing or cannot be taken, or images and labels that do not belong together.
    """
    begin = _split(split, {"train": "train", "test": "t10k"})
    return read_mnist_files(*(_found(Path(folder), f"{begin}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")))


def read_mnist_files(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """As ``read_mnist``, from two files by name."""
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or x.dtype != np.uint8 or y.shape != x.shape[:1] or y.dtype.kind not in "ui":
        raise ModelError(f"{images} and {labels} hold {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}: no images with a label each")
    return x[:, None].astype(np.float32) / np.float32(255), y.astype(np.int64)


def read_cifar_batch(path: str | Path, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one ``.bin`` file of the binary version of CIFAR-10, or of CIFAR-100 with its fine labels.

    Args:
        path: such as ``data_batch_1.bin``.
        classes: 10 or 100.

    Returns:
        x ``[n, 3, 32, 32]`` float32 in [0, 1], and y ``[n]`` int64.

    Raises:
        ModelError: for a file that is missing or no such batch.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009), and the page of the data set.
    """
    if classes not in (10, 100):
        raise ValueError(f"classes must be 10 or 100, not {classes}")
    content, labels = _bytes(Path(path)), 1 if classes == 10 else 2
    if not content or len(content) % (labels + 3072):
        size = labels + 3072
        raise ModelError(f"{path} is no CIFAR-{classes} batch in binary: {len(content)} bytes are no multiple of {size}")
    records = np.frombuffer(content, np.uint8).reshape(-1, labels + 3072)
    y = records[:, labels - 1].astype(np.int64)
    if y.max() >= classes:
        raise ModelError(f"{path} is no CIFAR-{classes} batch: it holds the label {y.max()}")
    return records[:, labels:].reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255), y


def read_cifar10(folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of CIFAR-10 from its binary version, unpacked.

    Args:
        folder: with ``data_batch_1.bin`` to ``5`` and ``test_batch.bin``.
        split: ``train`` or ``test``.

    Returns:
        x ``[n, 3, 32, 32]`` float32 in [0, 1], and y ``[n]`` int64.

    Raises:
        ModelError: for a file that is missing or cannot be taken.
    """
    many = [f"data_batch_{k}.bin" for k in range(1, 6)]
    names = _split(split, {"train": many, "test": ["test_batch.bin"]})
    batches = [read_cifar_batch(Path(folder) / name) for name in names]
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def _split(split: str, names: dict[str, T]) -> T:
    if split not in names:
        raise ValueError(f"split must be {' or '.join(names)}, not {split!r}")
    return names[split]


def _found(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise ModelError(f"{folder} holds neither {name} nor {name}.gz")


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
        with opened as file:
            content = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if len(content) > _LARGEST:
        raise ModelError(f"{path} is larger than {_LARGEST >> 30} GiB unpacked")
    return content
