"""What the convergence theories say of a run, as statements for people, from the JSON of its measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from steepest.report.measured import plain_text


@dataclass(frozen=True)
class Row:
    """One number: its name, its value, an interval of 95 % or a remark beside it."""

    name: str
    value: str
    interval: str = ""


@dataclass(frozen=True)
class Statement:
    """One theory's verdict.

    Args:
        title: which theory, of which optimizer.
        verdict: a sentence.
        tone: ``good``, ``plain`` or ``bad``.
        rows: the numbers behind it.
        evidence: sentences with numbers.
        assumptions: of the theory that the run does not keep.
        exponents: ``(name, value, low, high)`` for a chart; infinite ones left out.
        source: the paper.
    """

    title: str
    verdict: str
    tone: str
    rows: tuple[Row, ...] = ()
    evidence: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    exponents: tuple[tuple[str, float, float, float], ...] = field(default=(), repr=False)
    source: str = ""


def statements(measurements: Mapping[str, Any]) -> list[Statement]:
    """Every theory that had something to say, those about the method first."""
    return [s for name, read in _READERS.items() if name in measurements for s in read(measurements[name])]


def _adam_type(record: Mapping[str, Any]) -> Iterator[Statement]:
    names = {
        "ratio": "the bound",
        "a": "A, squared steps",
        "b": "B, changes of steps",
        "b_squared": "B', the same squared",
        "gamma": "sum of least steps",
    }
    for r in record["reports"]:
        found = [(names[k], e) for k, e in r["exponents"].items() if e is not None and k in names]
        rows = [Row(f"exponent of {name}", _number(e["value"]), f"[{_number(e['low'])}, {_number(e['high'])}]") for name, e in found]
        if r["floor"] is not None:
            beside = "" if r["squared_gradient"] is None else f"beside a measured {_number(r['squared_gradient'])}"
            rows.append(Row("floor of the bound on the squared gradient", _number(r["floor"]), beside))
        elif r["squared_gradient"] is not None:
            rows.append(Row("measured squared gradient", _number(r["squared_gradient"])))
        yield Statement(
            f"Theorem for Adam-type methods, {r['method']}",
            r["verdict"],
            {"condition": "good", "failed, w": "bad"}.get(r["verdict"][:9], "plain"),
            tuple(rows),
            tuple(r["evidence"]),
            tuple(r["assumptions"]),
            tuple((n, float(e["value"]), float(e["low"]), float(e["high"])) for n, e in found if math.isfinite(float(e["value"]))),
            "Chen, Liu, Sun and Hong 2019, theorem 3.1",
        )


def _gradients(record: Mapping[str, Any]) -> Iterator[Statement]:
    several = len(record["reports"]) > 1
    for r in record["reports"]:
        of = f", optimizer {r['optimizer']}" if several else ""
        part = "" if r["sketch"] == 1 else f"from {100 * r['sketch']:.2g} % of the coordinates"
        path, noise, variance = r["path"], r["noise"], r["variance"]
        if path is not None:
            rows = [] if path["constant"] is None else [Row("mu along the path, f* = 0", _number(path["constant"]), part)]
            rows.append(Row("squared gradient at the end", _number(r["squared_gradient"]), f"+- {_number(r['squared_error'])}"))
            verdict, tone = path["verdict"], "good" if path["verdict"].startswith("the inequality") else "plain"
            if path["points"] < 2:
                verdict, tone = "the gradient is lost in its noise: too few points of the path are known to say anything", "plain"
            evidence = (
                () if r["lost_from"] is None else (f"from step {r['lost_from']:,} on the gradient does not stand out from its noise",)
            )
            yield Statement(
                f"Polyak-Lojasiewicz inequality{of}", verdict, tone, tuple(rows), evidence, source="Karimi, Nutini and Schmidt 2016"
            )
        if noise is not None:
            scale = float(noise["scale"])
            small = r["batch"] < float(noise["low"])
            large = r["batch"] > float(noise["high"])
            verdict = (
                "the batch is below the noise scale: a larger one would save steps in proportion"
                if small
                else "the batch is above the noise scale: a smaller one would take as many steps"
                if large
                else "the batch is about the noise scale"
            )
            interval = f"[{_number(noise['low'])}, {_number(noise['high'])}]"
            yield Statement(
                f"Gradient noise scale{of}",
                verdict,
                "plain",
                (Row("noise scale, in samples", _number(scale), interval), Row("batch", str(r["batch"]))),
                source="McCandlish et al. 2018",
            )
        if variance is not None and variance["a"] is not None:
            rows = tuple(
                Row(f"{k.upper()} of {what}", _number(variance[k])) for k, what in (("a", "1"), ("b", "|grad f|^2"), ("c", "f - f*"))
            )
            fit = Row("root mean square residual", _number(variance["unexplained"]))
            tone = "good" if variance["verdict"].startswith("no noise") else "plain"
            yield Statement(
                f"Variance of the gradient, fitted{of}", variance["verdict"], tone, (*rows, fit), source="Khaled and Richtarik 2020"
            )


def _descent(record: Mapping[str, Any]) -> Iterator[Statement]:
    r = record["report"]
    rows = []
    if r["ratio"] is not None:
        rows.append(
            Row("actual / promised decrease, median", _number(r["ratio"]), f"quartiles [{_number(r['low'])}, {_number(r['high'])}]")
        )
    if r["smoothness"] is not None:
        rows.append(Row("largest curvature along a step", _number(r["smoothness"]), f"rate {_number(record['rate'])}"))
    tone = "bad" if r["verdict"].startswith("steps raise") else "good" if (r["ratio"] or 0) >= 0.5 else "plain"
    yield Statement(f"Descent lemma, {record['method']}", r["verdict"], tone, tuple(rows), source="Nesterov 2004, lemma 1.2.3")


def _edge(record: Mapping[str, Any]) -> Iterator[Statement]:
    points, stability = record["points"], record["stability"]
    known = [p["ratio"] for p in points if p["ratio"] is not None]
    if stability is None or not known:
        return
    rows = [Row("largest eigenvalue / what the step size bears, last", _number(known[-1]), f"at {len(known)} points")]
    if points[-1]["sharpness"] is not None:
        rows.append(Row("sharpness, last", _number(points[-1]["sharpness"])))
    tone = "bad" if "lower the step" in stability else "good" if "below" in stability else "plain"
    yield Statement("Edge of stability", stability, tone, tuple(rows), source="Cohen et al. 2021, 2022")


def _halves(record: Mapping[str, Any]) -> Iterator[Statement]:
    late = record["late"]
    if late is None:
        return
    rows = [
        Row(f"noise scale, {when} half", _number(n["scale"]), f"[{_number(n['low'])}, {_number(n['high'])}]")
        for when, n in (("first", record["early"]), ("second", late))
        if n is not None
    ]
    low, high, batch = float(late["low"]), float(late["high"]), record["batch"]
    where = "below" if batch < low else "above" if batch > high else "about"
    yield Statement(
        "Gradient noise scale, from halves of batches",
        f"the batch of {batch} is {where} the noise scale",
        "plain",
        tuple(rows),
        source="McCandlish et al. 2018",
    )


def _kernel(record: Mapping[str, Any]) -> Iterator[Statement]:
    r = record["report"]
    rows = [Row("contraction of the squared error a step, predicted", f"{r['predicted']:.6g}")]
    if r["measured"] is not None:
        rows.append(Row("measured", f"{float(r['measured']):.6g}"))
    rows.append(Row("least eigenvalue of the limit kernel", _number(r["eigenvalue"])))
    if r["at_weights"] is not None:
        rows.append(Row("of the Gram matrix at the last weights", _number(r["at_weights"])))
    tone = "good" if r["verdict"].startswith("the error falls at least") else "plain"
    title = f"Neural tangent kernel, width {record['width']}, {record['samples']} samples"
    yield Statement(title, r["verdict"], tone, tuple(rows), assumptions=tuple(record["assumptions"]), source="Du et al. 2019, theorem 4.1")


def _deep_linear(record: Mapping[str, Any]) -> Iterator[Statement]:
    r, rows = record["report"], []
    if r is not None:
        if r["predicted"] is not None:
            rows.append(Row("contraction of the loss a step, predicted", f"{float(r['predicted']):.6g}"))
        if r["measured"] is not None:
            rows.append(Row("contraction of the loss a step, measured", f"{float(r['measured']):.6g}"))
        rows += [Row("deficiency margin", _number(r["margin"])), Row("imbalance of the layers", _number(r["balance"]))]
        rows += [] if r["allowed_balance"] is None else [Row("imbalance allowed", _number(r["allowed_balance"]))]
        rows += [] if r["allowed_rate"] is None else [Row("rate allowed", _number(r["allowed_rate"]))]
    verdict = "the theorem does not apply" if r is None else r["verdict"]
    yield Statement(
        f"Deep linear network, {record['depth']} layers",
        verdict,
        "good" if verdict.startswith("all conditions") else "plain",
        tuple(rows),
        assumptions=tuple(record["assumptions"]),
        source="Arora et al. 2019, theorem 1",
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], Iterator[Statement]]] = {
    "AdamTypeRecord": _adam_type,
    "DescentRecord": _descent,
    "CurvatureRecord": _edge,
    "GradientPathRecord": _gradients,
    "NoiseRecord": _halves,
    "KernelRecord": _kernel,
    "DeepLinearRecord": _deep_linear,
}


def _number(value: float | str) -> str:
    """Three digits; an infinity as a word."""
    return plain_text(float(value))
