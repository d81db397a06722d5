"""The article of an audit or a bracket."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from steepest.report import charts
from steepest.report.numbers import estimate_text, lower_text, upper_text

_MOST_PIXELS = 4096


def _number(value: Any) -> float:
    return math.inf if value == "inf" else float(value)


def article(result: Mapping[str, Any]) -> dict[str, Any]:
    """What its template shows, from the JSON."""
    whole = result["format"] == "steepest-audit/1"
    bracket = result["global"] if whole else result
    lower, upper = _number(bracket["lower"]), _number(bracket["upper"])
    model = result.get("model") or {"name": "network"}
    section: dict[str, Any] = {
        "name": str(model["name"]),
        "model": model,
        "norm": bracket["norm"],
        "lower": lower,
        "upper": upper,
        "lower_text": lower_text(lower),
        "upper_text": upper_text(upper),
        "ratio": upper_text(upper / lower) if 0 < lower and upper < math.inf else None,
        "where": _where(bracket["domain"]),
        "meaning": upper_text(math.nextafter(upper * 0.1, math.inf)) if upper < math.inf else None,
        "notes": list(dict.fromkeys([*bracket.get("notes", []), *result.get("notes", [])])),
        "methods": [
            {"method": m["method"], "upper": upper_text(_number(m["upper"])), "seconds": m["seconds"]} for m in bracket.get("methods", [])
        ],
        "estimates": [{**e, "value": estimate_text(_number(e["value"]))} for e in bracket.get("estimates", [])],
        "facts": _facts(result, model),
        "proven": result.get("proven") or [],
        "estimated": result.get("estimated") or [],
        "assumptions": result.get("assumptions") or ((bracket.get("certificate") or {}).get("assumptions") or []),
        "certificate": result.get("certificate") if whole else None,
        "source": str(model.get("source", "MODEL")),
        "training": result.get("training"),
        "layers": _layers(result.get("layers") or []),
        "radii": _radii(result.get("radii")),
        "locals": _locals(result.get("local")),
        "witness": _witness(result, bracket),
        "pictures": _pictures(result),
    }
    section["bracket_chart"] = Markup(_bracket_chart(bracket, result, lower))
    section["falls_chart"] = Markup(_falls_chart(bracket, lower))
    return section


def _falls_chart(bracket: Mapping[str, Any], lower: float) -> str:
    """How each method's bound fell; one that is found at once is a point."""
    falls = []
    for m in bracket.get("methods", []):
        value = _number(m["upper"])
        history = [(float(s), _number(v)) for s, v in m.get("history") or []] or [(float(m["seconds"]), value)]
        if value < math.inf:
            falls.append((f"{m['method']} {upper_text(value)}", history))
    return charts.falls_chart(falls[:3], lower, "How each method's upper bound fell over its time")


def _where(domain: Mapping[str, Any]) -> str:
    if domain["kind"] == "ball":
        return f"inputs within {domain['radius']:g} of one input, in l{domain['norm']}"
    return "all inputs" if domain["kind"] == "all" else "inputs in a box"


def _facts(result: Mapping[str, Any], model: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    for key, name in (("input_shape", "input"), ("output_shape", "output"), ("parameters", "parameters"), ("nodes", "operators")):
        if model.get(key) is not None:
            value = model[key]
            facts.append((name, " x ".join(map(str, value)) if isinstance(value, list) else f"{value:,}"))
    data = result.get("data")
    if data:
        accuracy = "" if data.get("accuracy") is None else f", {100 * data['accuracy']:.1f} % right"
        facts.append(("data", f"{data['name']}: {data['count']} inputs{accuracy}"))
    if model.get("digest"):
        facts.append(("digest", str(model["digest"])[:16]))
    facts.append(("seconds", f"{result['seconds']:.1f}"))
    if result.get("seed") is not None:
        facts.append(("seed", str(result["seed"])))
    facts.extend((key, value) for key, value in (result.get("versions") or {}).items())
    return facts


def _bracket_chart(bracket: Mapping[str, Any], result: Mapping[str, Any], lower: float) -> str:
    rows = [(f"{m['method']}", lower, _number(m["upper"]), k == 0) for k, m in enumerate(bracket.get("methods", []))]
    local = result.get("local")
    if local:
        rows += [(f"around input {b['index']}", _number(b["lower"]), _number(b["upper"]), False) for b in local["brackets"]]
    return charts.brackets_chart(
        rows or [("bracket", lower, _number(bracket["upper"]), True)], "Lower and upper bounds on a logarithmic axis"
    )


def _layers(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not layers:
        return None
    rows = []
    for layer in layers:
        gain = upper_text(_number(layer["gain"]))
        share = layer.get("share")
        rows.append({**layer, "gain": gain, "percent": None if share is None else f"{100 * share:.1f} %"})
    shown = [(f"{r['node']} {r['op']}", r.get("share"), f"x {r['gain']}") for r in rows if r["gain"] != "1"][:60]
    return {
        "rows": rows,
        "chart": Markup(charts.bars_chart(shown, "Share of each layer in the logarithm of the product bound")) if shown else "",
    }


def _radii(radii: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not radii or not radii["inputs"]:
        return None
    rows = radii["inputs"]
    right = [r for r in rows if r["label"] is None or r["label"] == r["predicted"]]
    proven = [r["radius"] for r in right if r["radius"] > 0]
    attacks = [r["attack"] if r["attack"] is not None else math.inf for r in right]
    whole = [r["radius_global"] for r in right if r.get("radius_global")]
    curves = [("attack found (estimate)", attacks, "estimate"), ("proven, local constants", proven, "proven")]
    if whole:
        curves.append(("proven, global constant", whole, "global"))
    middle = sorted(r["radius"] for r in rows)[len(rows) // 2]
    chart = charts.curves_chart(curves, len(rows), "Share of inputs answered rightly and unchanged at least up to a radius")
    return {"norm": radii["norm"], "count": len(rows), "median": lower_text(middle), "chart": Markup(chart)}


def _locals(local: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not local or not local["brackets"]:
        return None
    rows = [
        {
            "index": b["index"],
            "label": b.get("label"),
            "predicted": b.get("predicted"),
            "lower": lower_text(_number(b["lower"])),
            "upper": upper_text(_number(b["upper"])),
            "method": b["method"],
        }
        for b in local["brackets"]
    ]
    return {"radius": f"{local['radius']:g}", "norm": local["norm"], "rows": rows}


def _witness(result: Mapping[str, Any], bracket: Mapping[str, Any]) -> dict[str, Any] | None:
    shape = (result.get("witness") or {}).get("image_shape")
    pair = bracket.get("lower_witness")
    if not shape or not pair or math.prod(shape[1:]) > _MOST_PIXELS:
        return None
    x, y = charts.array(pair["x"]).reshape(shape), charts.array(pair["y"]).reshape(shape)
    return {
        "images": [
            ("x", Markup(charts.image(x, "The first input of the steepest pair"))),
            ("y", Markup(charts.image(y, "The second input of the steepest pair"))),
            ("y - x", Markup(charts.image(y - x, "Their difference, in two colours for its sign", diverging=True))),
        ],
        "slope": lower_text(_number(bracket["lower"])),
    }


def _pictures(result: Mapping[str, Any]) -> dict[str, Any] | None:
    inputs, radii = result.get("inputs"), result.get("radii")
    if not inputs or not radii or math.prod(inputs["image_shape"][1:]) > _MOST_PIXELS:
        return None
    known = {str(r["index"]): r for r in radii["inputs"]}
    rows = sorted((known[k]["radius"], k) for k in inputs["arrays"] if k in known)
    chosen = rows if len(rows) <= 12 else [*rows[:6], *rows[-6:]]
    shown = []
    for radius, k in chosen:
        pixels = charts.array(inputs["arrays"][k]).reshape(inputs["image_shape"])
        row = known[k]
        shown.append(
            {
                "image": Markup(charts.image(pixels, f"Input {k}")),
                "radius": lower_text(radius),
                "text": f"answer {row['predicted']}" + ("" if row["label"] is None else f", label {row['label']}"),
            }
        )
    return {"shown": shown}
