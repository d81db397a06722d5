"""Inputs from files and factories: arrays without pickles, finite, of the network's input shape."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steepest.capture.factory import call_factory
from steepest.capture.image_files import read_cifar_batch, read_mnist_files
from steepest.errors import ModelError, UsageError

_LARGEST_FILE = 8 * 2**30


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs ``[n, ...]`` and, where known, labels ``[n]``."""

    x: np.ndarray
    y: np.ndarray | None = None


def load_array(path: Path) -> np.ndarray:
    """One array from a ``.npy`` file.

    Raises:
        ModelError: for a file that is missing, too large, or no plain array.
    """
    content = _load(path)
    if not isinstance(content, np.ndarray):
        raise ModelError(f"{path} holds several arrays: give a .npy file with one")
    return content


def load_data(source: str) -> Data:
    """Inputs and labels from ``.npz`` with x and y, from ``.npy``, or from ``module:function`` giving batches of x or (x, y).

    Images also from ``...-images-idx3-ubyte``, plain or ``.gz``, with their labels in the file of that name beside it, and from a
    ``.bin`` batch of CIFAR-10: float32 in [0, 1], with an axis of channels.

    Raises:
        ModelError: for a file that cannot be taken.
        UsageError: for a factory that cannot be found, or gives something else.
    """
    if source.endswith((".npz", ".npy")):
        content = _load(Path(source))
        if isinstance(content, np.ndarray):
            return Data(content)
        if "x" not in content:
            raise ModelError(f"{source} holds {', '.join(content) or 'nothing'}: it needs an array named x, and labels named y")
        return Data(content["x"], content.get("y"))
    if "-images-idx3-ubyte" in Path(source).name:
        path = Path(source)
        return Data(*read_mnist_files(path, _labels_of(path)))
    if source.endswith(".bin"):
        return Data(*read_cifar_batch(source))
    if ":" not in source:
        raise UsageError(
            f"data are a .npz or .npy file, images in idx (...-images-idx3-ubyte[.gz], labels beside them) or CIFAR-10's .bin, or "
            f"module:function, not {source!r}"
        )
    xs, ys = [], []
    batches = call_factory(source)
    if not isinstance(batches, Iterable):
        raise UsageError(f"{source} gives {type(batches).__name__}: it must give batches of x or (x, y)")
    for batch in batches:
        pair = batch if isinstance(batch, (tuple, list)) else (batch,)
        xs.append(np.asarray(pair[0]))
        if len(pair) > 1:
            ys.append(np.asarray(pair[1]))
    if not xs:
        raise UsageError(f"{source} gives no batch")
    return Data(np.concatenate(xs), np.concatenate(ys) if ys else None)


def as_batch(x: np.ndarray | Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inputs ``[n, ...]`` as float64 ``[n, *shape]``.

    Raises:
        UsageError: where an input does not have the network's shape, or is not finite.
    """
    array = _numbers(x)
    expected = tuple(shape[1:]) if shape[:1] == (1,) else tuple(shape)
    if array.ndim >= 1 and len(array) == 0:
        raise UsageError(f"the data hold no input: their shape is {list(array.shape)}")
    if array.ndim < 1 or array.shape[1:] not in {expected, tuple(shape)}:
        raise UsageError(f"the data have shape {list(array.shape)}, and the network takes {['n', *expected]}")
    return torch.from_numpy(array).reshape(len(array), *shape)


def as_labels(y: np.ndarray | Tensor, count: int, classes: int) -> Tensor:
    """Labels as int64 ``[count]``.

    Args:
        y: whole numbers.
        count: of the inputs.
        classes: labels are below it and not negative.

    Raises:
        UsageError: where they are not.
    """
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.dtype.kind not in "iub":
        raise UsageError(f"labels are whole numbers, not {array.dtype}")
    if array.shape != (count,):
        raise UsageError(f"the labels have shape {list(array.shape)}, and there are {count} inputs: give one label for each")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        raise UsageError(f"label {array[wrong[0]]} of input {wrong[0]} is out of range: the network has classes 0 to {classes - 1}")
    return torch.from_numpy(array.astype(np.int64))


def as_input(x: np.ndarray | Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """One input, with or without its batch axis, as float64 of the network's input shape.

    Raises:
        UsageError: where the shape does not fit, or a value is not finite.
    """
    array = _numbers(x)
    expected = tuple(shape[1:]) if shape[:1] == (1,) else tuple(shape)
    if array.shape not in {expected, tuple(shape)}:
        raise UsageError(f"the input has shape {list(array.shape)}, and the network takes {list(expected)}")
    return array.reshape(shape)


def _labels_of(images: Path) -> Path:
    name = images.name.replace("-images-idx3-ubyte", "-labels-idx1-ubyte").removesuffix(".gz")
    plain = images.with_name(name)
    return plain if plain.is_file() else images.with_name(f"{name}.gz")


def _numbers(x: np.ndarray | Tensor) -> np.ndarray:
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise UsageError(f"inputs are real numbers, not {array.dtype}")
    array = np.ascontiguousarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise UsageError("the inputs hold NaN or infinity")
    return array


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    if path.stat().st_size > _LARGEST_FILE:
        raise ModelError(f"{path} is larger than {_LARGEST_FILE >> 30} GiB")
    try:
        content = np.load(path, allow_pickle=False)
        return content if isinstance(content, np.ndarray) else {key: content[key] for key in content.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is no plain numpy file ({error}): write it with numpy.save or numpy.savez, without objects") from error
