"""ONNX operators that move entries: shapes, axes, slices, paddings, gathers. Constants move by the same rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steepest.capture.builder import Value
from steepest.capture.onnx_ops.call import Call, Outputs


def shape(call: Call) -> Outputs:
    """The shape, known for every tensor."""
    dims = call.value(0).shape
    start, end = call.attribute("start", int, 0), call.attribute("end", int, None)
    return torch.tensor(list(dims)[start:end], dtype=torch.int64)


def size(call: Call) -> Outputs:
    """The number of entries."""
    return torch.tensor(math.prod(call.value(0).shape), dtype=torch.int64)


def reshape(call: Call) -> Outputs:
    """Zero keeps a length (unless ``allowzero``), minus one is what is left."""
    x, target = call.value(0), list(call.constant_ints(1) or ())
    if not call.flag("allowzero", False):
        call.require(all(n != 0 or i < len(x.shape) for i, n in enumerate(target)), f"the shape {target} keeps a length they do not have")
        target = [x.shape[i] if n == 0 else n for i, n in enumerate(target)]
    if target.count(-1) == 1:
        rest, entries = math.prod(n for n in target if n != -1), math.prod(x.shape)
        call.require(rest != 0 and entries % rest == 0, f"{entries} entries do not fit the shape {target}")
        target = [entries // rest if n == -1 else n for n in target]
    return call.reshape(x, call.room(target))


def flatten(call: Call) -> Outputs:
    """To a matrix, cut before an axis."""
    x = call.value(0)
    axis = call.axis(len(x.shape), 1, ends=True)
    return call.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def squeeze(call: Call) -> Outputs:
    """Drop axes of length one."""
    x, given = call.value(0), call.ints_of("axes", 1, since=13)
    axes = [a for a, n in enumerate(x.shape) if n == 1] if given is None else call.axes(given, len(x.shape))
    call.require(all(x.shape[a] == 1 for a in axes), "the axes to drop are to have length one")
    return call.reshape(x, [n for a, n in enumerate(x.shape) if a not in axes])


def unsqueeze(call: Call) -> Outputs:
    """Insert axes of length one, counted in the result."""
    x, given = call.value(0), call.ints_of("axes", 1, since=13) or ()
    rank = len(x.shape) + len(given)
    axes, rest = call.axes(given, rank), iter(x.shape)
    return call.reshape(x, [1 if a in axes else next(rest) for a in range(rank)])


def transpose(call: Call) -> Outputs:
    """Reorder axes; without ``perm`` reverse them."""
    x = call.value(0)
    rank = len(x.shape)
    dims = call.ints("perm")
    dims = tuple(reversed(range(rank))) if dims is None else dims
    call.require(sorted(dims) == list(range(rank)), f"its perm is {list(dims)}")
    return call.permute(x, dims)


def expand(call: Call) -> Outputs:
    """Broadcast, both ways."""
    x, target = call.value(0), call.constant_ints(1) or ()
    call.room(target)
    try:
        wide = torch.broadcast_shapes(tuple(x.shape), tuple(target))
    except RuntimeError:
        wide = None
    call.require(wide is not None, f"they do not broadcast to {list(target)}")
    assert wide is not None
    wide = call.room(wide)
    return call.pick(x, lambda t: t.expand(wide))


def tile(call: Call) -> Outputs:
    """Repeat along every axis."""
    x, repeats = call.value(0), call.constant_ints(1) or ()
    call.require(len(repeats) == len(x.shape), f"its repeats are {list(repeats)}")
    call.room([n * r for n, r in zip(x.shape, repeats, strict=True)])
    return call.pick(x, lambda t: t.repeat(repeats) if repeats else t)


def concat(call: Call) -> Outputs:
    """Side by side."""
    values = [call.value(i) for i in range(len(call.inputs))]
    call.require(len(values) > 0 and len({len(v.shape) for v in values}) == 1, "tensors of as many axes are expected")
    call.require("axis" in call.attributes, "its axis is not stated")
    axis = call.axis(len(values[0].shape), 0)
    others = {tuple(n for a, n in enumerate(v.shape) if a != axis) for v in values}
    call.require(len(others) == 1, f"they are to differ in axis {axis} alone")
    call.room((*others.pop(), sum(v.shape[axis] for v in values)))
    return call.builder.concat(values, axis)


def slices(call: Call) -> Outputs:
    """Ranges of axes, with steps of either sign since version 10."""
    x = call.value(0)
    if call.version < 10:
        starts, ends, axes, steps = call.ints("starts"), call.ints("ends"), call.ints("axes"), None
    else:
        starts, ends, axes, steps = (call.constant_ints(i) for i in range(1, 5))
    starts, ends = starts or (), ends or ()
    axes = call.axes(range(len(starts)) if axes is None else axes, len(x.shape))
    steps = (1,) * len(starts) if steps is None else steps
    call.require(len(starts) == len(ends) == len(axes) == len(steps) and 0 not in steps, "starts, ends, axes and steps are to be as many")
    ranges = [(a, _range(x.shape[a], s, e, d)) for a, s, e, d in zip(axes, starts, ends, steps, strict=True)]
    return call.pick(x, lambda t: _indexed(t, [(a, list(r)) for a, r in ranges]))


def _range(n: int, start: int, end: int, step: int) -> range:
    """Positions of a slice; unlike Python's, a start far below the axis is its first entry when stepping down."""
    start, end = (v + n if v < 0 else v for v in (start, end))
    if step > 0:
        return range(min(max(start, 0), n), min(max(end, 0), n), step)
    return range(min(max(start, 0), n - 1), min(max(end, -1), n - 1), step)


def _indexed(t: Tensor, indices: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
    for axis, index in indices:
        t = t.index_select(axis, torch.tensor(index, dtype=torch.int64))
    return t


def split(call: Call) -> Outputs:
    """Consecutive parts of an axis."""
    x = call.value(0)
    axis, sizes = call.axis(len(x.shape), 0), call.ints_of("split", 1, since=13)
    n = x.shape[axis]
    if sizes is None:
        count = call.integer("num_outputs", call.outputs)
        call.require(count == call.outputs > 0, f"it has {call.outputs} outputs where num_outputs is {count}")
        # The last part is shorter where the parts do not come out even.
        part = -(-n // count)
        sizes = tuple(min(part, n - i * part) for i in range(count))
    call.require(sum(sizes) == n and min(sizes) >= 0, f"the parts {list(sizes)} do not make up the length {n}")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(call.pick(x, lambda t, a=a, s=s: t.narrow(axis, a, s)) for a, s in zip(starts, sizes, strict=True))


def gather(call: Call) -> Outputs:
    """Entries of one axis by constant positions."""
    x, index = call.value(0), call.constant(1)
    axis = call.axis(len(x.shape), 0)
    index = _positions(call, index, x.shape[axis])
    lead, tail = x.shape[:axis], x.shape[axis + 1 :]
    target = call.room((*lead, *index.shape, *tail))
    return call.pick(x, lambda t: t.index_select(axis, index.flatten()).reshape(target))


def _positions(call: Call, index: Tensor, n: int) -> Tensor:
    call.require(index.dtype == torch.int64, "positions are to be whole numbers")
    index = torch.where(index < 0, index + n, index)
    call.require(bool(((index >= 0) & (index < n)).all()), f"positions are to lie within the length {n}")
    return index


def gather_elements(call: Call) -> Outputs:
    """One position for every entry of the result."""
    x, index = call.value(0), call.constant(1)
    axis = call.axis(len(x.shape), 0)
    index = _positions(call, index, x.shape[axis])
    call.require(index.ndim == len(x.shape), "positions are to have as many axes as the first")
    return call.pick(x, lambda t: t.gather(axis, index))


def gather_nd(call: Call) -> Outputs:
    """Slices by tuples of positions."""
    x, index = call.value(0), call.constant(1)
    if call.integer("batch_dims", 0):
        raise call.refuse("its batch_dims is not zero")
    key = _tuples(call, index, x)
    return call.pick(x, lambda t: t[key])


def _tuples(call: Call, index: Tensor, x: Value) -> tuple[Tensor, ...]:
    call.require(0 < index.ndim and index.shape[-1] <= len(x.shape), "positions are to be tuples no longer than the first has axes")
    return tuple(_positions(call, index[..., k], x.shape[k]) for k in range(index.shape[-1]))


def _overwritten(call: Call, place: Callable[[Tensor, Tensor], Tensor]) -> Value:
    """The first input with entries of the third put over it at constant places."""
    x, updates = call.value(0), call.value(2)
    if call.text("reduction", "none") != "none":
        raise call.refuse(f"its reduction {call.text('reduction', 'none')!r} is not understood")
    entries = math.prod(x.shape)
    old = torch.arange(entries).reshape(tuple(x.shape))
    new = entries + torch.arange(math.prod(updates.shape)).reshape(tuple(updates.shape))
    index = place(old, new)
    flat = call.builder.concat([call.reshape(x, (entries,)), call.reshape(updates, (math.prod(updates.shape),))], 0)
    return call.pick(flat, lambda t: t[index])


def scatter_nd(call: Call) -> Outputs:
    """Slices put over a tensor."""
    key = _tuples(call, call.constant(1), call.value(0))
    return _overwritten(call, lambda old, new: old.index_put(key, new))


def scatter_elements(call: Call) -> Outputs:
    """Entries put over a tensor."""
    x = call.value(0)
    axis = call.axis(len(x.shape), 0)
    index = _positions(call, call.constant(1), x.shape[axis])
    call.require(index.shape == tuple(call.value(2).shape), "updates are to be as many as positions")
    return _overwritten(call, lambda old, new: old.scatter(axis, index, new))


def triangle(call: Call) -> Outputs:
    """The upper or lower triangle of matrices, zero elsewhere."""
    x, diagonal = call.value(0), call.optional_constant(1)
    k = 0 if diagonal is None else int(diagonal.item())
    cut = torch.triu if call.flag("upper", True) else torch.tril
    call.require(len(x.shape) >= 2, "matrices are expected")
    if isinstance(x, Tensor):
        return cut(x, k)
    return call.builder.select(x, lambda t: cut(t + 1, k) - 1)


def pad(call: Call) -> Outputs:
    """Constant, reflected, edge or wrapped padding; negative amounts crop."""
    x, mode = call.value(0), call.text("mode", "constant")
    rank = len(x.shape)
    if call.version < 11:
        pads, fill = call.ints("pads") or (), call.real("value", 0.0)
        axes = list(range(rank))
    else:
        pads, value = call.constant_ints(1) or (), call.optional_constant(2)
        fill = 0.0 if value is None else value.item()
        given = call.constant_ints(3) if call.version >= 18 else None
        axes = list(range(rank)) if given is None else call.axes(given, rank)
    call.require(len(pads) == 2 * len(axes), f"its pads are to be {2 * len(axes)} numbers")
    indices: list[tuple[int, Tensor]] = []
    for a, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        indices.append((a, _padded(call, mode, x.shape[a], low, high)))
    shape = list(x.shape)
    for a, index in indices:
        shape[a] = len(index)
    call.room(shape)
    if isinstance(x, Tensor):
        return _chosen(x, indices, fill)
    if not math.isfinite(fill):
        raise call.refuse(f"it pads with {fill}")
    return call.builder.select(x, lambda t: _chosen(t, indices, -1), fill)


def _padded(call: Call, mode: str, n: int, low: int, high: int) -> Tensor:
    """Positions along a padded axis; -1 is the constant."""
    call.room((max(n + low, 0) + abs(high),))
    call.require(n + low + high >= 0, f"it crops more than the length {n}")
    at = torch.arange(-low, n + high)
    if mode == "constant" or (low <= 0 and high <= 0):
        return torch.where((at >= 0) & (at < n), at, -1)
    if min(low, high) < 0:
        raise call.refuse(f"it crops and pads one axis in the mode {mode!r}")
    call.require(n > 0, "an empty axis has nothing to pad with")
    if mode == "edge":
        return at.clamp(0, n - 1)
    if mode == "wrap":
        return at % n
    if mode == "reflect":
        if max(low, high) >= n:
            raise call.refuse(f"it reflects {max(low, high)} entries of an axis of length {n}")
        period = max(2 * (n - 1), 1)
        return (n - 1) - ((at % period) - (n - 1)).abs()
    raise call.refuse(f"its mode {mode!r} is not understood")


def _chosen(t: Tensor, indices: Sequence[tuple[int, Tensor]], fill: float) -> Tensor:
    for axis, index in indices:
        picked = (
            t.index_select(axis, index.clamp(min=0))
            if t.shape[axis]
            else t.new_zeros([len(index) if a == axis else n for a, n in enumerate(t.shape)])
        )
        missing = (index < 0).reshape([-1 if a == axis else 1 for a in range(t.ndim)])
        t = torch.where(missing, torch.tensor(fill, dtype=t.dtype), picked)
    return t


def depth_to_space(call: Call) -> Outputs:
    """Blocks of channels become blocks of positions."""
    x, block, mode = call.value(0), call.integer("blocksize", 0), call.text("mode", "DCR")
    call.require(
        len(x.shape) == 4 and block > 0 and x.shape[1] % block**2 == 0,
        f"four axes and channels in blocks of {block} x {block} are expected",
    )
    batch, channels, height, width = x.shape
    depth = channels // block**2
    if mode == "DCR":
        y = call.permute(call.reshape(x, (batch, block, block, depth, height, width)), (0, 3, 4, 1, 5, 2))
    elif mode == "CRD":
        y = call.permute(call.reshape(x, (batch, depth, block, block, height, width)), (0, 1, 4, 2, 5, 3))
    else:
        raise call.refuse(f"its mode {mode!r} is not understood")
    return call.reshape(y, (batch, depth, height * block, width * block))


def space_to_depth(call: Call) -> Outputs:
    """Blocks of positions become blocks of channels."""
    x, block = call.value(0), call.integer("blocksize", 0)
    fits = len(x.shape) == 4 and block > 0 and x.shape[2] % block == 0 and x.shape[3] % block == 0
    call.require(fits, f"four axes and positions in blocks of {block} x {block} are expected")
    batch, channels, height, width = x.shape
    y = call.reshape(x, (batch, channels, height // block, block, width // block, block))
    return call.reshape(call.permute(y, (0, 3, 5, 1, 2, 4)), (batch, channels * block**2, height // block, width // block))


RULES: dict[str, Callable[[Call], Outputs]] = {
    "Shape": shape,
    "Size": size,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Expand": expand,
    "Tile": tile,
    "Concat": concat,
    "Slice": slices,
    "Split": split,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterND": scatter_nd,
    "ScatterElements": scatter_elements,
    "Trilu": triangle,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
