"""The page: numbers that stay bounds, nothing unescaped, and a look at it in a browser."""

import json
import math
import shutil
from dataclasses import replace

import pytest

from steepest.bracket import Bracketing, Effort
from steepest.capture.builder import Builder
from steepest.cli.bound import _show
from steepest.report.numbers import estimate_text, lower_text, upper_text
from steepest.report.page import render
from steepest.results import Domain, Estimate


@pytest.mark.parametrize("value", [1.00001, 98.15396, 1234567.8, 3.0e-7, 0.12345678, 99999.5, 5e20])
def test_printed_bounds_are_still_bounds(value):
    assert float(upper_text(value)) >= value
    assert float(lower_text(value)) <= value
    assert float(upper_text(value)) <= value * 1.002


def test_special_numbers():
    assert (upper_text(math.inf), upper_text(0.0), lower_text(1.0)) == ("inf", "0", "1")


def _bracket(name="network", exponential=False):
    from steepest import ops

    b = Builder()
    x = b.input((1, 2))
    graph = b.finish(b.unary(ops.Exp, x) if exponential else b.scale(x, 2.0))
    return Bracketing(effort=Effort(0.3, 2, 0.3)).run(graph, Domain("all"), 2.0, name=name)


def test_names_and_data_are_escaped():
    page = render([_bracket("</script><script>alert(1)</script>").to_json()])
    assert "<script>alert" not in page
    data = page.split('id="results">')[1].split("</script>")[0]
    assert json.loads(data)[0]["model"]["name"] == "</script><script>alert(1)</script>"


def test_estimates_are_marked_as_none_of_the_bounds(capsys):
    bracket = replace(_bracket(), estimates=(Estimate("seqlip", 1.23456, 0.01, "found <greedily>"),))
    table = render([bracket.to_json()]).split('aria-label="Estimates"')[1].split("</table>")[0]
    assert "estimate, no bound" in table
    for text in ("seqlip", "~1.235", "found &lt;greedily&gt;"):
        assert text in table
    _show(bracket)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "seqlip" in line]
    assert row.split() == ["estimate,", "no", "bound:", "seqlip", "~1.235", "0.01"]
    older = _bracket().to_json()
    del older["estimates"]
    assert 'aria-label="Estimates"' not in render([older])
    assert estimate_text(0.99996) == "~1"


def test_an_infinite_bound_names_the_node():
    bracket = _bracket(exponential=True)
    assert bracket.upper == math.inf
    page = render([bracket.to_json(), _bracket().to_json()])
    assert "no Lipschitz constant" in page
    assert "no finite upper bound" in bracket._repr_html_()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_the_page_in_a_browser(tmp_path, width, scheme):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("there is no Chromium: the page is not looked at in a browser")
    (tmp_path / "page.html").write_text(render([_bracket().to_json()]))
    messages, requests = [], []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#scheme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.querySelector('title'))")
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
