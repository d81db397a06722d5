"""SVG charts as strings; colours come from CSS variables, so that both colour schemes work."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from steepest.report.numbers import lower_text, upper_text

# Points of a line: the page stays small however long the run was.
MOST_POINTS = 120


def _svg(width: float, height: float, title: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" preserveAspectRatio="xMinYMin meet" '
        f'style="max-width:{width:g}px"><title>{escape(title)}</title>{body}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or 1-2-5 steps where the range is narrow; in logarithms."""
    first, last = math.floor(low), math.ceil(high)
    if high - low > 1.5:
        step = max(1, round((last - first) / 6))
        return [float(k) for k in range(first, last + 1, step) if low <= k <= high]
    every = [k + math.log10(m) for k in range(first, last + 1) for m in (1, 1.5, 2, 3, 4, 5, 7)]
    return [t for t in every if low <= t <= high]


def _tick_text(t: float) -> str:
    value = 10**t
    return f"{value:g}" if 9.9e-4 < value < 9.9e4 else f"1e{round(t)}"


def brackets_chart(rows: Sequence[tuple[str, float, float, bool]], title: str) -> str:
    """One line per row ``(label, lower, upper, strong)`` on a logarithmic axis; an infinite upper end is an open arrow."""
    ends = [v for _, lo, hi, _ in rows for v in (lo, hi) if 0 < v < math.inf]
    if not ends:
        return ""
    low, high = math.log10(min(ends)) - 0.12, math.log10(max(ends)) + 0.12
    if high - low < 0.5:
        low, high = low - 0.2, high + 0.2
    left, right, line = 170.0, 700.0, 30.0
    height = line * len(rows) + 34

    def at(value: float) -> float:
        return left + (math.log10(value) - low) / (high - low) * (right - left)

    parts = []
    for t in _ticks(low, high):
        x = at(10**t)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 24:.1f}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 8:.1f}" class="tick" text-anchor="middle">{_tick_text(t)}</text>')
    for k, (label, lo, hi, strong) in enumerate(rows):
        y = line * k + 20
        kind = "strong" if strong else "soft"
        parts.append(f'<text x="{left - 12:g}" y="{y + 4:g}" class="label" text-anchor="end">{escape(label)}</text>')
        start = at(lo) if lo > 0 else left
        stop = at(hi) if hi < math.inf else right
        if lo != hi:
            parts.append(f'<line x1="{start:.1f}" x2="{stop:.1f}" y1="{y}" y2="{y}" class="span {kind}"/>')
        if lo > 0:
            parts.append(f'<circle cx="{start:.1f}" cy="{y}" r="5" class="lower {kind}"><title>lower {lower_text(lo)}</title></circle>')
        if hi < math.inf:
            box = f'x="{stop - 5:.1f}" y="{y - 5}" width="10" height="10"'
            parts.append(f'<rect {box} class="upper {kind}"><title>upper {upper_text(hi)}</title></rect>')
        else:
            arrow = f"M {right - 9:g} {y - 6} L {right:g} {y} L {right - 9:g} {y + 6}"
            parts.append(f'<path d="{arrow}" class="open"><title>no finite upper bound</title></path>')
    return _svg(720, height, title, "".join(parts))


def bars_chart(rows: Sequence[tuple[str, float | None, str]], title: str) -> str:
    """Horizontal bars ``(label, share or None, text)``; shares may be negative."""
    shares = [s for _, s, _ in rows if s is not None]
    reach = max((abs(s) for s in shares), default=1.0) or 1.0
    least = min([0.0, *shares]) / reach
    left, width, line = 190.0, 400.0, 26.0
    zero = left + (-least / (1 - least)) * width
    scale = width / (1 - least)
    parts = [f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="2" y2="{line * len(rows) + 4:g}" class="axis"/>']
    for k, (label, share, text) in enumerate(rows):
        y = line * k + 6
        parts.append(f'<text x="{left - 12:g}" y="{y + 13:g}" class="label" text-anchor="end">{escape(label[-26:])}</text>')
        size = 0.0
        if share is not None:
            size = share / reach * scale
            parts.append(
                f'<rect x="{min(zero, zero + size):.1f}" y="{y:g}" width="{max(abs(size), 1):.1f}" height="16" rx="2" class="bar"/>'
            )
        parts.append(f'<text x="{max(zero, zero + size) + 8:.1f}" y="{y + 13:g}" class="tick">{escape(text)}</text>')
    return _svg(720, line * len(rows) + 10, title, "".join(parts))


def falls_chart(falls: Sequence[tuple[str, Sequence[tuple[float, float]]]], lower: float, title: str) -> str:
    """For each ``(label, ((seconds, value), ...))`` the best value so far against time, on a logarithmic axis; the lower bound below."""
    values = [v for _, fall in falls for _, v in fall if 0 < v < math.inf]
    if not values or not any(len(fall) > 1 for _, fall in falls):
        return ""
    low = math.log10(min([*values, lower] if lower > 0 else values))
    high = math.log10(max(values))
    # Room for the words above and below the lines.
    low, high = low - 0.1 * (high - low) - 0.02, high + 0.1 * (high - low) + 0.02
    last = max(s for _, fall in falls for s, _ in fall) or 1.0
    left, right, upper, bottom = 70.0, 700.0, 12.0, 220.0

    def at(seconds: float, value: float) -> tuple[float, float]:
        return left + seconds / last * (right - left), bottom - (math.log10(value) - low) / (high - low) * (bottom - upper)

    parts = []
    for t in _ticks(low, high):
        _, y = at(0.0, 10**t)
        parts.append(f'<line x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 8:g}" y="{y + 4:.1f}" class="tick" text-anchor="end">{_tick_text(t)}</text>')
    for k in range(5):
        x = left + k / 4 * (right - left)
        anchor = "end" if k == 4 else "middle"
        parts.append(f'<text x="{x:g}" y="{bottom + 18:g}" class="tick" text-anchor="{anchor}">{last * k / 4:.3g} s</text>')
    if lower > 0:
        _, y = at(0.0, lower)
        parts.append(
            f'<line x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}" class="axis"><title>lower {lower_text(lower)}</title></line>'
        )
        parts.append(f'<text x="{right - 8:g}" y="{y + 15:.1f}" class="key" text-anchor="end">lower bound {lower_text(lower)}</text>')
    labels: list[tuple[float, str, str]] = []
    for k, (label, fall) in enumerate(falls):
        kind = ("proven", "estimate", "global")[k % 3]
        points = []
        for i, (seconds, value) in enumerate(fall):
            if i:
                points.append(at(seconds, fall[i - 1][1]))
            points.append(at(seconds, value))
        points.append(at(last, fall[-1][1]))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" class="curve {kind}"/>')
        labels.append((points[-1][1] - 7, label, kind))
    # From the lowest up, each clear of the one below it.
    below = math.inf
    for y, label, kind in sorted(labels, reverse=True):
        below = min(y, below - 14)
        parts.append(f'<text x="{right - 8:g}" y="{below:.1f}" class="key {kind}" text-anchor="end">{escape(label)}</text>')
    return _svg(720, 250, title, "".join(parts))


def curves_chart(curves: Sequence[tuple[str, Sequence[float], str]], total: int, title: str, mark: float = 0.0) -> str:
    """For each ``(label, radii, class)`` the share of inputs whose radius is at least r, against r; a line at the mark."""
    top = max((r for _, radii, _ in curves for r in radii if math.isfinite(r)), default=0.0) or 1.0
    left, right, upper, lower = 66.0, 700.0, 12.0, 220.0

    def at(r: float, share: float) -> str:
        return f"{left + min(r / top, 1.0) * (right - left):.1f} {lower - share * (lower - upper):.1f}"

    parts = []
    for k in range(5):
        y = lower - k / 4 * (lower - upper)
        parts.append(f'<line x1="{left:g}" x2="{right:g}" y1="{y:g}" y2="{y:g}" class="grid"/>')
        parts.append(f'<text x="{left - 8:g}" y="{y + 4:g}" class="tick" text-anchor="end">{25 * k} %</text>')
        x = left + k / 4 * (right - left)
        anchor = "end" if k == 4 else "middle"
        parts.append(f'<text x="{x:g}" y="{lower + 18:g}" class="tick" text-anchor="{anchor}">{top * k / 4:.3g}</text>')
    if 0.0 < mark <= top:
        x = left + mark / top * (right - left)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{upper:g}" y2="{lower:g}" class="axis"><title>radius {mark:g}</title></line>')
        parts.append(f'<text x="{x + 5:.1f}" y="{lower - 6:g}" class="tick">{mark:g}</text>')
    for k, (label, radii, kind) in enumerate(curves):
        ordered = sorted(radii)
        points, share = [at(0.0, len(ordered) / total)], len(ordered)
        for r in ordered:
            points.append(at(r, share / total))
            share -= 1
            points.append(at(r, share / total))
        parts.append(f'<polyline points="{" ".join(p.replace(" ", ",") for p in points)}" class="curve {kind}"/>')
        parts.append(f'<text x="{right - 8:g}" y="{upper + 16 + 18 * k:g}" class="key {kind}" text-anchor="end">{escape(label)}</text>')
    return _svg(720, 250, title, "".join(parts))


def loss_chart(losses: Sequence[float], title: str, optimizers: Sequence[int | None] = ()) -> str:
    """The loss at each backward pass: the median of neighbours over a band of their smallest and largest value.

    The axis is logarithmic where all values are positive and span more than a factor of 20. Where values are no numbers, the chart says so.

    Args:
        losses: in order.
        title: what it shows, in words.
        optimizers: which optimizer each loss belongs to; several have a line each.
    """
    finite = [v for v in losses if math.isfinite(v)]
    if len(losses) < 2 or not finite:
        return ""
    low, high = min(finite), max(finite)
    logarithmic = low > 0 and high > 20 * low
    scale = math.log10 if logarithmic else float
    low, high = scale(low), scale(high)
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    low, high = low - margin, high + margin
    left, right, upper, bottom = 62.0, 548.0, 14.0, 196.0

    def across(k: float) -> float:
        return left + k / (len(losses) - 1) * (right - left)

    def down(scaled: float) -> float:
        return bottom - (scaled - low) / (high - low) * (bottom - upper)

    parts = []
    for t in _ticks(low, high) if logarithmic else _even_ticks(low, high):
        y, text = down(t), _tick_text(t) if logarithmic else f"{t:.4g}"
        parts.append(f'<line x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 8:g}" y="{y + 4:.1f}" class="tick" text-anchor="end">{text}</text>')
    for t in _even_ticks(0.0, len(losses) - 1.0):
        x = across(t)
        anchor = "end" if right - x < 20 else "start" if x == left else "middle"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 19:g}" class="tick" text-anchor="{anchor}">{t:,.0f}</text>')
    parts.append(f'<text x="{right:g}" y="{bottom + 40:g}" class="tick" text-anchor="end">backward passes</text>')
    lines: dict[int | None, list[tuple[int, float]]] = {}
    for k, value in enumerate(losses):
        lines.setdefault(optimizers[k] if k < len(optimizers) else None, []).append((k, value))
    if len(lines) > 3:
        lines = {None: list(enumerate(losses))}
    for (optimizer, line), kind in zip(lines.items(), ("proven", "estimate", "global"), strict=False):
        bins = _bins(line)
        if len(line) > MOST_POINTS:
            band = [(k, values[-1]) for k, values in bins] + [(k, values[0]) for k, values in reversed(bins)]
            points = " ".join(f"{across(k):.1f},{down(scale(v)):.1f}" for k, v in band)
            parts.append(f'<polygon points="{points}" class="band {kind}"/>')
        points = " ".join(f"{across(k):.1f},{down(scale(v[len(v) // 2])):.1f}" for k, v in bins)
        parts.append(f'<polyline points="{points}" class="curve {kind}"/>')
        if len(lines) > 1 and bins:
            k, values = bins[-1]
            label = "no step" if optimizer is None else f"optimizer {optimizer + 1}"
            y = down(scale(values[len(values) // 2])) - 7
            parts.append(f'<text x="{across(k) - 4:.1f}" y="{y:.1f}" class="key {kind}" text-anchor="end">{label}</text>')
    parts += _broken(losses, across, upper, bottom)
    return _svg(560, 244, title, "".join(parts))


def _bins(line: Sequence[tuple[int, float]]) -> list[tuple[float, list[float]]]:
    """At most MOST_POINTS stretches: the middle of each, and its finite values in order of size; empty ones are left out."""
    size = max(1, math.ceil(len(line) / MOST_POINTS))
    stretches = (line[k : k + size] for k in range(0, len(line), size))
    every = (((part[0][0] + part[-1][0]) / 2, sorted(v for _, v in part if math.isfinite(v))) for part in stretches)
    return [(k, values) for k, values in every if values]


def _broken(losses: Sequence[float], across: Callable[[float], float], upper: float, bottom: float) -> list[str]:
    """A mark from the first loss that is no number; to the end where the last is none either."""
    where = [k for k, v in enumerate(losses) if not math.isfinite(v)]
    if not where:
        return []
    lasting = where[-1] == len(losses) - 1
    x, end = across(where[0]), across(len(losses) - 1)
    width = max(2.0, end - x) if lasting else 2.0
    anchor, shift = ("end", -6) if 2 * where[0] > len(losses) else ("start", 6)
    words = f"not a number from {where[0]:,} on" if lasting else f"not a number at {where[0]:,}"
    return [
        f'<rect x="{min(x, end - 2):.1f}" y="{upper:g}" width="{width:.1f}" height="{bottom - upper:g}" class="broken"/>',
        f'<text x="{x + shift:.1f}" y="{upper + 16:g}" class="key proven" text-anchor="{anchor}">{words}</text>',
    ]


def _even_ticks(low: float, high: float) -> list[float]:
    """Four to nine multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def image(values: np.ndarray, title: str, diverging: bool = False) -> str:
    """One image ``[C, H, W]`` of one or three channels, as pixels; ``diverging`` shows signs in two colours."""
    channels, height, width = values.shape
    size = 112 / max(height, width)
    low, high = float(values.min()), float(values.max())
    reach = float(np.abs(values).max()) or 1.0
    parts = []
    for i in range(height):
        for j in range(width):
            v = values[:, i, j]
            if diverging:
                m = float(v.mean()) / reach
                fill = f"rgba(214,90,60,{m:.2f})" if m > 0 else f"rgba(50,120,200,{-m:.2f})"
            else:
                grey = [round(255 * (float(c) - low) / ((high - low) or 1.0)) for c in (v if channels == 3 else np.repeat(v, 3))]
                fill = f"rgb({grey[0]},{grey[1]},{grey[2]})"
            parts.append(
                f'<rect x="{j * size:.2f}" y="{i * size:.2f}" width="{size + 0.05:.2f}" height="{size + 0.05:.2f}" fill="{fill}"/>'
            )
    return _svg(112, 112 * height / max(height, width), title, "".join(parts))


def array(data: Any) -> np.ndarray:
    """An array of a result's JSON."""
    return np.frombuffer(base64.b64decode(data["base64"]), dtype=np.dtype(data["dtype"]).newbyteorder("<")).reshape(data["shape"])


def exponents_chart(rows: Sequence[tuple[str, float, float, float]], title: str) -> str:
    """Dots with intervals ``(label, value, low, high)`` around zero; what leaves [-2, 2] is cut there. Nothing for no rows."""
    if not rows:
        return ""
    reach = min(2.0, max(0.5, *(abs(v) for _, *values in rows for v in values if math.isfinite(v))))

    def at(value: float) -> float:
        return 370.0 + 190.0 * min(1.0, max(-1.0, value / reach))

    bottom = 24 * len(rows) + 6
    parts = [f'<line x1="370" x2="370" y1="2" y2="{bottom}" class="zero"/>']
    for k, (label, value, low, high) in enumerate(rows):
        y = 24 * k + 15
        parts.append(f'<text x="168" y="{y + 5}" class="label" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{y}" y2="{y}" class="whisker"/>')
        parts.append(f'<circle cx="{at(value):.1f}" cy="{y}" r="4.5" class="dot"/>')
    for value in (-reach, 0.0, reach):
        parts.append(f'<text x="{at(value):.1f}" y="{bottom + 16}" class="tick" text-anchor="middle">{value:.2g}</text>')
    return _svg(580, bottom + 22, title, "".join(parts))
