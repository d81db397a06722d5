"""A diagnosis on the page: findings in order, evidence, trials, nothing unescaped, and a look at it in a browser."""

import json
import math
import re
import shutil

import pytest

from steepest.report.charts import MOST_POINTS, loss_chart
from steepest.report.fragments import diagnosis_fragment
from steepest.report.load import load_result
from steepest.report.page import render
from steepest.results.cause import Cause
from steepest.results.diagnosis import Diagnosis, Ending
from steepest.results.finding import Evidence, Finding, Severity, Trial

HIGH = Finding(
    Cause.LR_TOO_HIGH,
    Severity.ERROR,
    0.92,
    (
        Evidence("loss after the first steps over the first", 31415.9, 1.0, "descent lemma"),
        Evidence("step over weights", math.inf, 0.1, "<rule> of thumb", "encoder.layers.0.self_attn.in_proj_weight"),
    ),
    "Divide the rate by ten & look.",
    Trial("learning rate x 0.1", 1.8234, 0.2311, "training loss", True),
)
DEAD = Finding(
    Cause.DEAD_RELU,
    Severity.WARNING,
    0.4,
    (Evidence("first layer that is silent", "<fc1>"),),
    "Lower the rate.",
    Trial("re-initialised", 1.8, None, "training loss", False, "the script failed"),
)


def _diagnosis(*findings, losses=(2.0, 1.5, 1.0), **more):
    return {
        "findings": [f.to_json() for f in findings],
        "format": "steepest-diagnosis/1",
        "script": "some/<train>.py",
        "ending": "the script trained and ran to its end",
        "exit_code": 0,
        "steps": len(losses),
        "losses": [v if math.isfinite(v) else str(v) for v in losses],
        "notes": ["<b>compiled</b> code was not seen"],
        "measurements": {"Updates": {"ratio": [0.1, 0.2], "layers": [{"name": "fc1"}], "mean": 0.15, "adaptive": True, "none": None}},
        **more,
    }


def test_findings_stand_in_order_with_all_their_numbers():
    page = render([_diagnosis(HIGH, DEAD)])
    body = page.split('id="results"')[0]
    assert "1 error, 1 warning" in body
    assert body.index('id="finding-0-1"') < body.index("3.142e+04") < body.index('id="finding-0-2"')
    for text in (
        "descent lemma",
        "encoder.layers.0.self_attn.in_proj_weight",
        "learning rate x 0.1",
        "1.823",
        "0.2311",
        "the script failed",
    ):
        assert text in body
    assert "steepest explain lr_too_high" in body
    assert "edge of stability" in body
    assert "0.1 to 0.2 (2 values)" in body


def test_what_comes_from_the_run_is_escaped():
    page = render([_diagnosis(HIGH, DEAD)])
    for text in ("<train>", "<rule>", "<fc1>", "<b>compiled"):
        assert text not in page
    fragment = diagnosis_fragment(_diagnosis(HIGH, DEAD))
    for text in ("<rule>", "<fc1>", "<b>compiled"):
        assert text not in fragment
    assert "&lt;fc1&gt;" in fragment and "threshold 0.1" in fragment and "inf" in fragment


def test_a_healthy_run_and_one_that_never_trained():
    assert "Nothing found" in render([_diagnosis()])
    page = render([_diagnosis(losses=(), steps=0, ending="the script never called backward(): there is no training to diagnose")])
    assert "No training seen" in page and "never called backward()" in page and "No measurement crossed" not in page
    assert "Nothing found" in diagnosis_fragment(_diagnosis())


def test_the_least_that_diagnose_promises_is_enough():
    least = {"cause": "dead_relu", "severity": "error", "evidence": [], "fix": "Lower the rate."}
    page = render([{"format": "steepest-diagnosis/1", "findings": [least, {**least, "cause": "of_a_later_version"}]}])
    assert "2 errors" in page and "of_a_later_version" in page


def test_a_notebook_shows_the_record_itself():
    found = Diagnosis("train.py", (HIGH,), Ending.TRAINED, 0, 3, (2.0, 1.0), (), {})
    assert found._repr_html_() == diagnosis_fragment(found.to_json())
    assert render([found.to_json()]).count('<section class="finding') == 1


def test_load_takes_what_diagnose_writes(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(_diagnosis(HIGH, losses=(1.0, math.inf, math.nan)), allow_nan=False))
    assert "not a number from 1 on" in render([load_result(path)])


@pytest.mark.parametrize("count", [2, 3, 119, 120, 121, 1000, 5003])
def test_a_loss_chart_keeps_the_ends_and_stays_small(count):
    losses = [3.0 - 2.0 * k / count for k in range(count)]
    chart = loss_chart(losses, "loss")
    points = re.search(r'<polyline points="([^"]+)"', chart)[1].split()
    assert min(count, MOST_POINTS // 2) <= len(points) <= MOST_POINTS
    heights = [float(p.split(",")[1]) for p in points]
    assert heights == sorted(heights)
    assert ("<polygon" in chart) == (count > MOST_POINTS)
    assert len(chart) < 20_000


def test_each_optimizer_has_a_line():
    losses = [v for k in range(400) for v in (3.0 + k, 1.0)]
    chart = loss_chart(losses, "loss", [0, 1] * 400)
    lines = [[float(p.split(",")[1]) for p in points.split()] for points in re.findall(r'<polyline points="([^"]+)"', chart)]
    assert len(lines) == 2 and len(set(lines[1])) == 1
    assert lines[0] == sorted(lines[0], reverse=True)
    assert "optimizer 2" in chart and "optimizer" not in loss_chart(losses, "loss")
    assert loss_chart(losses, "loss", [k % 5 for k in range(800)]).count("<polyline") == 1


@pytest.mark.parametrize(
    ("losses", "ticks"),
    [((-0.1, -0.4), "-0.2"), ((1e-3, 1.0, 50.0), "0.01"), ((5.0, 5.0), "5"), ((1e6, 3e6), "2e+06")],
)
def test_axes(losses, ticks):
    assert f">{ticks}</text>" in loss_chart(losses, "loss")


def test_losses_that_are_no_numbers():
    assert loss_chart([], "") == loss_chart([1.0], "") == loss_chart([math.nan] * 3, "") == ""
    assert "not a number at 1" in loss_chart([1.0, math.nan, 2.0], "")
    assert "not a number from 2 on" in loss_chart([1.0, 2.0, math.inf, math.nan], "")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_the_page_in_a_browser(tmp_path, width, scheme):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("there is no Chromium: the page is not looked at in a browser")
    losses = [2.0 + math.sin(k) for k in range(500)]
    (tmp_path / "page.html").write_text(render([_diagnosis(HIGH, DEAD, losses=losses), _diagnosis(), _diagnosis(losses=(1.0, math.nan))]))
    messages, requests = [], []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click(".summary a >> nth=1")
        assert page.evaluate("document.querySelector('#finding-0-2').getBoundingClientRect().top") < 900
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.querySelector('title'))")
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
