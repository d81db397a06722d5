"""Every ONNX operator and its variants on models of one node, against onnxruntime."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from steepest.capture.onnx import read_onnx
from steepest.errors import ModelError, UnsupportedOperatorError

RANDOM = np.random.default_rng(7)


@dataclass
class Live:
    """An input of the network with a range of values."""

    shape: tuple[int, ...]
    low: float = -3.0
    high: float = 3.0


@dataclass
class Case:
    """A node; numpy inputs are constants, and the output named _ is not used."""

    op: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: tuple[str, ...] = ("y",)

    def model(self, constants_as_nodes: bool = False) -> onnx.ModelProto:
        names, inputs, initializers, nodes = [], [], [], []
        for i, given in enumerate(self.inputs):
            name = f"i{i}" if given is not None else ""
            names.append(name)
            if isinstance(given, Live):
                inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, given.shape))
            elif given is not None and constants_as_nodes:
                nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(given, name)))
            elif given is not None:
                initializers.append(numpy_helper.from_array(given, name))
        nodes.append(helper.make_node(self.op, names, self.outputs, name="tested", **self.attributes))
        outputs = [helper.make_empty_tensor_value_info(n) for n in self.outputs if n != "_"]
        graph = helper.make_graph(nodes, "one", inputs, outputs, initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def live(*shape: int, low: float = -3.0, high: float = 3.0) -> Live:
    return Live(shape, low, high)


def case(op: str, *inputs: Any, opset: int = 17, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Case:
    return Case(op, inputs, attributes, opset, outputs)


def f(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def array(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: Any) -> np.ndarray:
    return np.array(value, np.float32)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def agree(model: onnx.ModelProto, ranges: dict[str, Live], folder: Path, tolerance: float = 2e-5) -> None:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    graph = read_onnx(path)
    random = np.random.default_rng(0)
    for _ in range(3):
        feeds = {name: random.uniform(r.low, r.high, r.shape).astype(np.float32) for name, r in ranges.items()}
        expected = run(model, feeds)
        x = np.concatenate([v.reshape(-1) for v in feeds.values()]).astype(np.float64)
        got = graph.evaluate(torch.from_numpy(x).reshape(graph.input_shape))
        if len(expected) == 1:
            assert tuple(got.shape) == expected[0].shape
        wanted = np.concatenate([v.reshape(-1).astype(np.float64) for v in expected])
        np.testing.assert_allclose(
            got.flatten().numpy(), wanted, rtol=tolerance, atol=tolerance * max(1.0, np.abs(wanted).max(initial=0.0))
        )


PLAIN = [
    case(op, live(2, 7), opset=opset)
    for op, opset in [
        ("Relu", 7), ("Relu", 14), ("Abs", 13), ("Neg", 13), ("Sigmoid", 13), ("Tanh", 13), ("Erf", 13), ("Exp", 13), ("Sin", 7),
        ("Cos", 7), ("Softplus", 7), ("Softsign", 7), ("Mish", 18), ("HardSwish", 14), ("Identity", 13), ("LeakyRelu", 7),
        ("Elu", 7), ("Selu", 7),
        ("Celu", 12), ("HardSigmoid", 7), ("Gelu", 20), ("Dropout", 7), ("Dropout", 13), ("Sinh", 9), ("Cosh", 9),
    ]
]  # fmt: skip

ACTIVATIONS = [
    *PLAIN,
    case("Log", live(5, low=0.1)),
    case("Sqrt", live(5, low=0.1)),
    case("Reciprocal", live(5, low=0.1)),
    case("Tan", live(5, low=-1.2, high=1.2)),
    case("LeakyRelu", live(2, 3), alpha=0.3),
    case("LeakyRelu", live(2, 3), alpha=-1.5),
    case("PRelu", live(2, 3, 4), f(3, 1)),
    case("PRelu", live(2, 3, 4), f(1)),
    case("Elu", live(9), alpha=2.5),
    case("Selu", live(9), alpha=1.5, gamma=0.7),
    case("Celu", live(9), alpha=0.4),
    case("HardSigmoid", live(9), alpha=0.4, beta=0.3),
    case("Gelu", live(9), opset=20, approximate="tanh"),
    case("Swish", live(9), opset=24),
    case("Swish", live(9), opset=24, alpha=0.5),
    case("Shrink", live(9), lambd=0.7, bias=0.7),
    case("ThresholdedRelu", live(9), alpha=0.0),
    case("Clip", live(9), opset=7, min=-1.0, max=2.0),
    case("Clip", live(9), opset=7, max=2.0),
    case("Clip", live(9), scalar(-1.0), scalar(0.5)),
    case("Clip", live(9), None, scalar(0.5)),
    case("Clip", live(9), scalar(-0.5)),
    case("Clip", live(9)),
    case("Clip", live(9), scalar(1.0), scalar(-1.0)),
    case("Cast", live(3, 4), to=TensorProto.DOUBLE),
    case("Softmax", live(2, 3, 4), opset=11),
    case("Softmax", live(2, 3, 4), opset=11, axis=2),
    case("Softmax", live(2, 3, 4), opset=11, axis=0),
    case("Softmax", live(2, 3, 4), opset=13),
    case("Softmax", live(2, 3, 4), opset=13, axis=1),
    case("LogSoftmax", live(2, 3, 4), opset=12, axis=1),
    case("LogSoftmax", live(2, 3, 4), opset=13, axis=-2),
]

ARITHMETIC = [
    *[case(op, live(2, 3), live(3), opset=o) for op in ("Add", "Sub", "Mul", "Max", "Min") for o in (8, 14)],
    *[case(op, live(2, 3), f(2, 1), opset=14) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")],
    *[case(op, f(4, 2, 1), live(2, 3), opset=14) for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean")],
    case("Div", live(2, 3), live(2, 3, low=0.5)),
    case("Div", scalar(2.0), live(2, 3, low=0.5)),
    case("Sum", live(2, 3), live(3), f(2, 1)),
    case("Mean", live(2, 3), live(3), f(2, 1)),
    case("Max", live(2, 3), live(3), scalar(0.3)),
    case("Min", live(2, 3), live(3), scalar(0.3)),
    case("Min", live(2, 3), f(3)),
    case("Max", live(2, 3)),
    *[case("Pow", live(2, 3, low=0.2), scalar(p)) for p in (0.0, 1.0, 2.0, 3.0, 0.5, 1.5, -1.0, -0.5, 0.3)],
    case("Pow", live(2, 3), scalar(3.0)),
    case("Pow", live(2, 3), ints(2)),
    case("Pow", array(2.0, 0.5, 3.0), live(2, 3)),
    case("Where", np.array([[True, False, True]]), live(2, 3), scalar(5.0)),
    case("Where", np.array([[True, False, True]]), f(2, 1), live(2, 3)),
    case("Where", np.array([[True], [False]]), live(2, 3), live(3)),
    case("MatMul", live(2, 3), f(3, 4)),
    case("MatMul", live(5, 2, 3), f(3, 4)),
    case("MatMul", live(3), f(3, 4)),
    case("MatMul", live(2, 3), f(3)),
    case("MatMul", f(2, 3), live(3, 4)),
    case("MatMul", f(3), live(3, 4)),
    case("MatMul", f(2, 3), live(3)),
    case("MatMul", f(2, 3), live(5, 3, 4)),
    case("MatMul", live(2, 3), f(1, 3, 4)),
    case("MatMul", live(5, 2, 3), f(5, 3, 4)),
    case("MatMul", f(5, 2, 3), live(5, 3, 4)),
    case("MatMul", f(1, 2, 3), live(5, 3, 4)),
    case("MatMul", live(2, 2, 3), live(3, 4)),
    case("MatMul", live(3), live(2, 3, 4)),
    case("Gemm", live(2, 3), f(3, 4), f(4)),
    case("Gemm", live(2, 3), f(4, 3), f(1, 4), transB=1, alpha=0.5, beta=2.0),
    case("Gemm", live(3, 2), f(4, 3), f(2, 4), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", live(3, 2), f(3, 4), f(2, 1), transA=1),
    case("Gemm", live(2, 3), f(3, 4), scalar(0.5)),
    case("Gemm", live(2, 3), f(3, 4), opset=11),
    case("Gemm", f(2, 3), live(3, 4), f(2, 4), alpha=0.3),
    case("Gemm", live(2, 3), f(3, 4), live(2, 4), beta=0.3),
    case("Gemm", live(2, 3), live(3, 4), live(4), alpha=0.3, beta=0.2),
    case("Einsum", live(2, 3), f(3, 4), equation="ij,jk->ik"),
    case("Einsum", live(2, 5, 3), live(2, 4, 3), equation="bqd,bkd->bqk"),
    case("Einsum", live(2, 5, 3, 2), f(3, 2, 4), equation="bshd, hdo -> bso"),
    case("Einsum", live(2, 3), live(2, 3), equation="ij,ij->"),
    case("Einsum", live(2, 3), live(4), equation="ij,k->ki"),
    case("Einsum", live(2, 3, 4), equation="ijk->ki"),
    case("Einsum", live(2, 3), live(3, 4), equation="ij,jk"),
    case("CumSum", live(2, 5), np.array(1, np.int64)),
    case("CumSum", live(3, 2), np.array([0], np.int32), exclusive=1, reverse=1),
]

LAYERS = [
    case("Conv", live(1, 3, 8, 9), f(4, 3, 3, 3), f(4)),
    case("Conv", live(2, 4, 8, 9), f(6, 2, 3, 2), f(6), group=2, strides=[2, 3], pads=[1, 0, 2, 1], dilations=[2, 1], kernel_shape=[3, 2]),
    case("Conv", live(1, 4, 7), f(4, 1, 3), group=4, pads=[1, 1]),
    case("Conv", live(1, 2, 6), f(3, 2, 1), strides=[2], auto_pad="SAME_UPPER"),
    case("Conv", live(1, 2, 5, 4, 6), f(3, 2, 2, 2, 2), f(3), strides=[1, 2, 2]),
    *[case("Conv", live(1, 2, 7, 8), f(3, 2, 3, 4), auto_pad=p, strides=[2, 3]) for p in ("VALID", "SAME_UPPER", "SAME_LOWER")],
    case("ConvTranspose", live(1, 3, 4, 5), f(3, 2, 3, 3), f(2)),
    case("ConvTranspose", live(2, 4, 4, 5), f(4, 3, 3, 2), f(6), group=2, strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 2]),
    case("ConvTranspose", live(1, 2, 5), f(2, 3, 4), strides=[2], dilations=[2], pads=[2, 1]),
    case("ConvTranspose", live(1, 2, 4, 4), f(2, 3, 3, 3), strides=[2, 2], output_shape=[8, 7]),
    case("ConvTranspose", live(1, 2, 4, 4), f(2, 3, 3, 3), strides=[2, 2], output_shape=[8, 8], auto_pad="SAME_UPPER"),
    *[case("ConvTranspose", live(1, 2, 4, 4), f(2, 3, 3, 3), strides=[2, 2], auto_pad=p) for p in ("VALID", "SAME_UPPER", "SAME_LOWER")],
    case("BatchNormalization", live(2, 3, 4), f(3), f(3), f(3), np.abs(f(3)) + 0.1),
    case("BatchNormalization", live(2, 3), f(3), f(3), f(3), np.abs(f(3)) + 0.1, opset=9, epsilon=0.1, momentum=0.5),
    case("InstanceNormalization", live(2, 3, 4, 5), f(3), f(3)),
    case("LayerNormalization", live(2, 3, 4), f(4), f(4)),
    case("LayerNormalization", live(2, 3, 4), f(3, 4), axis=1, epsilon=0.01),
    case("GroupNormalization", live(2, 6, 4), f(3), f(3), opset=18, num_groups=3),
    case("GroupNormalization", live(2, 6, 4), f(6), f(6), opset=21, num_groups=3),
    case("RMSNormalization", live(2, 3, 4), f(4), opset=23),
    case("RMSNormalization", live(2, 3, 4), f(3, 4), opset=23, axis=1, epsilon=0.1),
    case("LpNormalization", live(2, 3, 4), axis=1, p=2),
    case("LpNormalization", live(2, 3, 4), axis=-1, p=1),
    case("GlobalAveragePool", live(2, 3, 4, 5)),
    case("GlobalMaxPool", live(2, 3, 4, 5)),
]

POOLS = [
    case(op, live(1, 2, *size), opset=opset, kernel_shape=kernel, **attributes)
    for op in ("MaxPool", "AveragePool")
    for size, kernel, opset, attributes in [
        ((8, 9), [2, 2], 8, {"strides": [2, 2]}),
        ((8, 9), [3, 2], 8, {}),
        ((8, 9), [3, 3], 11, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((8, 9), [3, 3], 11, {"strides": [2, 2], "pads": [0, 1, 1, 0], "ceil_mode": 1}),
        ((7, 7), [2, 2], 19, {"strides": [2, 2], "ceil_mode": 1}),
        ((7, 7), [3, 3], 19, {"strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [2, 2]}),
        ((7, 8), [3, 2], 11, {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
        ((7, 8), [3, 2], 11, {"strides": [2, 3], "auto_pad": "SAME_LOWER"}),
        ((7, 8), [3, 2], 11, {"strides": [2, 3], "auto_pad": "VALID"}),
        ((9,), [3], 11, {"strides": [2]}),
        ((4, 5, 6), [2, 2, 3], 11, {"strides": [2, 1, 2]}),
    ]
] + [
    case("AveragePool", live(1, 2, 7, 8), opset=11, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    case(
        "AveragePool", live(1, 2, 7, 8), opset=19, kernel_shape=[3, 3], strides=[3, 3], pads=[1, 0, 1, 0], count_include_pad=1, ceil_mode=1
    ),
    case(
        "AveragePool", live(1, 2, 8, 8), opset=19, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=0, ceil_mode=1
    ),
]

MOVEMENT = [
    case("Reshape", live(2, 3, 4), ints(0, -1)),
    case("Reshape", live(2, 3, 4), ints(4, 3, 2)),
    case("Flatten", live(2, 3, 4)),
    case("Flatten", live(2, 3, 4), axis=0),
    case("Flatten", live(2, 3, 4), axis=-1),
    case("Flatten", live(2, 3, 4), axis=3),
    case("Squeeze", live(1, 3, 1), opset=11),
    case("Squeeze", live(1, 3, 1), opset=11, axes=[2]),
    case("Squeeze", live(1, 3, 1), ints(-1)),
    case("Unsqueeze", live(3, 4), opset=11, axes=[0, 3]),
    case("Unsqueeze", live(3, 4), ints(1, -1)),
    case("Transpose", live(2, 3, 4)),
    case("Transpose", live(2, 3, 4), perm=[1, 0, 2]),
    case("Expand", live(3, 1), ints(2, 1, 4)),
    case("Expand", live(3, 4), ints(1)),
    case("Tile", live(2, 3), ints(2, 3)),
    case("Concat", live(2, 3), f(2, 1), live(2, 2), axis=1),
    case("Concat", live(2, 3), live(1, 3), axis=-2),
    case("Slice", live(5, 6), opset=9, starts=[1, -3], ends=[4, 100], axes=[0, 1]),
    case("Slice", live(5, 6), ints(1, -1), ints(4, -100), ints(0, 1), ints(1, -2)),
    case("Slice", live(5, 6), ints(2), ints(2**63 - 1), ints(-1)),
    case("Slice", live(5, 6), ints(0, 1), ints(3, 5)),
    case("Slice", live(5, 6), ints(0, -100), ints(9, -100), ints(0, 1), ints(2, -2)),
    case("Gather", live(4, 5), ints([1, -1], [0, 2]), axis=1),
    case("Gather", live(4, 5), np.array(2, np.int64)),
    case("GatherElements", live(3, 4), ints([0, -1, 1, 2], [2, 0, 0, 1]), axis=0),
    case("GatherND", live(3, 4, 2), ints([0, 1], [2, -1])),
    case("ScatterND", live(4, 3), ints([1], [3]), live(2, 3)),
    case("ScatterND", f(4, 3), ints([1, 0], [3, 2]), live(2)),
    case("ScatterElements", live(3, 3), ints([1, 0, 2], [0, 2, 1]), live(2, 3), axis=0, opset=18),
    case("Trilu", live(2, 4, 4)),
    case("Trilu", live(3, 4), np.array(-1, np.int64), upper=0),
    case("Pad", live(2, 3), opset=9, pads=[0, 1, 2, 0], value=1.5),
    case("Pad", live(1, 1, 4, 5), opset=9, pads=[0, 0, 2, 1, 0, 0, 1, 3], mode="reflect"),
    case("Pad", live(2, 3), ints(0, 1, 2, 0), scalar(-2.0)),
    case("Pad", live(4, 5), ints(-1, 1, 0, -2)),
    case("Pad", live(4, 5), ints(1, 2, 1, 3), None, mode="edge"),
    case("Pad", live(4, 5), ints(3, 2, 1, 4), None, mode="reflect"),
    case("Pad", live(4, 5), ints(2, 3), None, ints(-1), opset=18, mode="edge"),
    case("Pad", live(4, 5), ints(2, 3, 1, 5), opset=19, mode="wrap"),
    case("DepthToSpace", live(1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", live(2, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", live(2, 3, 4, 6), blocksize=2),
    case("Split", live(6, 2), outputs=("a", "b", "c"), opset=11),
    case("Split", live(2, 6), outputs=("a", "b"), opset=11, axis=1, split=[2, 4]),
    case("Split", live(2, 6), ints(1, 5), outputs=("a", "b"), axis=-1),
    case("Split", live(7, 2), outputs=("a", "b", "c"), opset=18, num_outputs=3),
    case("TopK", live(2, 5), ints(5), outputs=("y", "_")),
    case("TopK", live(4, 5), ints(2), outputs=("y", "_"), axis=0, largest=0),
]

RESIZE = [
    case("Upsample", live(1, 2, 3, 4), opset=7, scales=[1.0, 1.0, 2.0, 3.0]),
    case("Upsample", live(1, 2, 3, 4), array(1, 1, 2, 2), opset=9, mode="linear"),
    case("Resize", live(1, 2, 3, 4), array(1, 1, 2, 2), opset=10),
    case("Resize", live(1, 2, 6, 4), array(1, 1, 0.5, 1.6), opset=10, mode="linear"),
    *[
        case(
            "Resize",
            live(1, 2, 4, 5),
            None,
            array(1, 1, 2.0, 1.7),
            opset=13,
            mode="nearest",
            coordinate_transformation_mode=c,
            nearest_mode=m,
        )
        for c in ("half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners")
        for m in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ],
    *[
        case("Resize", live(1, 2, 4, 5), None, None, ints(1, 2, 7, 8), opset=13, mode=k, coordinate_transformation_mode=c)
        for k in ("linear", "cubic")
        for c in ("half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners")
    ],
    case("Resize", live(1, 2, 8, 9), None, array(1, 1, 0.5, 0.4), opset=13, mode="linear"),
    case("Resize", live(1, 2, 8, 9), None, array(1, 1, 0.5, 1.4), opset=13, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    case("Resize", live(1, 2, 4, 5), None, array(1.5, 2.2), opset=18, mode="linear", axes=[2, 3]),
    case(
        "Resize",
        live(1, 2, 4, 5),
        None,
        array(1, 1, 1.3, 2.3),
        opset=19,
        mode="linear",
        coordinate_transformation_mode="half_pixel_symmetric",
    ),
]

REDUCE = [
    *[
        case(op, live(2, 3, 4, low=low), opset=13, **attributes)
        for op, low in [
            ("ReduceMean", -3.0), ("ReduceMax", -3.0), ("ReduceMin", -3.0), ("ReduceL1", -3.0), ("ReduceL2", -3.0),
            ("ReduceSumSquare", -3.0),
            ("ReduceLogSum", 0.1), ("ReduceLogSumExp", -3.0), ("ReduceProd", -3.0),
        ]
        for attributes in ({}, {"axes": [1], "keepdims": 0}, {"axes": [0, -1]})
    ],
    case("ReduceSum", live(2, 3, 4), opset=11, axes=[1], keepdims=0),
    case("ReduceSum", live(2, 3, 4), ints(0, 2)),
    case("ReduceSum", live(2, 3, 4), noop_with_empty_axes=1),
    case("ReduceMean", live(2, 3, 4), ints(-1), opset=18, keepdims=0),
    case("ReduceMax", live(2, 3, 4), ints(0), opset=18),
    case("ReduceL2", live(2, 3, 4), ints(0), opset=18),
]  # fmt: skip

ALL = [*ACTIVATIONS, *ARITHMETIC, *LAYERS, *POOLS, *MOVEMENT, *RESIZE, *REDUCE]


@pytest.mark.parametrize("tested", ALL, ids=lambda c: f"{c.op}-{c.opset}")
def test_agrees_with_onnxruntime(tested: Case, tmp_path: Path) -> None:
    ranges = {f"i{i}": given for i, given in enumerate(tested.inputs) if isinstance(given, Live)}
    agree(tested.model(), ranges, tmp_path)


# Reductions took their axes as an attribute, and GroupNormalization a scale for each group, in older versions.
NEWEST = [
    c
    for c in ALL
    if c.opset >= 13 and not (c.op.startswith("Reduce") and "axes" in c.attributes) and not (c.op == "GroupNormalization" and c.opset < 21)
]


@pytest.mark.parametrize("tested", NEWEST, ids=lambda c: c.op)
def test_the_newest_version_agrees_too(tested: Case, tmp_path: Path) -> None:
    ranges = {f"i{i}": given for i, given in enumerate(tested.inputs) if isinstance(given, Live)}
    agree(replace(tested, opset=24).model(), ranges, tmp_path)


FOLDED = [
    case("Relu", f(3, 4)), case("Sqrt", np.abs(f(4))), case("Conv", f(1, 2, 5, 5), f(3, 2, 3, 3)), case("Softmax", f(2, 3)),
    case("Add", ints(3), ints(4)), case("Div", ints(-7, 7, 8), ints(2, -2, 3)), case("Mod", ints(-7, 7), ints(3, -3)),
    case("Mod", ints(-7, 7), ints(3, -3), fmod=1), case("Mod", f(3), f(3), fmod=1), case("Floor", f(5)), case("Ceil", f(5)),
    case("Round", array(0.5, 1.5, -0.5, 2.4)), case("Sign", f(5)), case("Equal", ints(1, 2), ints(1, 3)), case("Less", f(3), f(3)),
    case("Greater", f(3), f(3)), case("LessOrEqual", f(3), f(3)), case("GreaterOrEqual", f(3), f(3)), case("Not", np.array([True, False])),
    case("And", np.array([True, False]), np.array([True, True])), case("Or", np.array([True, False]), np.array([False, False])),
    case("Xor", np.array([True, False]), np.array([True, True])), case("Range", *(np.array(v, np.int64) for v in (2, 9, 3))),
    case("Range", *(np.array(v, np.float32) for v in (2, -1, -0.5))), case("ConstantOfShape", ints(2, 3)),
    case("ConstantOfShape", ints(2), value=numpy_helper.from_array(np.array([4.5], np.float32))), case("NonZero", ints([0, 1], [2, 3])),
    case("OneHot", ints(0, -1, 2), np.array(3, np.int64), array(-1, 2), axis=0), case("ArgMax", f(3, 4), axis=1),
    case("ArgMin", f(3, 4), keepdims=0),
    case("Cast", array(1.7, -1.7), to=TensorProto.INT64), case("Cast", ints(0, 3), to=TensorProto.BOOL),
    case("Shape", f(2, 3), opset=15, start=1),
    case("Size", f(2, 3)), case("Concat", ints(1), ints(2, 3), axis=0), case("Slice", ints(4, 5, 6), ints(-1), ints(-9), ints(0), ints(-1)),
    case("Where", np.array([True, False]), ints(1, 2), ints(3, 4)), case("Pow", ints(2, 3), ints(3, 2)),
    case("Pow", array(2, 3), ints(3, 2)),
    case("ReduceProd", ints(2, 3, 4), keepdims=0), case("ReduceMax", ints(2, 3, 4)), case("ReduceSum", ints([2, 3], [4, 5]), ints(1)),
    case("CumSum", ints(1, 2, 3), np.array(0, np.int64)), case("Expand", ints([1], [2]), ints(2, 3)), case("Tile", ints(1, 2), ints(2)),
    case("Gather", ints(5, 6, 7), np.array(-1, np.int64)), case("Unsqueeze", ints(5), ints(0)), case("Min", ints(4, 5), ints(5, 4)),
    case("MatMul", f(2, 3), f(3, 2)), case("EyeLike", f(2, 3), k=1), case("Trilu", f(3, 3), upper=0), case("IsNaN", f(3)),
    case("Neg", ints(3)),
    case("Abs", ints(-3)), case("Gemm", f(2, 3), f(3, 2), f(2)), case("Identity", ints(3)), case("ReduceMean", f(3, 4), axes=[0]),
    case("Pad", ints(1, 2), ints(1, 1), np.array(7, np.int64)), case("ScatterND", ints(1, 2, 3), ints([1]), ints(9)),
]  # fmt: skip


@pytest.mark.parametrize("tested", FOLDED, ids=lambda c: c.op)
@pytest.mark.parametrize("constants_as_nodes", [False, True], ids=["initializers", "nodes"])
def test_constants_are_evaluated(tested: Case, constants_as_nodes: bool, tmp_path: Path) -> None:
    # The result is cast and broadcast against the input, so that a live value comes out.
    model = tested.model(constants_as_nodes)
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ()))
    model.graph.node.append(helper.make_node("Cast", ["y"], ["float"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Add", ["float", "x"], ["z"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    agree(model, {"x": live()}, tmp_path, 1e-6)


def recurrent(op: str, gates: int, ways: int, *, biased: bool = True, states: int = 0, outputs: tuple[str, ...] = ("y",), **more: Any):
    hidden, inputs, batch = 3, 2, 2
    shape = (batch, ways, hidden) if more.get("layout") else (ways, batch, hidden)
    given = [f(ways, 2 * gates * hidden) if biased else None, None, *(f(*shape) for _ in range(states))]
    direction = {} if ways == 1 else {"direction": "bidirectional"}
    x = live(*((batch, 4) if more.get("layout") else (4, batch)), inputs)
    weights = f(ways, gates * hidden, inputs), f(ways, gates * hidden, hidden)
    return case(op, x, *weights, *given, outputs=outputs, hidden_size=hidden, **direction, **more)


RECURRENT = [
    recurrent("RNN", 1, 1),
    recurrent("RNN", 1, 1, direction="reverse", states=1),
    recurrent("RNN", 1, 2, biased=False, outputs=("y", "h")),
    recurrent("GRU", 3, 1, outputs=("_", "h")),
    recurrent("GRU", 3, 2, linear_before_reset=1, states=1),
    recurrent("GRU", 3, 1, direction="reverse", outputs=("y", "h")),
    recurrent("LSTM", 4, 1, outputs=("y", "h", "c")),
    recurrent("LSTM", 4, 2, states=2, outputs=("_", "h", "c")),
    recurrent("LSTM", 4, 1, biased=False, activations=["Sigmoid", "Tanh", "Tanh"]),
]


@pytest.mark.parametrize("tested", RECURRENT, ids=lambda c: c.op)
def test_recurrent_layers_are_unrolled(tested, tmp_path):
    agree(tested.model(), {"i0": tested.inputs[0]}, tmp_path)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers_with_the_batch_first(op, tmp_path):
    # onnxruntime does not take them: held against the same layer with the sequence first.
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    plain = recurrent(op, gates, 2, states=1 + (op == "LSTM"), outputs=("y", "h"))
    turned = replace(
        plain,
        inputs=(live(2, 4, 2), *plain.inputs[1:5], *(v.transpose(1, 0, 2) for v in plain.inputs[5:])),
        attributes={**plain.attributes, "layout": 1},
    )
    x = torch.from_numpy(RANDOM.normal(size=(4, 2, 2)))
    found = []
    for number, tested in enumerate((plain, turned)):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(tested.model().SerializeToString())
        graph = read_onnx(path)
        found.append(graph.evaluate(x.permute(1, 0, 2) if number else x).flatten())
    first, second = (torch.split(v, [4 * 2 * 2 * 3, 2 * 2 * 3]) for v in found)
    assert torch.allclose(first[0].reshape(4, 2, 2, 3).permute(2, 0, 1, 3), second[0].reshape(2, 4, 2, 3), rtol=1e-12)
    assert torch.allclose(first[1].reshape(2, 2, 3).permute(1, 0, 2), second[1].reshape(2, 2, 3), rtol=1e-12)


REFUSED = [
    (case("Sign", live(3)), "Lipschitz"),
    (case("ArgMax", live(3)), "Lipschitz"),
    (case("Floor", live(3)), "Lipschitz"),
    (case("Round", live(3)), "Lipschitz"),
    (case("Greater", live(3), live(3)), "true or false"),
    (case("Equal", live(3), f(3)), "true or false"),
    (case("NonZero", live(3)), "leaps"),
    (case("Hardmax", live(3)), "leaps"),
    (case("Cast", live(3), to=TensorProto.INT64), "INT64"),
    (case("Cast", live(3), to=TensorProto.BOOL), "BOOL"),
    (case("ThresholdedRelu", live(3)), "leaps"),
    (case("Shrink", live(3), lambd=0.5, bias=0.0), "leaps"),
    (case("TopK", live(3), ints(2), outputs=("y", "i")), "positions"),
    (case("TopK", live(3), ints(2), outputs=("y", "_"), sorted=0), "order"),
    (case("LRN", live(1, 3, 4, 4), size=3), "not understood"),
    (case("LSTM", live(1, 1, 2), f(1, 8, 2), f(1, 8, 2), None, None, None, None, f(1, 6), hidden_size=2), "peepholes"),
    (case("LSTM", live(1, 1, 2), f(1, 8, 2), f(1, 8, 2), hidden_size=2, input_forget=1), "coupled"),
    (case("GRU", live(3, 1, 2), f(1, 6, 2), f(1, 6, 2), None, np.array([2], np.int32), hidden_size=2), "sequence_lens"),
    (case("RNN", live(3, 1, 2), f(1, 2, 2), f(1, 2, 2), hidden_size=2, activations=["Relu"]), "activations"),
    (case("RNN", live(3, 1, 2), f(1, 2, 2), f(1, 2, 2), hidden_size=2, clip=1.0), "clip"),
    (case("RNN", live(600, 1, 1), f(1, 1, 1), f(1, 1, 1), hidden_size=1), "600 steps"),
    (case("Where", live(3), live(3), live(3)), "condition"),
    (case("Conv", live(1, 1, 3), live(1, 1, 2)), "weight"),
    (case("Conv", live(1, 1, 9), f(1, 1, 1), strides=[3], auto_pad="SAME_UPPER"), "explicit pads"),
    (case("Pow", live(3), array(1, 2, 3)), "exponents"),
    (case("Pow", live(3), live(3)), "both"),
    (case("Pow", array(-1.0), live(3)), "positive"),
    (case("Div", live(3), array(0.0)), "zero"),
    (case("MaxPool", live(1, 1, 4), kernel_shape=[2], outputs=("y", "i")), "output number 2"),
    (case("MaxPool", live(1, 1, 1), kernel_shape=[2], dilations=[2], pads=[1, 1]), "padding alone"),
    (case("BatchNormalization", live(2, 3), f(3), f(3), f(3), -np.ones(3, np.float32)), "positive"),
    (case("BatchNormalization", live(2, 3), f(3), f(3), f(3), np.ones(3, np.float32), training_mode=1), "training"),
    (case("Dropout", live(3), scalar(0.5), np.array(True)), "training"),
    (case("Einsum", live(2, 2), equation="ii->i"), "twice"),
    (case("Einsum", live(2, 2), equation="...i->i"), "ellipsis"),
    (
        case("Resize", live(1, 1, 4, 4), f(8), array(1, 1, 2, 2), mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
        "tf_crop",
    ),
    (case("Resize", live(1, 1, 4, 4), None, array(1, 1, 0.5, 0.5), opset=18, mode="linear", antialias=1), "antialias"),
    (case("Relu", live(3), strange=1), "strange"),
    (case("Relu", live(3), f(3)), "input number 2"),
    (case("GatherND", live(2, 3), ints([0], [1]), batch_dims=1), "batch_dims"),
    (case("ScatterND", live(4), ints([1]), live(1), opset=18, reduction="add"), "reduction"),
    (case("RandomNormalLike", live(3)), "random"),
    (case("Frobnicate", live(3)), "not among the operators"),
    (case("Pad", live(3), ints(1, 1), scalar(np.inf)), "pads with inf"),
    (case("LpNormalization", live(3), p=3), "p is 3"),
]


@pytest.mark.parametrize(("tested", "why"), REFUSED, ids=[f"{c.op}-{w}" for c, w in REFUSED])
def test_refused_by_name(tested: Case, why: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tested.model().SerializeToString())
    with pytest.raises(UnsupportedOperatorError, match=why) as caught:
        read_onnx(path)
    assert caught.value.operator == tested.op
    assert caught.value.where == "tested"


DAMAGED = [
    case("MatMul", live(2, 3), f(4, 2)),
    case("Gemm", live(2, 3), f(4, 2)),
    case("Gemm", live(2, 3), f(3, 2), f(5)),
    case("Add", live(3), f(4)),
    case("Conv", live(1, 3, 5), f(2, 4, 3)),
    case("Conv", live(1, 3, 2), f(2, 3, 5)),
    case("Conv", live(1, 3, 5), f(2, 3, 3), f(3)),
    case("Conv", live(1, 3, 5), f(2, 3, 3), strides=[0]),
    case("ConvTranspose", live(1, 3, 5), f(2, 3, 3)),
    case("MaxPool", live(1, 3, 5), kernel_shape=[7]),
    case("Reshape", live(2, 3), ints(4, 2)),
    case("Reshape", live(2, 3), ints(-1, -1)),
    case("Transpose", live(2, 3), perm=[0, 0]),
    case("Concat", live(2, 3), live(3, 3), axis=1),
    case("Gather", live(2, 3), ints(5)),
    case("Slice", live(3), ints(0), ints(1), ints(4)),
    case("Squeeze", live(2, 3), ints(0)),
    case("Split", live(5), ints(1, 1), outputs=("a", "b")),
    case("Split", live(6), outputs=("a", "b"), opset=18, num_outputs=3),
    case("MaxPool", live(1, 3, 5), kernel_shape=[2], ceil_mode=2),
    case("Softmax", live(2, 3), axis=5),
    case("Einsum", live(2, 3), live(2, 3), equation="ij,jk->ik"),
    case("BatchNormalization", live(2, 3), f(4), f(4), f(4), np.ones(4, np.float32)),
    case("LayerNormalization", live(2, 3), f(4)),
    case("Expand", live(2, 1), ints(2, 2**40)),
    case("Tile", live(2, 1), ints(2**30, 2**30)),
    case("Pad", live(2), ints(2**40, 0)),
    case("Add", live(100000, 1), live(1, 100000)),
    case("Resize", live(1, 1, 4, 4), None, array(1, 1, 1e9, 1e9)),
    case("Relu"),
]


@pytest.mark.parametrize("tested", DAMAGED, ids=lambda c: c.op)
def test_a_node_that_does_not_fit_is_said_so(tested: Case, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tested.model().SerializeToString())
    with pytest.raises(ModelError):
        read_onnx(path)


@pytest.mark.parametrize("op", ["Constant", "Range", "ConstantOfShape"])
def test_constants_of_astronomic_size_are_refused_before_they_are_made(op: str, tmp_path: Path) -> None:
    inputs = {"Constant": (), "Range": tuple(np.array(v, np.int64) for v in (0, 2**60, 1)), "ConstantOfShape": (ints(2**30, 2**30),)}[op]
    attributes = {"value": TensorProto(data_type=TensorProto.FLOAT, dims=[2**30, 2**30])} if op == "Constant" else {}
    path = tmp_path / "model.onnx"
    model = case(op, *inputs, **attributes).model()
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, (1,)))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError):
        read_onnx(path)


def test_attributes_left_out_have_float32_defaults(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(case("LeakyRelu", live(1)).model().SerializeToString())
    assert read_onnx(path).evaluate(torch.tensor([-1.0], dtype=torch.float64)).item() == -float(np.float32(0.01))


def test_output_padding_beyond_the_stride(tmp_path: Path) -> None:
    # onnxruntime refuses what ONNX allows here; PyTorch computes it.
    weight, bias = f(2, 3, 3), f(3)
    path = tmp_path / "model.onnx"
    tested = case("ConvTranspose", live(1, 2, 5), weight, bias, strides=[1], dilations=[3], pads=[1, 1], output_padding=[2])
    path.write_bytes(tested.model().SerializeToString())
    x = torch.randn(1, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv_transpose1d(x, torch.tensor(weight).double(), torch.tensor(bias).double(), 1, 1, 2, 1, 3)
    torch.testing.assert_close(read_onnx(path).evaluate(x), expected)


@pytest.mark.parametrize(("mode", "kind"), [("constant", None), ("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")])
def test_padding_before_a_convolution_is_captured_with_it(mode, kind, tmp_path):
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, 2, 2, 3)).astype(np.float32), "w")
    pads = numpy_helper.from_array(np.array([0, 0, 0, 1, 0, 0, 0, 2]), "pads")
    nodes = [helper.make_node("Pad", ["x", "pads"], ["p"], mode=mode), helper.make_node("Conv", ["p", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 4, 5))
    graph = helper.make_graph(nodes, "one", [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, 3, 6))], [weight, pads])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), tmp_path / "m.onnx")
    conv = read_onnx(tmp_path / "m.onnx").nodes[1].op
    assert (conv.code, conv.modes, conv.padding) == ("conv", ("zeros", kind) if kind else (), ((0, 0), (1, 2)))
