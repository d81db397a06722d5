"""``steepest study``: the list, a result on stdout, a page, and what it refuses."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from steepest import api
from steepest.cli import main
from steepest.report.load import load_result
from steepest.studies.signal_propagation import SignalPropagation


@pytest.fixture
def run(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Small(SignalPropagation):
        depth: int = 6
        nets: int = 3
        widths: tuple[int, ...] = (24, 48)

    real = api.find
    monkeypatch.setattr(api, "find", lambda name: Small if name == "signal-propagation" else real(name))
    return lambda *arguments: CliRunner().invoke(main.app, ["study", *map(str, arguments)])


def test_the_list(run):
    assert "signal-propagation" in run().stdout == run("list").stdout
    listed = json.loads(run("list", "--json").stdout)["studies"]
    assert {"name", "question"} == set(listed[0])


def test_a_study_prints_verdicts_or_json_and_writes_a_page(run, tmp_path):
    shown = run("signal-propagation", "--seeds", 2, "--page", tmp_path / "page.html", "--threads", 1)
    assert shown.exit_code == 0, shown.output
    assert "held" in shown.stdout and "wrote" in shown.stdout
    assert "<svg" in (tmp_path / "page.html").read_text()
    printed = run("signal-propagation", "--seeds", 2, "--json")
    (tmp_path / "study.json").write_text(printed.stdout)
    content = load_result(tmp_path / "study.json")
    assert content["study"] == "signal-propagation" and content["seeds"] == 2 and content["claims"][0]["verdict"]


@pytest.mark.parametrize("arguments", [("nonsense",), ("list", "--seeds", "3"), ("signal-propagation", "--seeds", "1")])
def test_what_it_refuses(run, arguments):
    result = run(*arguments)
    assert result.exit_code != 0
    assert result.stdout == ""
