"""Opens ONNX files from strangers: everything is measured before it is allocated, and nothing outside the model's folder is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from steepest.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

MAX_FILE_BYTES = 2**31
MAX_NODES = 100_000
MAX_ELEMENTS = 500_000_000
OPSETS = range(7, 25)
"""Versions of the operators of ``ai.onnx`` whose meaning is known here."""

_FLOATS = {"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"}
_INTEGERS = {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}


def open_model(path: Path) -> ModelProto:
    """Parse a file and check its outline; no tensor is converted and no external file is opened.

    Args:
        path: an ONNX file of at most 2 GiB.

    Raises:
        ModelError: the file is missing, too large, not ONNX, or beyond what is understood; the message says what to do.
    """
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    data = _bytes(path)
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{path} {_kind(data)}") from error
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{path} {_kind(data)}")
    if model.functions:
        name = model.functions[0].name
        raise ModelError(
            f"{path} defines its own operator {name!r}: inline it first (onnx.inliner.inline_local_functions) and save the model again"
        )
    _require_outline(path, model)
    return model


def opset(model: ModelProto) -> int:
    """The version of ``ai.onnx`` the model is written in.

    Raises:
        ModelError: it states none, two, or one whose meaning is not known here.
    """
    versions = {o.version for o in model.opset_import if o.domain in ("", "ai.onnx")}
    if len(versions) != 1:
        stated = "no version" if not versions else f"versions {sorted(versions)}"
        raise ModelError(f"the model states {stated} of the ONNX operators (opset_import) where one is expected: export it again")
    version = versions.pop()
    if version not in OPSETS:
        raise ModelError(
            f"the model is written in ONNX operators of version {version}; versions {OPSETS[0]} to {OPSETS[-1]} are understood: "
            f"export it with opset_version={min(max(version, OPSETS[0]), OPSETS[-1])}, or convert it with onnx.version_converter"
        )
    return version


def walk(graph: GraphProto) -> Iterator[tuple[GraphProto, NodeProto]]:
    """Every node, those of nested graphs included, with the graph it stands in."""
    stack = [graph]
    while stack:
        current = stack.pop()
        for node in current.node:
            yield current, node
            stack.extend(nested(node))


def nested(node: NodeProto) -> list[GraphProto]:
    """The graphs among a node's attributes."""
    graphs = [a.g for a in node.attribute if a.HasField("g")]
    return graphs + [g for a in node.attribute for g in a.graphs]


@dataclass
class Tensors:
    """Converts the file's tensors, counting their entries.

    Args:
        folder: where the model lies; external data is read from here and below alone.
        left: how many entries may still be made.
    """

    folder: Path
    left: int = MAX_ELEMENTS

    def read(self, proto: TensorProto, where: str) -> Tensor:
        """The tensor as float64 (exact), int64 or bool.

        Raises:
            ModelError: its type is not a number's, its data does not fit its shape, or lies where it must not be read.
        """
        from onnx import TensorProto, helper, numpy_helper

        kind = TensorProto.DataType.Name(proto.data_type) if proto.data_type in TensorProto.DataType.values() else str(proto.data_type)
        if kind not in _FLOATS | _INTEGERS | {"BOOL"}:
            raise ModelError(
                f"the tensor {where!r} holds {kind}, which is not understood: export the model with float32 or float64 weights"
            )
        count = _count(tuple(proto.dims), where)
        self.take(count, where)
        if proto.data_location == TensorProto.EXTERNAL:
            size = helper.tensor_dtype_to_np_dtype(proto.data_type).itemsize
            filled = TensorProto(
                name=proto.name, data_type=proto.data_type, dims=proto.dims, raw_data=self._external(proto, count * size, where)
            )
            proto = filled
        try:
            array = numpy_helper.to_array(proto)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ModelError(
                f"the data of the tensor {where!r} does not fit its shape {list(proto.dims)}: the file is damaged, export it again"
            ) from error
        if array.size != count:
            raise ModelError(
                f"the tensor {where!r} holds {array.size} numbers where its shape {list(proto.dims)} says {count}: export the model again"
            )
        target = np.float64 if kind in _FLOATS else np.bool_ if kind == "BOOL" else np.int64
        return torch.from_numpy(np.array(array, dtype=target, order="C").reshape(tuple(proto.dims)))

    def take(self, count: int, where: str) -> None:
        """Count entries about to be made.

        Raises:
            ModelError: they are too many.
        """
        self.left -= count
        if self.left < 0:
            raise ModelError(f"the model's constants exceed {MAX_ELEMENTS:,} numbers at {where!r}: it is too large to be taken")

    def _external(self, proto: TensorProto, size: int, where: str) -> bytes:
        """The bytes of a tensor kept beside the model."""
        entries = {e.key: e.value for e in proto.external_data}
        location = entries.get("location", "")
        target = self._inside(location, where)
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or size)
        except ValueError as error:
            raise ModelError(f"the tensor {where!r} states an offset or length that is no number: export the model again") from error
        if length != size or offset < 0 or offset + size > target.stat().st_size:
            raise ModelError(
                f"the tensor {where!r} needs {size} bytes at offset {offset} of {location!r}, which has "
                f"{target.stat().st_size} and promises {length}: "
                f"the file is cut short or belongs to another model; copy both again"
            )
        with target.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _inside(self, location: str, where: str) -> Path:
        """The file at a location relative to the model's folder, refused where it leads out of it."""
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        stray = not location or "\0" in location or posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts
        folder = self.folder.resolve()
        target = folder if stray else Path(os.path.realpath(folder / location))
        if stray or not target.is_relative_to(folder):
            raise ModelError(
                f"the tensor {where!r} keeps its data at {location!r}, outside the model's folder: put the file beside the "
                "model and save it with a relative path"
            )
        if not target.is_file():
            raise ModelError(f"the tensor {where!r} keeps its data in {location!r}, which is not beside the model: copy it to {folder}")
        return target


def _bytes(path: Path) -> bytes:
    """The file's contents, once it is known to be a file of a sane size."""
    try:
        if not path.exists():
            raise ModelError(f"there is no file {path}: check the path")
        if not path.is_file():
            raise ModelError(f"{path} is not a file: give the .onnx file itself")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelError(
                f"{path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are taken: save the weights as external data beside it"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): check its permissions") from error


def _kind(data: bytes) -> str:
    """What a file that is no model looks like, and what to do about it."""
    if not data:
        return "is empty: export the model again"
    if data[:1] == b"\x80" or data[:2] == b"PK":
        what = "is not ONNX but looks like a PyTorch checkpoint or an archive, which is never unpickled"
        return f"{what}: export the model with torch.onnx.export"
    return "is not an ONNX model, or was cut short: export or copy it again"


def _count(dims: tuple[int, ...], where: str) -> int:
    if any(d < 0 for d in dims):
        raise ModelError(f"the tensor {where!r} has a negative length in its shape {list(dims)}: the file is damaged, export it again")
    return math.prod(dims)


def _require_outline(path: Path, model: ModelProto) -> None:
    """Counts nodes and entries of all graphs before anything is made of them."""
    nodes, elements, seen = 0, sum(_count(tuple(t.dims), t.name) for t in model.graph.initializer), {id(model.graph)}
    for graph, node in walk(model.graph):
        nodes += 1
        if id(graph) not in seen:
            seen.add(id(graph))
            elements += sum(_count(tuple(t.dims), t.name) for t in graph.initializer)
        elements += sum(_count(tuple(a.t.dims), node.name) for a in node.attribute if a.HasField("t"))
        if nodes > MAX_NODES:
            raise ModelError(f"{path} has more than {MAX_NODES:,} nodes: it is too large to be taken")
    if elements > MAX_ELEMENTS:
        raise ModelError(f"{path} holds {elements:,} numbers; at most {MAX_ELEMENTS:,} are taken")
