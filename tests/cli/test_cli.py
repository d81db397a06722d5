"""The command line: results, messages, exit codes, and nothing half-written."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def _model(path, weight, op="Relu"):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node(op, ["h"], ["y"], name="last")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(weight, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def net(tmp_path):
    return _model(tmp_path / "net.onnx", [[3.0, 0.0, 1.0], [0.0, 2.0, 0.5]])


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "steepest.cli.main", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_bound_check_and_report(net, tmp_path):
    found = run("bound", net, "--json", "--effort", "fast", "--threads", "1", "-o", tmp_path / "c.json")
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    for key in ("lower", "upper", "norm", "domain", "method", "lower_witness", "estimates", "seconds", "certificate"):
        assert key in result
    assert 0 < result["lower"] <= result["upper"]
    checked = run("check", tmp_path / "c.json", net)
    assert checked.returncode == 0, checked.stderr
    content = json.loads((tmp_path / "c.json").read_text())
    content["upper"]["bound"] *= 0.5
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert run("check", tmp_path / "c.json", net).returncode == 1
    (tmp_path / "r.json").write_text(found.stdout)
    assert run("report", tmp_path / "r.json", "-o", tmp_path / "page.html").returncode == 0
    assert "steepest" in (tmp_path / "page.html").read_text()


def _bad(tmp_path, net):
    truncated, pickled, wrong = tmp_path / "cut.onnx", tmp_path / "model.pt", tmp_path / "wrong.npy"
    truncated.write_bytes(net.read_bytes()[:-20])
    pickled.write_bytes(b"\x80\x04.")
    np.save(wrong, np.zeros(5))
    return {
        "missing": (3, ["bound", tmp_path / "none.onnx"]),
        "truncated": (3, ["bound", truncated]),
        "nan": (3, ["bound", _model(tmp_path / "nan.onnx", [[np.nan, 0, 0], [0, 0, 0]])]),
        "shape": (2, ["bound", net, "--at", wrong, "--radius", "1"]),
        "pickle": (3, ["bound", pickled]),
        "operator": (3, ["bound", _model(tmp_path / "sign.onnx", np.ones((2, 3)), "Sign")]),
        "norm": (2, ["bound", net, "--norm", "3"]),
        "device": (2, ["bound", net, "--device", "cuda:99"]),
        "output": (2, ["bound", net, "--output", "9"]),
        "box": (2, ["bound", net, "--box", "1", "0"]),
        "radius alone": (2, ["bound", net, "--radius", "1"]),
        "certificate": (3, ["check", tmp_path / "none.json", net]),
    }


@pytest.mark.parametrize(
    "case", ["missing", "truncated", "nan", "shape", "pickle", "operator", "norm", "output", "box", "radius alone", "certificate"]
)
def test_bad_input_gets_one_message_and_leaves_nothing(net, tmp_path, case):
    code, arguments = _bad(tmp_path, net)[case]
    before = set(tmp_path.iterdir())
    out = ["-o", tmp_path / "cert.json"] if arguments[0] == "bound" else []
    result = run(*arguments, *out, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert set(tmp_path.iterdir()) == before
