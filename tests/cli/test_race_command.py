"""``steepest race`` from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]


def run(*arguments, cwd=HERE):
    return subprocess.run(
        [sys.executable, "-m", "steepest.cli.main", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_a_race_writes_its_page_and_its_json(tmp_path):
    options = [
        "--optimizers",
        "sgd,adam",
        "--trials",
        "3",
        "--seeds",
        "2",
        "--jobs",
        "1",
        "-o",
        tmp_path / "r",
        "--page",
        tmp_path / "p.html",
    ]
    done = run("race", "race_tasks:tiny", *options)
    assert done.returncode == 0, done.stderr
    assert "momentum (baseline)" in done.stdout and "target" in done.stdout
    content = json.loads((tmp_path / "r" / "race.json").read_text())
    assert content["format"] == "steepest-race/1"
    assert "</html>" in (tmp_path / "p.html").read_text()
    again = run("report", tmp_path / "r" / "race.json", "-o", tmp_path / "again.html")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.html").read_text() == (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    "arguments,code,words",
    [
        (["digits"], 2, "known are digits_mlp"),
        (["race_tasks:tiny", "--optimizers", "adm"], 2, "known are adadelay"),
        (["race_tasks:broken"], 3, "is nan before the first step"),
        (["race_tasks:tiny", "--rates", "-1", "1"], 2, "two positive numbers"),
        (["race_tasks:tiny", "--seed", "-1"], 2, "seed must be at least 0"),
        (["race_tasks:tiny", "--schedule", "cos"], 2, "known are constant, warmup"),
        (["race_tasks:tiny", "--optimizers", "svrg"], 2, "svrg cannot race"),
        (["fashion_cnn", "--data", "/nowhere"], 2, "there is no Fashion-MNIST"),
    ],
)
def test_bad_requests(tmp_path, arguments, code, words):
    done = run("race", *arguments, "-o", tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_the_list():
    done = run("race", "--list")
    assert done.returncode == 0 and "digits_mlp" in done.stdout and "Kingma" in done.stdout
