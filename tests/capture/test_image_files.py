"""Files of image data sets, written here byte by byte, and read back."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from steepest.capture.data import load_data
from steepest.capture.image_files import read_cifar10, read_cifar_batch, read_idx, read_mnist
from steepest.errors import ModelError, UsageError

SHARED = Path(os.environ.get("STEEPEST_SHARED", "../shared"))


def idx(array, kind=0x08):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder, n=5, zipped=True):
    rng = np.random.default_rng(0)
    parts = {}
    for begin in ("train", "t10k"):
        x, y = rng.integers(0, 256, (n, 4, 3), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)
        for what, array in (("images-idx3-ubyte", x), ("labels-idx1-ubyte", y)):
            name, content = folder / f"{begin}-{what}", idx(array)
            if zipped:
                name.with_name(name.name + ".gz").write_bytes(gzip.compress(content))
            else:
                name.write_bytes(content)
        parts[begin] = x, y
    return parts


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist(tmp_path, zipped):
    parts = mnist(tmp_path, zipped=zipped)
    for split, begin in (("train", "train"), ("test", "t10k")):
        x, y = read_mnist(tmp_path, split)
        assert x.shape == (5, 1, 4, 3) and x.dtype == np.float32 and y.dtype == np.int64
        np.testing.assert_array_equal(x[:, 0], parts[begin][0].astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(y, parts[begin][1])
    data = load_data(str(tmp_path / ("t10k-images-idx3-ubyte" + (".gz" if zipped else ""))))
    np.testing.assert_array_equal(data.x, x)
    np.testing.assert_array_equal(data.y, y)


@pytest.mark.parametrize(("kind", "dtype"), [(0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")])
def test_every_type_of_idx(tmp_path, kind, dtype):
    array = np.arange(-6, 6).reshape(2, 3, 2).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array, kind))
    found = read_idx(tmp_path / "a")
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


def cifar(n, labels=1, seed=0):
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, 10, (n, labels), dtype=np.uint8), rng.integers(0, 256, (n, 3072), dtype=np.uint8)
    return x, y, np.concatenate([y, x], 1).tobytes()


def test_cifar(tmp_path):
    for k in range(1, 6):
        (tmp_path / f"data_batch_{k}.bin").write_bytes(cifar(2, seed=k)[2])
    x, y, content = cifar(3)
    (tmp_path / "test_batch.bin").write_bytes(content)
    found_x, found_y = read_cifar10(tmp_path, "test")
    np.testing.assert_array_equal(found_x, x.reshape(3, 3, 32, 32).astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(found_y, y[:, 0])
    assert read_cifar10(tmp_path, "train")[0].shape == (10, 3, 32, 32)
    assert len(load_data(str(tmp_path / "data_batch_2.bin")).x) == 2
    x, y, content = cifar(3, labels=2)
    (tmp_path / "train.bin").write_bytes(content)
    np.testing.assert_array_equal(read_cifar_batch(tmp_path / "train.bin", 100)[1], y[:, 1])


def test_damaged_files_are_refused(tmp_path):
    good = idx(np.zeros((2, 3), np.uint8))
    for name, content in {
        "empty": b"",
        "text": b"hello world",
        "type": b"\0\0\x07" + good[3:],
        "header": good[:9],
        "short": good[:-1],
        "long": good + b"\0",
        "huge": b"\0\0\x08\x02" + struct.pack(">2I", 2**32 - 1, 2**32 - 1),
        "zip.gz": gzip.compress(good)[:-9],
        "plain.gz": good,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError):
            read_idx(tmp_path / name)
    with pytest.raises(ModelError, match="no file"):
        read_idx(tmp_path / "missing")
    with pytest.raises(ModelError, match="holds neither"):
        read_mnist(tmp_path, "train")
    mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(ModelError, match="label each"):
        read_mnist(tmp_path, "train")
    for content in (b"", cifar(1)[2][:-1], bytes([11]) + bytes(3072)):
        (tmp_path / "bad.bin").write_bytes(content)
        with pytest.raises(ModelError, match="CIFAR-10"):
            read_cifar_batch(tmp_path / "bad.bin")
    with pytest.raises(ValueError):
        read_mnist(tmp_path, "validation")
    with pytest.raises(UsageError, match="idx"):
        load_data(str(tmp_path / "short"))


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the data sets are not here")
def test_the_real_files():
    for name in ("mnist", "fashion-mnist"):
        x, y = read_mnist(SHARED / "data" / name, "test")
        assert x.shape == (10000, 1, 28, 28) and x.max() == 1.0 and np.bincount(y).min() > 850
