"""``steepest explain``."""

import json

import pytest
from typer.testing import CliRunner

from steepest.causes import load_page
from steepest.cli.main import app
from steepest.errors import UsageError
from steepest.results.cause import Cause

RUN = CliRunner()


def test_without_a_cause_all_are_listed():
    done = RUN.invoke(app, ["explain"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [f"{c.value}: {c.sentence}" for c in Cause]
    found = json.loads(RUN.invoke(app, ["explain", "--json"]).stdout)
    assert found["causes"] == [{"cause": c.value, "sentence": c.sentence} for c in Cause]


@pytest.mark.parametrize("name", ["dead_relu", "dead-relu", "Dead ReLU"])
def test_a_page_is_printed_as_it_is_where_no_terminal_is(name):
    done = RUN.invoke(app, ["explain", name])
    assert done.exit_code == 0
    assert done.stdout == load_page(Cause.DEAD_RELU).text.rstrip() + "\n"


def test_a_page_as_json():
    page = json.loads(RUN.invoke(app, ["explain", "no_shuffle", "--json"]).stdout)
    assert page["cause"] == "no_shuffle"
    assert page["sentence"] == Cause.NO_SHUFFLE.sentence
    assert "shuffle=True" in page["sections"]["Fix"]


def test_a_page_in_a_terminal(monkeypatch, capsys):
    from steepest.cli.explain import explain

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    explain("no_shuffle")
    assert "##" not in capsys.readouterr().out


def test_an_unknown_cause_lists_the_known_ones():
    done = RUN.invoke(app, ["explain", "lr_to_high"])
    assert isinstance(done.exception, UsageError) and done.exception.exit_code == 2
    message = str(done.exception)
    assert "did you mean lr_too_high?" in message
    assert all(c.value in message for c in Cause)
    assert "did you mean" not in str(RUN.invoke(app, ["explain", "zzz"]).exception)
