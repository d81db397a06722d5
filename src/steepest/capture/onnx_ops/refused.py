"""Why well-known ONNX operators are not taken; any other unknown name is refused as such."""

from __future__ import annotations

_LEAPS = "its value leaps, so that it is not a Lipschitz map"
_FLAG = "it turns what depends on the network's input into true or false, which leaps and is not a Lipschitz map"
_RANDOM = "its result is random"
_CONTROL = "control flow that depends on the input is not understood: export the model with torch.export at a fixed shape"
_SEQUENCE = "sequences of tensors are not understood"
_ROUNDS = "it rounds to a grid, which leaps and is not a Lipschitz map: export the network before quantisation"

WHY: dict[str, str] = {
    **dict.fromkeys(
        ("Sign", "Floor", "Ceil", "Round", "ArgMax", "ArgMin", "Hardmax", "OneHot", "NonZero", "Unique", "Mod", "Compress"), _LEAPS
    ),
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "Xor"), _FLAG),
    **dict.fromkeys(("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"), _RANDOM),
    **dict.fromkeys(("If", "Loop", "Scan"), _CONTROL),
    **dict.fromkeys(
        ("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SplitToSequence", "ConcatFromSequence"),
        _SEQUENCE,
    ),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
        _ROUNDS,
    ),
    "LRN": "local response normalisation is not understood",
    "NonMaxSuppression": _LEAPS,
    "MaxRoiPool": "where it pools depends on the network's input",
    "MeanVarianceNormalization": "it divides by a standard deviation without a floor: use InstanceNormalization",
}
"""Reasons by operator."""

UNKNOWN = "it is not among the operators steepest understands (docs/how-to-extend.md says how to add one)"
