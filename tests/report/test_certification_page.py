"""The page of certified radii: shares, rounding, escaping, and a look at it in a browser."""

import json
import math
import shutil

import pytest

from steepest.report.page import render
from steepest.results.certification import Certification, CertifiedInput

INPUTS = (
    CertifiedInput(0, 1, 1, 2.0, 0.123456, "linear", 0.3),
    CertifiedInput(1, 0, 1, 1.0, 0.9, "constant", 1.0),
    CertifiedInput(2, 0, 0, 0.5, 0.05, "intervals", math.inf),
    CertifiedInput(3, 2, 2, 0.0, 0.0, "none", 0.1),
)


def _result(inputs=INPUTS, name="network", asked=4):
    return Certification(name, "0" * 64, "2", 0.1, inputs, asked, 12.3456, "data.npz", "fast", 1.0, {"steepest": "0"})


def test_accuracies_need_right_answers():
    result = _result()
    assert result.accuracy == 0.75 and result.certified_accuracy(0.1) == 0.25 and result.attacked_accuracy(0.1) == 0.5
    assert result.certified_accuracy(0.0) == 0.5
    assert (result.median_radius, result.median_attack) == (0.05, 0.3)
    again = tuple(CertifiedInput.from_json(one) for one in json.loads(json.dumps(result.to_json()))["inputs"])
    assert again == INPUTS
    unlabelled = _result(tuple(CertifiedInput(i.index, None, i.answer, i.margin, i.radius, i.source, i.attack) for i in INPUTS))
    assert unlabelled.accuracy == 1.0 and not unlabelled.labelled and unlabelled.certified_accuracy(0.1) == 0.5


def test_the_page_says_so():
    page = render([_result(name="<b>net</b>").to_json()])
    assert "<b>net</b>" not in page.split('id="results">')[0]
    for text in ("25.0 %", "50.0 %", "75.0 %", "0.1234<", "none found", "(wrong)", "12.35", "intervals of the margin"):
        assert text in page, text
    assert "a change of its answer is known at 0.3" in page
    assert "25.0 % to 50.0 %" in _result()._repr_html_()


def test_a_run_that_ended_early_says_so():
    assert "after 2 of 4 inputs" in render([_result(INPUTS[:2]).to_json()])
    empty = _result(())
    assert "Nothing was certified" in render([empty.to_json()]) and "nothing was certified" in empty._repr_html_()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_in_a_browser(tmp_path, width, scheme):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("there is no Chromium: the page is not looked at in a browser")
    (tmp_path / "page.html").write_text(render([_result().to_json()]))
    messages, requests = [], []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.querySelector('title'))")
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
