"""The page of a race: contours where they belong, nothing unescaped, and a look at it in a browser."""

import json
import math
import shutil

import numpy as np
import pytest

import steepest
from race_tasks import tiny
from steepest.report.lines import Axis, Line, contour, lines_chart
from steepest.report.measured import interval_text, plain_text, steps_text
from steepest.report.page import render
from steepest.results.study import Interval


@pytest.fixture(scope="module")
def raced():
    tasks = [tiny(name="<b>tiny</b>"), tiny(name="other", target=1e-9), "saddle"]
    return steepest.race(tasks, optimizers=["sgd", "adam"], trials=3, seeds=2).to_json()


def test_contours_lie_on_their_level():
    y, x = np.mgrid[-2:2:41j, -2:2:41j]
    heights = x**2 + y**2
    # A level that no grid point has.
    radius = 1.01
    segments = contour(heights, radius**2)
    ends = np.array([end for segment in segments for end in segment]) / 40 * 4 - 2
    assert np.abs(np.hypot(ends[:, 0], ends[:, 1]) - radius).max() < 2e-3
    # A closed curve: every end is met twice, and the lengths add up to the circle's.
    length = sum(math.dist(a, b) for a, b in segments) / 10
    assert length == pytest.approx(2 * math.pi * radius, rel=5e-3)
    assert len({(round(i, 9), round(j, 9)) for s in segments for i, j in s}) == len(segments)


def test_a_cell_with_a_saddle_is_split_into_two_segments():
    for heights, kept in (([[1.0, 0.0], [0.0, 1.0]], 2), ([[0.0, 1.0], [1.0, 0.0]], 2)):
        assert len(contour(np.array(heights), 0.4)) == len(contour(np.array(heights), 0.6)) == kept
    low = contour(np.array([[1.0, 0.0], [0.0, 1.0]]), 0.4)
    # The mean .5 is above .4, so the high corners (0, 0) and (1, 1) are joined: a segment stays beside a low corner.
    assert all(min(math.dist(a, c) + math.dist(b, c) for c in ((0, 1), (1, 0))) < 1.0 for a, b in low)


def test_values_that_are_infinite_break_a_line():
    chart = lines_chart([Line(0, "a", [0, 1, 2, 3], [1.0, math.inf, 2.0, 3.0])], "title", "x", "y")
    assert chart.count("<polyline") == 2 and "inf" not in chart and "nan" not in chart
    assert lines_chart([Line(0, "a", [1, 1], [1.0, 2.0])], "title", "x", "y") == ""


@pytest.mark.parametrize("low,high,log", [(0, 1, False), (-3, 250, False), (1e-9, 3.0, True), (0.08, 2.3, True), (0.98, 1.02, True)])
def test_ticks_are_inside_and_enough(low, high, log):
    ticks = Axis(low, high, 0, 1, "", log).ticks()
    assert 2 <= len(ticks) <= 9 and all(low - 1e-9 <= t <= high * (1 + 1e-9) for t in ticks)


def test_texts():
    assert [plain_text(v) for v in (0.0, 1e-11, 0.08123, 1234.5, 2.5e7, math.inf)] == ["0", "1e-11", "0.0812", "1234", "2.5e7", "inf"]
    assert interval_text(Interval(10.0, 5.0, math.inf), steps_text) == "10 [5, missed]"
    assert interval_text(Interval(math.inf, math.inf, math.inf), steps_text) == "missed"
    assert interval_text(Interval(math.inf, 5.0, math.inf), steps_text) == "missed [5, missed]"


def test_names_are_escaped_and_the_data_are_there(raced):
    page = render([raced])
    assert "<b>tiny" not in page
    data = page.split('id="results">')[1].split("</script>")[0]
    assert json.loads(data)[0] == raced
    assert "not ranked" in page and "Performance profiles" in page


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_race_in_a_browser(tmp_path, raced, scheme):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("there is no Chromium: the page is not looked at in a browser")
    (tmp_path / "page.html").write_text(render([raced]))
    messages, requests = [], []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        for width in (400, 800, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto((tmp_path / "page.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        count = "document.querySelector('.path').getAttribute('points').split(' ').length"
        assert page.evaluate(count) == 151
        page.evaluate("(s => { s.value = 7; s.dispatchEvent(new Event('input')); })(document.querySelector('[data-scrub]'))")
        assert page.evaluate(count) == 8 and page.inner_text("output") == "step 7"
        page.click("[data-play]")
        page.wait_for_function(f"{count} > 8")
        page.click("[data-toggle=adam]")
        assert page.evaluate("[...document.querySelectorAll('[data-method=adam]')].every(e => getComputedStyle(e).display === 'none')")
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.querySelector('title'))")
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def test_drawings_alone_speak_of_no_seeds_and_a_schedule_is_named():
    page = render([steepest.race("saddle", optimizers=["sgd"], trials=2, schedule="cosine").to_json()])
    shown = page.split('id="results">')[0]
    assert "fresh seeds" not in shown and "schedule “cosine”" in shown
