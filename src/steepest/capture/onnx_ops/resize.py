"""Resize and Upsample: nearest, linear and cubic interpolation, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from steepest.capture.builder import Ref
from steepest.capture.onnx_ops.call import Call, Outputs

_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda t: np.ceil(t - np.float32(0.5)),
    "round_prefer_ceil": lambda t: np.floor(t + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _places(call: Call, mode: str, n: int, out: int, scale: np.float32) -> np.ndarray:
    """Where each output entry lies on the input's axis, in float32 as runtimes compute it: ties decide what is nearest."""
    at, half = np.arange(out, dtype=np.float32), np.float32(0.5)
    if mode == "asymmetric":
        return at / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and out > 1):
        return (at + half) / scale - half
    if mode == "pytorch_half_pixel":
        return np.zeros_like(at)
    if mode == "tf_half_pixel_for_nn":
        return (at + half) / scale
    if mode == "align_corners":
        return at * np.float32(n - 1) / np.float32(out - 1) if out > 1 else np.zeros_like(at)
    if mode == "half_pixel_symmetric":
        # A length cut to a whole number is centred again.
        adjustment = np.float32(out) / (scale * np.float32(n))
        return np.float32(n) / 2 * (1 - adjustment) + (at + half) / scale - half
    raise call.refuse(f"its coordinate_transformation_mode {mode!r} is not understood")


def _taps(kind: str, fraction: float, a: float) -> tuple[int, list[float]]:
    """Offset of the first neighbour and the weights of all, for a place ``fraction`` past an entry."""
    if kind == "linear":
        return 0, [1.0 - fraction, fraction]
    # Cubic convolution (Keys 1981).
    weights = []
    for distance in (1.0 + fraction, fraction, 1.0 - fraction, 2.0 - fraction):
        if distance <= 1.0:
            weights.append(((a + 2.0) * distance - (a + 3.0)) * distance**2 + 1.0)
        else:
            weights.append(((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a)
    return -1, weights


def _matrix(kind: str, places: np.ndarray, n: int, a: float, exclude: bool) -> Tensor:
    """The interpolation of one axis; neighbours past an end are the entry at the end, or left out."""
    matrix = torch.zeros(len(places), n, dtype=torch.float64)
    for row, place in enumerate(places.astype(np.float64)):
        place = min(max(place, 0.0), n - 1.0) if kind == "linear" else place
        base = math.floor(place)
        first, weights = _taps(kind, place - base, a)
        columns = [base + first + k for k in range(len(weights))]
        if exclude:
            weights = [w if 0 <= c < n else 0.0 for c, w in zip(columns, weights, strict=True)]
            whole = sum(weights)
            weights = [w / whole for w in weights]
        for column, weight in zip(columns, weights, strict=True):
            matrix[row, min(max(column, 0), n - 1)] += weight
    return matrix


def _target(call: Call, x: Ref) -> tuple[list[np.float32], list[int]]:
    """Scale and length of every axis."""
    rank, axes = len(x.shape), list(range(len(x.shape)))
    if call.builder.operator == "Upsample" and call.version < 9:
        given = call.attribute("scales", tuple, None)
        scales, sizes = (None if given is None else torch.tensor(given, dtype=torch.float64)), None
    elif call.builder.operator == "Upsample" or call.version < 11:
        scales, sizes = call.optional_constant(1), None
    else:
        # The region of interest counts in the mode tf_crop_and_resize alone, which is refused.
        call.masked(1)
        scales, sizes = call.optional_constant(2), call.constant_ints(3)
        picked = call.ints("axes") if call.version >= 18 else None
        axes = axes if picked is None else call.axes(picked, rank)
    if scales is not None and scales.numel():
        call.require(scales.numel() == len(axes) and bool((scales > 0).all()), f"{len(axes)} positive scales are expected")
        factors = [np.float32(1.0)] * rank
        for axis, s in zip(axes, scales.flatten().tolist(), strict=True):
            factors[axis] = np.float32(s)
        return factors, [math.floor(np.float32(n) * s) for n, s in zip(x.shape, factors, strict=True)]
    call.require(sizes is not None and len(sizes) == len(axes), "scales or sizes are expected")
    assert sizes is not None
    lengths = list(x.shape)
    for axis, n in zip(axes, sizes, strict=True):
        lengths[axis] = n
    return [np.float32(m) / np.float32(n) for m, n in zip(lengths, x.shape, strict=True)], lengths


def resize(call: Call) -> Outputs:
    """Interpolation by constant scales or to constant sizes."""
    x, upsample = call.live(0), call.builder.operator == "Upsample"
    kind = call.text("mode", "nearest")
    old = upsample or call.version < 11
    place = "asymmetric" if old else call.text("coordinate_transformation_mode", "half_pixel")
    nearest = "floor" if old else call.text("nearest_mode", "round_prefer_floor")
    a, exclude = call.real("cubic_coeff_a", -0.75), call.flag("exclude_outside", False)
    call.attribute("extrapolation_value", float, 0.0)
    if call.flag("antialias", False):
        raise call.refuse("its antialias is not understood")
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("its keep_aspect_ratio_policy is not understood")
    if kind not in ("nearest", "linear", "cubic") or nearest not in _NEAREST:
        raise call.refuse(f"its mode {kind!r} ({nearest!r}) is not understood")
    scales, lengths = _target(call, x)
    call.require(min(x.shape, default=1) > 0 and min(lengths, default=1) > 0, "empty axes cannot be resized")
    call.room(lengths)
    for axis, (n, out, scale) in enumerate(zip(x.shape, lengths, scales, strict=True)):
        if n == out and scale == 1.0:
            continue
        places = _places(call, place, n, out, scale)
        if kind == "nearest":
            index = torch.from_numpy(np.clip(_NEAREST[nearest](places), 0, n - 1).astype(np.int64))
            x = call.builder.select(x, _selected(axis, index))
        else:
            call.room((out, n))
            x = call.builder.along(x, axis, _matrix(kind, places, n, a, exclude and kind == "cubic"))
    return x


def _selected(axis: int, index: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda t: t.index_select(axis, index)


RULES: dict[str, Callable[[Call], Outputs]] = {"Resize": resize, "Upsample": resize}
