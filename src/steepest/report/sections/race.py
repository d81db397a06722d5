"""A race on the page: tables, and charts in which every method keeps its colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from steepest.report.lines import Line, dots_chart, lines_chart, paths_chart
from steepest.report.measured import interval_text, plain_text, seconds_text, share_text, steps_text
from steepest.results.study import Interval


def article(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a race's JSON."""
    names = list(dict.fromkeys(e["method"] for c in result["contests"] for e in c["entries"]))
    keys = {name: k for k, name in enumerate(sorted(names))}
    contests = [_ranked(c, keys, result) if c["relief"] is None else _drawn(c, keys, k) for k, c in enumerate(result["contests"])]
    titles = ", ".join(c["name"] for c in result["contests"])
    profiles = [Line(keys[p["name"]], p["name"], *_profile(p, result["profiles"])) for p in result["profiles"]]
    drawn = all(len(line.x) > 1 for line in profiles)
    chart = (
        lines_chart(
            profiles, "Performance profiles", "factor of the fastest", "share of problems", log_x=True, stairs=True, y_range=(0.0, 1.02)
        )
        if profiles and drawn
        else ""
    )
    # Files of before there were schedules are those of constant rates.
    schedule = str(result.get("schedule", "constant"))
    return {
        "name": f"race on {titles}",
        "schedule": schedule,
        "contests": contests,
        "ranked": sum(c["template"] == "ranked" for c in contests),
        "profiles": Markup(chart),
        "problems": result["problems"],
        "legend": [(name, k % 8) for name, k in keys.items()],
        "trials": result["trials"],
        "seeds": result["seeds"],
        "notes": result["notes"],
        "facts": [
            ("options tried per method", str(result["trials"])),
            *([("fresh seeds", str(result["seeds"]))] if any(c["relief"] is None for c in result["contests"]) else []),
            ("schedule of the rates", schedule),
            ("seed", str(result["seed"])),
            ("seconds", f"{result['seconds']:.0f}"),
            *result["versions"].items(),
        ],
    }


def _ranked(contest: Mapping[str, Any], keys: Mapping[str, int], result: Mapping[str, Any]) -> dict[str, Any]:
    entries = contest["entries"]
    first = entries[0]
    soonest = _interval(first["steps"])
    apart = [e["method"] for e in entries[1:] if _interval(e["steps"]).low <= soonest.high]
    target = float(contest["target"])
    level = (target, f"target {plain_text(target)}")
    rows = [
        {
            "method": e["method"],
            "key": keys[e["method"]] % 8,
            "asked": e["asked"],
            "steps": interval_text(_interval(e["steps"]), steps_text),
            "seconds": interval_text(_interval(e["seconds"]), seconds_text),
            "misses": f"{e['misses']} of {len(e['runs'])}",
            "best": interval_text(_interval(e["best"])),
            "score": interval_text(_interval(e["score"]), share_text) if e["score"] else "",
            "difference": interval_text(_interval(e["against"]["difference"])) if e["against"] else "",
            "standing": e["against"]["standing"] if e["against"] else "",
            "chosen": _options(e["chosen"]),
            "tried": ", ".join(f"{r['name']} {plain_text(r['low'])} to {_fine(r['high'])}" for r in e["space"]),
            "diverged": f"{sum(t['diverged'] for t in e['tuning'])} of {len(e['tuning'])}",
        }
        for e in entries
    ]
    dots = [(keys[e["method"]], e["method"], [float(r["steps"]) for r in e["runs"]], _interval(e["steps"])) for e in entries]
    curves = [_curve(keys[e["method"]], e["curve"]) for e in entries]
    budgets = [Line(keys[e["method"]], e["method"], range(1, len(e["budget"]) + 1), _floats(e["budget"])) for e in entries]
    rates = [
        Line(keys[e["method"]], e["method"], [t["point"]["lr"] for t in e["rates"]], [float(t["best"]) for t in e["rates"]])
        for e in entries
        if e["rates"]
    ]
    measure = contest["measure"]
    log = _wide(curves)
    return {
        "template": "ranked",
        "title": contest["title"],
        "measure": measure,
        "score_name": contest["score_name"],
        "steps": contest["steps"],
        "target": plain_text(target),
        "target_from": contest["target_from"],
        "winner": None if math.isinf(soonest.value) else first["method"],
        "winner_steps": interval_text(soonest, steps_text),
        "apart": apart,
        "rows": rows,
        "dots": Markup(dots_chart(dots, f"Steps to the target on {result['seeds']} seeds", "steps to the target", steps_text)),
        "curves": Markup(lines_chart(curves, f"{measure} against steps", "steps", measure, log_y=log, level=level)),
        "budgets": Markup(
            lines_chart(
                budgets, "Expected best value after so many trials", "trials", f"expected best {measure}", log_y=_wide(budgets), level=level
            )
        ),
        "rates": Markup(lines_chart(rates, "Best value against the rate", "rate", f"best {measure}", True, _wide(rates), level, dots=True)),
    }


def _drawn(contest: Mapping[str, Any], keys: Mapping[str, int], number: int) -> dict[str, Any]:
    relief = contest["relief"]
    paths = [(keys[e["method"]], e["method"], [(float(a), float(b)) for a, b in e["path"]]) for e in contest["entries"] if e["path"]]
    minima = [(float(a), float(b)) for a, b in relief["minima"]]
    rows = [
        {
            "method": e["method"],
            "key": keys[e["method"]] % 8,
            "chosen": _options(e["chosen"]),
            "best": plain_text(min(float(t["best"]) for t in e["tuning"])),
            "distance": plain_text(min(math.dist(e["path"][-1], m) for m in minima)) if e["path"] and minima else "",
        }
        for e in contest["entries"]
    ]
    chart = paths_chart(
        tuple(relief["x"]),
        tuple(relief["y"]),
        np.array(relief["heights"], dtype=np.float64),
        minima,
        paths,
        contest["title"],
        f"window-{number}",
    )
    return {
        "template": "drawn",
        "title": contest["title"],
        "number": number,
        "steps": max((len(points) - 1 for _, _, points in paths), default=0),
        "rows": rows,
        "chart": Markup(chart),
    }


def _curve(key: int, series: Mapping[str, Any]) -> Line:
    return Line(key, series["name"], series["x"], _floats(series["y"]), _floats(series["low"]), _floats(series["high"]))


def _profile(series: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """To the right end that all profiles share, and a little beyond it."""
    end = 1.1 * max(max(p["x"]) for p in every)
    return [*series["x"], end], [*series["y"], series["y"][-1]]


def _options(point: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_fine(value)}" for name, value in point.items())


def _fine(value: float) -> str:
    """Averaging factors near one need more digits."""
    return f"{value:.5g}" if 0.9 <= value < 1 else plain_text(value)


def _wide(lines: Sequence[Line]) -> bool:
    values = [y for line in lines for y in line.y if math.isfinite(y)]
    return bool(values) and min(values) > 0 and max(values) > 8 * min(values)


def _floats(values: Sequence[Any]) -> list[float]:
    return [float(v) for v in values]


def _interval(value: Mapping[str, Any]) -> Interval:
    return Interval(float(value["value"]), float(value["low"]), float(value["high"]))
