"""Reading ONNX files: real networks against onnxruntime, inputs and outputs, control flow, and files that must be refused."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from steepest.capture import onnx_file
from steepest.capture.onnx import read_onnx
from steepest.errors import ModelError, UnsupportedOperatorError

SHARED = Path(os.environ.get("STEEPEST_SHARED", Path(__file__).parents[3] / "shared"))
REFUSED_NETWORKS = {"gtsrb_bnn_30_30": "Sign", "carvana_unet_simp_small": "ArgMax"}


def networks() -> list[Any]:
    paths = sorted((SHARED / "nets").glob("*.onnx")) + sorted((SHARED / "published").glob("*.onnx"))
    if not paths:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no networks under {SHARED}: set STEEPEST_SHARED"))]
    return [pytest.param(p, id=p.stem) for p in paths]


def session(model: bytes | str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.shared
@pytest.mark.parametrize("path", networks())
def test_real_networks_agree_with_onnxruntime(path: Path) -> None:
    if path.stem in REFUSED_NETWORKS:
        with pytest.raises(UnsupportedOperatorError, match="not a Lipschitz map") as caught:
            read_onnx(path)
        assert caught.value.operator == REFUSED_NETWORKS[path.stem]
        assert caught.value.where
        return
    graph, reference, random = read_onnx(path), session(str(path)), np.random.default_rng(0)
    for _ in range(3):
        feeds = {
            i.name: random.random([d if isinstance(d, int) and d > 0 else 1 for d in i.shape], np.float32) for i in reference.get_inputs()
        }
        expected = np.concatenate([y.reshape(-1) for y in reference.run(None, feeds)])
        x = np.concatenate([v.reshape(-1) for v in feeds.values()]).astype(np.float64)
        got = graph.evaluate(torch.from_numpy(x).reshape(graph.input_shape)).flatten().numpy()
        assert np.abs(got - expected).max() <= 3e-5 * max(np.abs(expected).max(), 1e-3)


# Small models ---------------------------------------------------------------------------------------------------------


def tensor(name: str, *shape: int | str | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, value: Any, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    constants: list[onnx.TensorProto] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info(n) for n in outputs], constants or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"the_{op}", **attributes)


def save(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def linear() -> onnx.ModelProto:
    return model(
        [node("Gemm", "x w b", "y")], [tensor("x", 1, 2)], ["y"], [constant("w", [[1, 2, 3], [4, 5, 6]]), constant("b", [1, 0, 0])]
    )


def test_weights_are_exact(file: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3))
    for kind in (np.float16, np.float32, np.float64):
        graph = read_onnx(save(file, model([node("MatMul", "x w", "y")], [tensor("x", 1, 4)], ["y"], [constant("w", weight, kind)])))
        np.testing.assert_array_equal(graph.nodes[-1].op.arrays()["weight"], weight.astype(kind).astype(np.float64).T)


def test_bfloat16_weights_are_exact(file: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, [2, 1], [1.0, 3.140625])
    graph = read_onnx(save(file, model([node("MatMul", "x w", "y")], [tensor("x", 1, 2, kind=TensorProto.BFLOAT16)], ["y"], [weight])))
    assert graph.nodes[-1].op.arrays()["weight"].tolist() == [[1.0, 3.140625]]


@pytest.mark.parametrize("batch", ["N", 0, -1, None, 1])
def test_an_unknown_batch_is_one_sample(batch: Any, file: Path) -> None:
    proto = model([node("Relu", "x", "y")], [tensor("x", batch if isinstance(batch, str) else 1, 3)], ["y"])
    if not isinstance(batch, str):
        dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
        dim.Clear()
        if batch is not None:
            dim.dim_value = batch
    assert read_onnx(save(file, proto)).input_shape == (1, 3)


def test_a_fixed_batch_is_taken_as_it_is(file: Path) -> None:
    assert read_onnx(save(file, model([node("Relu", "x", "y")], [tensor("x", 4, 3)], ["y"]))).input_shape == (4, 3)


def test_other_unknown_axes_are_refused_by_name(file: Path) -> None:
    proto = model([node("Relu", "picture", "y")], [tensor("picture", 1, 3, "height")], ["y"])
    with pytest.raises(ModelError, match=r"axis 2 of the input 'picture' .*height.*fixed"):
        read_onnx(save(file, proto))


def test_inputs_and_outputs_are_joined_in_order(file: Path) -> None:
    nodes = [node("MatMul", "a w", "p"), node("Mul", "b p", "q"), node("Add", "q c", "r"), node("Relu", "a", "s")]
    constants = [constant("w", [[1, 2], [3, 4]]), constant("c", [0.5, 0.5])]
    # Old files list their constants among the inputs.
    inputs = [tensor("b", 1, 2), tensor("c", 2), tensor("unused", 3), tensor("a", "N", 2)]
    proto = model(nodes, inputs, ["r", "s", "c"], constants)
    graph = read_onnx(save(file, proto))
    assert graph.input_shape == (7,)
    x = torch.tensor([1.0, 2.0, 9.0, 9.0, 9.0, -3.0, 4.0], dtype=torch.float64)
    a, b, c = x[5:], x[:2], torch.tensor([0.5, 0.5])
    p = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64).mT @ a
    torch.testing.assert_close(graph.evaluate(x), torch.cat([b * p + c, a.relu(), c]))


def test_an_output_may_be_an_input_or_a_constant(file: Path) -> None:
    assert len(read_onnx(save(file, model([node("Identity", "x", "y")], [tensor("x", 2)], ["y"]))).nodes) == 1
    graph = read_onnx(save(file, model([node("Identity", "c", "y")], [tensor("x", 2)], ["y"], [constant("c", [3, 4, 5])])))
    assert graph.evaluate(torch.zeros(2)).tolist() == [3.0, 4.0, 5.0]


def test_nodes_that_no_output_needs_are_not_read(file: Path) -> None:
    proto = model([node("ArgMax", "x", "i"), node("Mystery", "i", "j"), node("Relu", "x", "y")], [tensor("x", 1, 2)], ["y"])
    assert read_onnx(save(file, proto)).shape == (1, 2)


def test_integer_inputs_are_refused_by_name(file: Path) -> None:
    with pytest.raises(ModelError, match=r"'tokens' is of type INT64"):
        read_onnx(
            save(
                file,
                model([node("Gather", "w tokens", "y")], [tensor("tokens", 1, 4, kind=TensorProto.INT64)], ["y"], [constant("w", [1, 2])]),
            )
        )


def test_a_model_without_input_or_with_one_of_unknown_rank_is_refused(file: Path) -> None:
    with pytest.raises(ModelError, match="no input"):
        read_onnx(save(file, model([node("Relu", "c", "y")], [], ["y"], [constant("c", [1.0])])))
    with pytest.raises(ModelError, match="states no shape"):
        read_onnx(save(file, model([node("Relu", "x", "y")], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)], ["y"])))


def test_shape_chains_are_folded(file: Path) -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n first", "m"), node("Concat", "m minus", "t", axis=0),
        node("Reshape", "x t", "y"),
    ]  # fmt: skip
    constants = [constant("zero", 0, np.int64), constant("first", [0], np.int64), constant("minus", [-1], np.int64)]
    graph = read_onnx(save(file, model(nodes, [tensor("x", "N", 2, 3)], ["y"], constants)))
    assert graph.shape == (1, 6)
    assert len(graph.nodes) == 2


def branches(condition: Any) -> onnx.ModelProto:
    then = helper.make_graph([node("Relu", "x", "t")], "then", [], [helper.make_empty_tensor_value_info("t")])
    other = helper.make_graph([node("Mul", "x k", "e")], "else", [], [helper.make_empty_tensor_value_info("e")], [constant("k", 3.0)])
    choice = node("If", "c", "y", then_branch=then, else_branch=other)
    if condition is None:
        return model(
            [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "c"), choice],
            [tensor("x", 2)],
            ["y"],
            [constant("zero", 0.0)],
        )
    return model([choice], [tensor("x", 2)], ["y"], [constant("c", condition, np.bool_)])


@pytest.mark.parametrize(("condition", "expected"), [(True, [0.0, 2.0]), (False, [-3.0, 6.0])])
def test_a_branch_on_a_constant_is_taken(condition: bool, expected: list[float], file: Path) -> None:
    assert read_onnx(save(file, branches(condition))).evaluate(torch.tensor([-1.0, 2.0])).tolist() == expected


def test_a_branch_on_the_input_is_refused(file: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match="true or false"):
        read_onnx(save(file, branches(None)))


def test_loops_functions_and_foreign_domains_are_refused_by_name(file: Path) -> None:
    body = helper.make_graph([node("Relu", "v", "w")], "body", [tensor("i"), tensor("c"), tensor("v", 2)], [tensor("w", 2)])
    with pytest.raises(UnsupportedOperatorError, match=r"Loop at 'the_Loop'.*control flow"):
        read_onnx(
            save(
                file,
                model(
                    [node("Loop", "n c x", "y", body=body)],
                    [tensor("x", 2)],
                    ["y"],
                    [constant("n", 3, np.int64), constant("c", True, bool)],
                ),
            )
        )
    with pytest.raises(UnsupportedOperatorError, match=r"com.microsoft.FusedConv at 'the_FusedConv'"):
        read_onnx(save(file, model([node("FusedConv", "x", "y", domain="com.microsoft")], [tensor("x", 2)], ["y"])))
    proto = model([node("Mine", "x", "y", domain="own")], [tensor("x", 2)], ["y"])
    proto.functions.append(helper.make_function("own", "Mine", ["x"], ["y"], [node("Relu", "x", "y")], [helper.make_opsetid("", 17)]))
    with pytest.raises(ModelError, match=r"its own operator 'Mine'.*inline"):
        read_onnx(save(file, proto))


@pytest.mark.parametrize("opset", [6, 25, 99])
def test_unknown_versions_are_refused(opset: int, file: Path) -> None:
    with pytest.raises(ModelError, match=rf"version {opset}; versions 7 to 24"):
        read_onnx(save(file, model([node("Relu", "x", "y")], [tensor("x", 2)], ["y"], opset=opset)))


def attention(mask: list[list[float]], last: str = "Softmax") -> onnx.ModelProto:
    nodes = [node("MatMul", "x w", "s"), node("Add", "s mask", "m"), node(last, "m", "p"), helper.make_node("Add", ["p", "s"], ["y"])]
    return model(nodes, [tensor("x", 2, 2)], ["y"], [constant("w", [[1, 2], [3, 4]]), constant("mask", mask)])


def test_an_attention_mask_of_minus_infinities_bars_entries(file: Path) -> None:
    proto = attention([[0.0, -np.inf], [0.0, 0.5]])
    x = np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32)
    graph = read_onnx(save(file, proto))
    expected = session(proto.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(graph.evaluate(torch.from_numpy(x).double()).numpy(), expected, rtol=1e-5)


def test_a_mask_that_meets_no_softmax_is_refused(file: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"Relu at 'the_Relu'.*minus infinity"):
        read_onnx(save(file, attention([[0.0, -np.inf], [0.0, 0.5]], "Relu")))
    with pytest.raises(UnsupportedOperatorError, match="a whole row"):
        read_onnx(save(file, attention([[-np.inf, -np.inf], [0.0, 0.5]])))
    proto = model([node("Add", "x c", "y")], [tensor("x", 2)], ["y"], [constant("c", [0, -np.inf])])
    with pytest.raises(ModelError, match="minus infinity"):
        read_onnx(save(file, proto))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("op", ["Gemm", "Add", "Mul", "Max"])
def test_weights_that_are_no_numbers_are_refused_by_node(op: str, value: float, file: Path) -> None:
    proto = model([node(op, "x w", "y")], [tensor("x", 2, 2)], ["y"], [constant("w", [[1, value], [0, 1]])])
    with pytest.raises(ModelError, match=rf"the_{op}.*NaN or infinite"):
        read_onnx(save(file, proto))


# Files ----------------------------------------------------------------------------------------------------------------


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        read_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is not a file"):
        read_onnx(tmp_path)


def test_truncated_files_never_read_as_something_else(file: Path) -> None:
    data = linear().SerializeToString()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(ModelError):
            read_onnx(file)


def test_flipped_bits_are_an_error_or_a_model(file: Path) -> None:
    data = linear().SerializeToString()
    random = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[random.integers(len(data))] ^= 1 << random.integers(8)
        file.write_bytes(bytes(broken))
        try:
            read_onnx(file)
        except ModelError:
            continue


def test_a_pickle_is_not_opened(file: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(file.with_suffix(".gone")),))

    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="never unpickled"):
        read_onnx(file)
    assert not file.with_suffix(".gone").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04zip", b"hello, I am a text file\n" * 20])
def test_other_files_are_refused(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.onnx is"):
        read_onnx(file)


def test_sizes_are_checked_before_anything_is_made(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(file, linear())
    for limit, value, message in (("MAX_FILE_BYTES", 10, "bytes"), ("MAX_NODES", 0, "nodes"), ("MAX_ELEMENTS", 8, "numbers")):
        with monkeypatch.context() as patch, pytest.raises(ModelError, match=message):
            patch.setattr(onnx_file, limit, value)
            read_onnx(file)


def test_tensors_that_lie_about_their_shape_are_refused(file: Path) -> None:
    for dims in ([3, 3], [-2, -3], [2**40, 2**40], [6, 2**62]):
        proto = linear()
        proto.graph.initializer[0].dims[:] = dims
        with pytest.raises(ModelError):
            read_onnx(save(file, proto))


def test_names_that_do_not_exist_or_are_computed_twice_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match="'ghost', which nothing before it computes"):
        read_onnx(save(file, model([node("Add", "x ghost", "y")], [tensor("x", 2)], ["y"])))
    with pytest.raises(ModelError, match="'y', which nothing before it computes"):
        read_onnx(save(file, model([node("Relu", "y", "z"), node("Relu", "x", "y")], [tensor("x", 2)], ["z"])))
    with pytest.raises(ModelError, match="'y' is computed twice"):
        read_onnx(save(file, model([node("Relu", "x", "y"), node("Abs", "x", "y")], [tensor("x", 2)], ["y"])))


def test_text_weights_are_refused(file: Path) -> None:
    proto = linear()
    proto.graph.initializer[1].CopyFrom(helper.make_tensor("b", TensorProto.STRING, [3], [b"a", b"b", b"c"]))
    with pytest.raises(ModelError, match="'b' holds STRING"):
        read_onnx(save(file, proto))


# External data --------------------------------------------------------------------------------------------------------


def external(location: str, offset: int = 0, length: int = 24) -> onnx.ModelProto:
    proto = linear()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        weight.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    return proto


WEIGHTS = np.array([1, 2, 3, 4, 5, 6], "<f4").tobytes()


@pytest.mark.parametrize("location", ["weights.bin", "parts/weights.bin", "./weights.bin"])
def test_external_data_beside_the_model_is_read(location: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "parts").mkdir(parents=True)
    (home / location).write_bytes(b"\0" * 8 + WEIGHTS)
    graph = read_onnx(save(home / "model.onnx", external(location, 8)))
    assert graph.evaluate(torch.tensor([[1.0, 1.0]])).tolist() == [[6.0, 7.0, 9.0]]


@pytest.mark.parametrize(
    "location", ["../weights.bin", "parts/../../weights.bin", "{outside}/weights.bin", "link.bin", "linked/weights.bin", "", "a\\..\\b"]
)
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "parts").mkdir(parents=True)
    (tmp_path / "weights.bin").write_bytes(WEIGHTS)
    (home / "link.bin").symlink_to(tmp_path / "weights.bin")
    (home / "linked").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="outside the model's folder"):
        read_onnx(save(home / "model.onnx", external(location.format(outside=tmp_path))))


@pytest.mark.parametrize(("offset", "length"), [(4, 24), (-4, 24), (0, 20), (2**62, 24), (0, 48)])
def test_external_data_that_does_not_fit_is_refused(offset: int, length: int, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHTS)
    with pytest.raises(ModelError, match="24 bytes"):
        read_onnx(save(tmp_path / "model.onnx", external("weights.bin", offset, length)))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights\.bin.*not beside the model"):
        read_onnx(save(tmp_path / "model.onnx", external("weights.bin")))


def test_importing_the_room_does_not_import_onnx() -> None:
    import subprocess
    import sys

    script = "import sys, steepest.capture; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
