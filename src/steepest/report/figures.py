"""Figures of studies as SVG: lines with bands over common axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH = 66.0, 548.0, 14.0, 236.0, 560.0
COLOURS = 8


def figure_chart(figure: Mapping[str, Any]) -> str:
    """The SVG of a figure from its JSON; values that are not finite, or not positive on a logarithmic axis, break a line."""
    lines = [_Line(s, figure["log_x"], figure["log_y"]) for s in figure["series"]]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in [*line.points, *line.lower, *line.upper]]
    if not xs:
        return ""
    across, up = _Axis(min(xs), max(xs), figure["log_x"], 0.02), _Axis(min(ys), max(ys), figure["log_y"], 0.06)

    def at(point: tuple[float, float]) -> str:
        return f"{_LEFT + across.share(point[0]) * (_RIGHT - _LEFT):.1f},{_BOTTOM - up.share(point[1]) * (_BOTTOM - _TOP):.1f}"

    parts = []
    for t in up.ticks():
        y = _BOTTOM - up.share(t) * (_BOTTOM - _TOP)
        parts.append(f'<line x1="{_LEFT:g}" x2="{_RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 8:g}" y="{y + 4:.1f}" class="tick" text-anchor="end">{up.text(t)}</text>')
    for t in across.ticks():
        x = _LEFT + across.share(t) * (_RIGHT - _LEFT)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_BOTTOM:g}" y2="{_BOTTOM + 4:g}" class="axis"/>')
        parts.append(f'<text x="{x:.1f}" y="{_BOTTOM + 19:g}" class="tick" text-anchor="middle">{across.text(t)}</text>')
    middle = (_LEFT + _RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{_BOTTOM + 42:g}" class="tick" text-anchor="middle">{escape(figure["x_label"])}</text>')
    for k, line in enumerate(lines):
        if len(line.upper) > 1:
            parts.append(f'<polygon points="{" ".join(map(at, [*line.upper, *reversed(line.lower)]))}" class="band s{k % COLOURS}"/>')
    for k, line in enumerate(lines):
        kind = f"s{k % COLOURS}"
        points = " ".join(map(at, line.points))
        parts.append(f'<polyline points="{points}" class="series {kind}"><title>{escape(line.name)}</title></polyline>')
        if len(line.points) <= 16:
            parts += [f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="2.8" class="dot {kind}"/>' for p in map(at, line.points)]
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_BOTTOM + 52:g}" role="img" preserveAspectRatio="xMinYMin meet">'
        f"<title>{escape(figure['title'])}; {escape(figure['y_label'])} against {escape(figure['x_label'])}</title>{''.join(parts)}</svg>"
    )


class _Line:
    """Points and band of one series on the axes' own scales."""

    def __init__(self, series: Mapping[str, Any], log_x: bool, log_y: bool) -> None:
        self.name = str(series["name"])
        self.points = _kept(series["x"], series["y"], log_x, log_y)
        low, high = series.get("low"), series.get("high")
        self.lower = self.upper = []
        if low is not None and high is not None:
            rows = [
                (x, lo, hi)
                for x, lo, hi in zip(map(float, series["x"]), map(float, low), map(float, high), strict=True)
                if math.isfinite(lo) and math.isfinite(hi) and (lo > 0 or not log_y) and (x > 0 or not log_x)
            ]
            self.lower = _kept([r[0] for r in rows], [r[1] for r in rows], log_x, log_y)
            self.upper = _kept([r[0] for r in rows], [r[2] for r in rows], log_x, log_y)


def _kept(x: Sequence[Any], y: Sequence[Any], log_x: bool, log_y: bool) -> list[tuple[float, float]]:
    pairs = zip(map(float, x), map(float, y), strict=True)
    good = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)]
    return [(math.log10(a) if log_x else a, math.log10(b) if log_y else b) for a, b in good]


class _Axis:
    """From values, on a logarithmic axis their logarithms, to shares of its length."""

    def __init__(self, low: float, high: float, logarithmic: bool, margin: float) -> None:
        space = margin * (high - low) or 0.1 * abs(high) or 0.5
        self.low, self.high, self.logarithmic = low - space, high + space, logarithmic

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        span = self.high - self.low
        if self.logarithmic and span > 2.2:
            step = max(1, round(span / 5))
            return [float(k) for k in range(math.ceil(self.low), math.floor(self.high) + 1, step)]
        if self.logarithmic:
            marks = (1, 2, 5) if span > 0.5 else (1, 1.5, 2, 3, 4, 5, 7)
            every = [k + math.log10(m) for k in range(math.floor(self.low), math.ceil(self.high) + 1) for m in marks]
            return [t for t in every if self.low <= t <= self.high]
        power = 10.0 ** math.floor(math.log10(span / 5))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= span / 5)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def text(self, tick: float) -> str:
        value = 10**tick if self.logarithmic else tick
        return f"{value:.6g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
