"""``steepest certify``: table, JSON, thresholds, and one message for bad input."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import steepest
from steepest.errors import UsageError


def _model(path, classes=3):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 8)), rng.normal(size=(8, classes))
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(w.astype(np.float32), name) for w, name in ((first, "a"), (second, "b"))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def net(tmp_path):
    return _model(tmp_path / "net.onnx")


@pytest.fixture
def data(tmp_path):
    x = np.random.default_rng(1).normal(size=(20, 2))
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(20) % 3)
    return tmp_path / "data.npz"


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "steepest.cli.main", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_the_json_says_what_the_table_says_and_thresholds_count(net, data):
    found = run("certify", net, "--data", data, "--radius", "0.1", "--json", "--threads", "1", "--fail-below", "0")
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["format"] == "steepest-certification/1" and result["count"] == result["asked"] == 20
    assert 0 <= result["certified_accuracy"] <= result["attacked_accuracy"] <= result["accuracy"] <= 1
    assert 0 < result["median_radius"] <= result["median_attack"]
    assert all(0 <= i["radius"] < (np.inf if i["attack"] == "inf" else i["attack"]) for i in result["inputs"])
    folder = data.parent / "radii"
    shown = run("certify", net, "--data", data, "--radius", "0.1", "--threads", "1", "--fail-below", "1", "-o", folder)
    assert shown.returncode == 1
    assert "certified accuracy at 0.1" in shown.stderr
    assert json.loads((folder / "certify.json").read_text())["inputs"] == result["inputs"]
    checked = run("check", folder / "certificate.json", net)
    proven = sum(i["radius"] > 0 for i in result["inputs"])
    assert checked.returncode == 0 and f"{proven} radii" in checked.stdout, checked.stderr
    assert "right answers within 0.1" in shown.stdout and f"{100 * result['certified_accuracy']:.1f} %" in shown.stdout


def test_the_function_is_the_command(net, data):
    given = np.load(data)
    result = steepest.certify(str(net), given["x"], given["y"], norm="inf", inputs=5, effort="fast")
    assert len(result.inputs) == 5 and result.norm == "inf"
    assert result.accuracy == np.mean([i.answer == i.label for i in result.inputs])
    without = steepest.certify(str(net), given["x"][:5], norm="inf", effort="fast")
    assert [i.radius for i in without.inputs] == [i.radius for i in result.inputs] and not without.labelled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.full((2, 2), np.nan)}, "NaN or infinity"),
        ({"x": np.zeros((0, 2))}, "hold no input"),
        ({"x": np.zeros((2, 3))}, "the network takes"),
        ({"y": np.array([0, 3])}, "label 3 of input 1 is out of range: the network has classes 0 to 2"),
        ({"y": np.array([-1, 0])}, "label -1 of input 0"),
        ({"y": np.array([0.5, 1.0])}, "whole numbers"),
        ({"y": np.array([0])}, "one label for each"),
        ({"radius": -0.1}, "not negative"),
        ({"radius": float("nan")}, "not negative"),
        ({"effort": "heroic"}, "fast, normal, high"),
        ({"time_limit": 0.0}, "time limit"),
        ({"inputs": 0}, "at least 1"),
        ({"norm": 3}, "norm must be"),
    ],
    ids=lambda v: str(v)[:24],
)
def test_what_cannot_be_certified_is_refused(net, change, message):
    options = {"x": np.zeros((2, 2)), "y": np.array([0, 1]), **change}
    with pytest.raises(UsageError, match=message):
        steepest.certify(str(net), options.pop("x"), options.pop("y"), **options)


def test_one_output_is_refused_in_one_line(tmp_path, data):
    found = run("certify", _model(tmp_path / "one.onnx", 1), "--data", data)
    assert found.returncode == 2 and found.stdout == ""
    assert len(found.stderr.strip().splitlines()) == 1 and "at least two scores" in found.stderr


def test_past_the_time_limit_what_is_done_is_told(net, data):
    found = run("certify", net, "--data", data, "--time-limit", "1e-9", "--json")
    assert found.returncode == 4, found.stderr
    assert json.loads(found.stdout)["count"] == 0 and "0 of 20 inputs" in found.stderr
