"""Charts of several methods: lines with bands, dots with intervals, paths over a landscape.

Every method has its colour, the CSS variables ``--m0`` to ``--m7``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from steepest.report.measured import interval_text
from steepest.results.study import Interval

_COLOURS = 8


@dataclass(frozen=True)
class Line:
    """One method's line.

    Args:
        key: number of the method, which decides its colour, and its name.
        x, y: points; an infinite y breaks the line.
        low, high: a band around it.
    """

    key: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Axis:
    """A range of values, their places, and the words beside it."""

    low: float
    high: float
    start: float
    stop: float
    label: str
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The coordinate of a value, kept inside the frame."""
        share = (self._scale(value) - self._scale(self.low)) / ((self._scale(self.high) - self._scale(self.low)) or 1.0)
        return self.start + min(1.0, max(0.0, share)) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the range."""
        if not self.logarithmic:
            rough = (self.high - self.low) / 5
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
            return [k * step for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]
        low, high = math.log10(self.low), math.log10(self.high)
        if high - low > 2.5:
            every = max(1, round((high - low) / 6))
            return [10.0**k for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1, every)]
        steps = [
            m * 10.0**k
            for k in range(math.floor(low), math.ceil(high) + 1)
            for m in ((1, 2, 5) if high - low > 0.8 else (1, 1.5, 2, 3, 5, 7))
        ]
        found = [t for t in steps if self.low <= t <= self.high]
        return found if len(found) > 1 else [self.low, self.high]

    def _scale(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.logarithmic else value


def lines_chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    level: tuple[float, str] | None = None,
    stairs: bool = False,
    dots: bool = False,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines over common axes.

    Args:
        lines: without their infinite values they need at least two different x.
        level: a horizontal line with its words.
        stairs: the value holds until the next point.
        dots: marks the points.
        y_range: instead of the range of the values.
    """
    finite = [(x, y) for line in lines for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y) and (y > 0 or not log_y)]
    xs = [x for line in lines for x in line.x if x > 0 or not log_x]
    if not finite or not xs or min(xs) == max(xs):
        return ""
    ys = [y for _, y in finite] + ([level[0]] if level and (level[0] > 0 or not log_y) else [])
    low, high = y_range or _widened(min(ys), max(ys), log_y)
    x_axis = Axis(min(xs), max(xs), 64, 546, x_label, log_x)
    y_axis = Axis(low, high, 236, 26, y_label, log_y)
    parts = [_frame(x_axis, y_axis)]
    if level:
        y = y_axis.at(level[0])
        parts.append(f'<line x1="64" x2="546" y1="{y:.1f}" y2="{y:.1f}" class="level"/>')
        parts.append(f'<text x="70" y="{y - 5:.1f}" class="tick">{escape(level[1])}</text>')
    for line in lines:
        parts.append(f'<g data-method="{escape(line.name)}" class="m{line.key % _COLOURS}"><title>{escape(line.name)}</title>')
        if line.low is not None and line.high is not None:
            shown = [(x, lo, min(hi, high)) for x, lo, hi in zip(line.x, line.low, line.high, strict=True) if math.isfinite(lo)]
            there = [f"{x_axis.at(x):.1f},{y_axis.at(hi):.1f}" for x, _, hi in shown]
            back = [f"{x_axis.at(x):.1f},{y_axis.at(lo):.1f}" for x, lo, _ in reversed(shown)]
            parts.append(f'<polygon points="{" ".join(there + back)}" class="spread"/>')
        for segment in _segments(line):
            points = [(x_axis.at(x), y_axis.at(y)) for x, y in segment]
            if stairs:
                points = [p for k, (x, y) in enumerate(points) for p in ([(x, points[k - 1][1])] if k else []) + [(x, y)]]
            dash = ' stroke-dasharray="7 4"' if line.key >= _COLOURS else ""
            parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="line"{dash}/>')
            if dots:
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" class="dot"/>' for x, y in points]
        parts.append("</g>")
    return _svg(560, 286, title, "".join(parts))


def dots_chart(rows: Sequence[tuple[int, str, Sequence[float], Interval]], title: str, x_label: str, text: Callable[[float], str]) -> str:
    """One row per method: the values of all seeds, their median and its interval; infinite ones stand at the right as missed."""
    finite = [v for _, _, values, _ in rows for v in values if math.isfinite(v)]
    if not finite:
        return ""
    missed = any(math.isinf(v) for _, _, values, _ in rows for v in values)
    positive = [v for v in finite if v > 0]
    log = len(positive) == len(finite) and max(finite) > 8 * min(finite)
    low, high = _widened(min(finite), max(finite), log)
    x_axis = Axis(low, high, 150, 575 if missed else 690, x_label, log)
    bottom = 30 * len(rows) + 14
    parts = []
    for t in x_axis.ticks():
        x = x_axis.at(t)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{bottom:g}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18:g}" class="tick" text-anchor="middle">{_tick(t)}</text>')
    if missed:
        parts.append(f'<line x1="610" x2="610" y1="6" y2="{bottom:g}" class="level"/>')
        parts.append(f'<text x="660" y="{bottom + 18:g}" class="tick" text-anchor="middle">missed</text>')

    def at(value: float) -> float:
        return x_axis.at(value) if math.isfinite(value) else 660.0

    for k, (key, name, values, median) in enumerate(rows):
        y = 30 * k + 24
        words = f"{name}: {interval_text(median, text)}"
        parts.append(f'<g data-method="{escape(name)}" class="m{key % _COLOURS}"><title>{escape(words)}</title>')
        parts.append(f'<text x="138" y="{y + 4}" class="label" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line x1="{at(median.low):.1f}" x2="{at(median.high):.1f}" y1="{y}" y2="{y}" class="reach"/>')
        for i, v in enumerate(values):
            shift = 9 + 3 * (i % 2)
            parts.append(f'<circle cx="{at(v) + (2.5 * (i % 5) - 5 if math.isinf(v) else 0):.1f}" cy="{y - shift}" r="2.2" class="seed"/>')
        parts.append(f'<circle cx="{at(median.value):.1f}" cy="{y}" r="6" class="dot"/></g>')
    return _svg(700, bottom + 26, title, "".join(parts))


def paths_chart(
    x: tuple[float, float],
    y: tuple[float, float],
    heights: np.ndarray,
    minima: Sequence[tuple[float, float]],
    paths: Sequence[tuple[int, str, Sequence[tuple[float, float]]]],
    title: str,
    clip: str,
) -> str:
    """Paths ``(key, name, points)`` over contours of ``heights[i, j]`` at ``(x_j, y_i)``; ``clip`` is an id that the page has once."""
    x_axis, y_axis = Axis(*x, 44, 700, "x"), Axis(*y, 470, 12, "y")
    parts = [_frame(x_axis, y_axis, grid=False), f'<clipPath id="{clip}"><rect x="44" y="12" width="656" height="458"/></clipPath>']
    least, most = float(heights.min()), float(heights.max())
    for k in range(1, 15):
        # Levels crowd at the bottom, where the paths end.
        segments = contour(heights, least + (most - least) * (k / 15) ** 4)
        ends = [(_grid(x_axis, (j0, j1), heights.shape[1]), _grid(y_axis, (i0, i1), heights.shape[0])) for (i0, j0), (i1, j1) in segments]
        d = "".join(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" for (x0, x1), (y0, y1) in ends)
        parts.append(f'<path d="{d}" class="contour"/>')
    for a, b in minima:
        parts.append(f'<path d="M{x_axis.at(a) - 6:.1f} {y_axis.at(b):.1f}h12m-6 -6v12" class="minimum"><title>minimum</title></path>')
    parts.append(f'<g clip-path="url(#{clip})">')
    for key, name, points in paths:
        places = [(_free(x_axis, a), _free(y_axis, b)) for a, b in points]
        text = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<g data-method="{escape(name)}" class="m{key % _COLOURS}"><title>{escape(name)}</title>')
        dash = ' stroke-dasharray="7 4"' if key >= _COLOURS else ""
        parts.append(f'<polyline points="{text}" data-points="{text}" class="line path"{dash}/>')
        parts.append(f'<circle cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="6" class="dot head"/></g>')
    parts.append("</g>")
    return _svg(712, 500, title, "".join(parts))


def contour(heights: np.ndarray, level: float) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Segments of a level set as pairs of fractional ``(i, j)``: marching squares, a cell with a saddle split by its mean."""
    above = heights > level
    segments = []
    mixed = np.argwhere(np.ptp(np.stack([above[:-1, :-1], above[:-1, 1:], above[1:, :-1], above[1:, 1:]]).astype(int), axis=0))
    for i, j in mixed.tolist():
        corners = ((i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j))
        crossings = []
        for (a, b), (c, d) in zip(corners, corners[1:] + corners[:1], strict=True):
            p, q = float(heights[a, b]), float(heights[c, d])
            if (p > level) != (q > level):
                t = (level - p) / (q - p)
                crossings.append((a + t * (c - a), b + t * (d - b)))
        if len(crossings) == 4 and (heights[i : i + 2, j : j + 2].mean() > level) != above[i, j]:
            # The two corners of the other diagonal belong together: cut off the first and the third.
            crossings = [crossings[3], *crossings[:3]]
        segments += [(crossings[k], crossings[k + 1]) for k in range(0, len(crossings), 2)]
    return segments


def _grid(axis: Axis, indices: tuple[float, float], count: int) -> tuple[float, float]:
    first, second = (axis.start + index / (count - 1) * (axis.stop - axis.start) for index in indices)
    return first, second


def _free(axis: Axis, value: float) -> float:
    """Outside the frame too, within reason; the clip hides it."""
    share = (value - axis.low) / (axis.high - axis.low)
    return axis.start + min(5.0, max(-4.0, share)) * (axis.stop - axis.start)


def _segments(line: Line) -> list[list[tuple[float, float]]]:
    segments: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(y):
            segments[-1].append((x, y))
        elif segments[-1]:
            segments.append([])
    return [s for s in segments if s]


def _widened(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    if logarithmic:
        margin = max((high / low) ** 0.06, 1.05)
        return low / margin, high * margin
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low - margin if low < 0 or low > 2 * margin else 0.0), high + margin


def _frame(x_axis: Axis, y_axis: Axis, grid: bool = True) -> str:
    parts = []
    for t in y_axis.ticks():
        y = y_axis.at(t)
        if grid:
            parts.append(f'<line x1="{x_axis.start:g}" x2="{x_axis.stop:g}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{x_axis.start - 7:g}" y="{y + 4:.1f}" class="tick" text-anchor="end">{_tick(t)}</text>')
    for t in x_axis.ticks():
        x = x_axis.at(t)
        anchor = "end" if x_axis.stop - x < 12 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{y_axis.start + 19:g}" class="tick" text-anchor="{anchor}">{_tick(t)}</text>')
    if grid:
        parts.append(f'<text x="{x_axis.stop:g}" y="{y_axis.start + 40:g}" class="tick" text-anchor="end">{escape(x_axis.label)}</text>')
        parts.append(f'<text x="6" y="14" class="tick">{escape(y_axis.label)}</text>')
    return "".join(parts)


def _tick(value: float) -> str:
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _svg(width: float, height: float, title: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" preserveAspectRatio="xMinYMin meet" style="max-width:{width:g}px">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )
