"""QOperator models and their QDQ rewrites give the same codes in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.graph import model_from_text
from edgec.compiler.frontend.load import load
from edgec.compiler.frontend.qoperator import RULES, rewrite_qoperators
from edgec.compiler.frontend.reference import Reference

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> m '
Array = NDArray[Any]


def scalar(x: float, dtype: type[np.generic] = np.float32) -> Array:
    return np.array(x, dtype)


def codes(*shape: int, dtype: Any = np.uint8) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(7).integers(info.min, info.max + 1, shape).astype(dtype)


def weight(*shape: int) -> Array:
    """Return 7-bit codes: with 8, ONNX Runtime's own uint8 x int8 kernels saturate on AVX2."""
    return np.random.default_rng(8).integers(-64, 65, shape).astype(np.int8)


U = {
    "xs": scalar(0.02),
    "xz": scalar(120, np.uint8),
    "ys": scalar(0.031),
    "yz": scalar(9, np.uint8),
}
S = {"xs": scalar(0.02), "xz": scalar(-3, np.int8), "ys": scalar(0.05), "yz": scalar(11, np.int8)}
BOTH = {**U, "bs": scalar(0.013), "bz": scalar(131, np.uint8)}
CHANNELS = {
    "w": weight(6, 4, 3, 3),
    "ws": np.linspace(0.001, 0.009, 6, dtype=np.float32),
    "wz": np.zeros(6, np.int8),
}
MATRIX = {"w": weight(8, 5), "ws": scalar(0.004), "wz": scalar(0, np.int8)}
COLUMNS = {
    "w": weight(8, 5),
    "ws": np.linspace(0.001, 0.009, 5, dtype=np.float32),
    "wz": np.zeros(5, np.int8),
}
BIAS = {"b": np.arange(-300, 300, 100, dtype=np.int32)}

# id: (graph, constants, shapes of the inputs x and, if read, x2)
STATIC: dict[str, tuple[str, dict[str, Array], list[tuple[int, ...]]]] = {
    "conv-per-channel": (
        "(uint8[1,4,7,7] x) => (uint8[1,6,4,4] y) "
        "{ y = QLinearConv <pads=[1,1,1,1], strides=[2,2]> (x, xs, xz, w, ws, wz, ys, yz, b) }",
        {**U, **CHANNELS, **BIAS},
        [(1, 4, 7, 7)],
    ),
    "conv-int8-one-scale-auto-pad": (
        "(int8[1,4,7,7] x) => (int8[1,6,7,7] y) "
        '{ y = QLinearConv <auto_pad="SAME_UPPER"> (x, xs, xz, w, ws, wz, ys, yz) }',
        {**S, **CHANNELS, "ws": np.full(1, 0.004, np.float32), "wz": np.full(1, 5, np.int8)},
        [(1, 4, 7, 7)],
    ),
    "conv-depthwise": (
        "(uint8[1,4,7,7] x) => (uint8[1,4,5,5] y) "
        "{ y = QLinearConv <group=4> (x, xs, xz, w, ws, wz, ys, yz) }",
        {
            **U,
            "w": weight(4, 1, 3, 3),
            "ws": np.linspace(0.002, 0.01, 4, dtype=np.float32),
            "wz": np.zeros(4, np.int8),
        },
        [(1, 4, 7, 7)],
    ),
    "matmul": (
        "(uint8[2,8] x) => (uint8[2,5] y) { y = QLinearMatMul (x, xs, xz, w, ws, wz, ys, yz) }",
        {**U, **MATRIX},
        [(2, 8)],
    ),
    "matmul-per-column": (
        "(uint8[3,2,8] x) => (uint8[3,2,5] y) { y = QLinearMatMul (x, xs, xz, w, ws, wz, ys, yz) }",
        {**U, **COLUMNS},
        [(3, 2, 8)],
    ),
    "add": (
        "(uint8[2,8] x, uint8[2,8] x2) => (uint8[2,8] y) "
        "{ y = com.microsoft.QLinearAdd (x, xs, xz, x2, bs, bz, ys, yz) }",
        BOTH,
        [(2, 8), (2, 8)],
    ),
    "mul": (
        "(uint8[2,8] x, uint8[2,8] x2) => (uint8[2,8] y) "
        "{ y = com.microsoft.QLinearMul (x, xs, xz, x2, bs, bz, ys, yz) }",
        BOTH,
        [(2, 8), (2, 8)],
    ),
    "average-pool": (
        "(uint8[1,3,7,7] x) => (uint8[1,3,4,4] y) { y = com.microsoft.QLinearAveragePool "
        "<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x, xs, xz, ys, yz) }",
        U,
        [(1, 3, 7, 7)],
    ),
    "global-average-pool": (
        "(int8[1,3,7,7] x) => (int8[1,3,1,1] y) "
        "{ y = com.microsoft.QLinearGlobalAveragePool (x, xs, xz, ys, yz) }",
        {**S, "ys": scalar(0.007)},
        [(1, 3, 7, 7)],
    ),
    "concat": (
        "(uint8[2,8] x, uint8[2,3] x2) => (uint8[2,11] y) "
        "{ y = com.microsoft.QLinearConcat <axis=1> (ys, yz, x, xs, xz, x2, bs, bz) }",
        BOTH,
        [(2, 8), (2, 3)],
    ),
    "sigmoid": (
        "(uint8[2,8] x) => (uint8[2,8] y) { y = com.microsoft.QLinearSigmoid (x, xs, xz, ys, yz) }",
        {**U, "xs": scalar(0.05), "ys": scalar(1 / 256), "yz": scalar(0, np.uint8)},
        [(2, 8)],
    ),
    "leaky-relu": (
        "(uint8[2,8] x) => (uint8[2,8] y) "
        "{ y = com.microsoft.QLinearLeakyRelu <alpha=0.3> (x, xs, xz, ys, yz) }",
        {**U, "yz": scalar(60, np.uint8)},
        [(2, 8)],
    ),
    "softmax": (
        "(uint8[2,8] x) => (uint8[2,8] y) "
        "{ y = com.microsoft.QLinearSoftmax <axis=1, opset=12> (x, xs, xz, ys, yz) }",
        {**U, "ys": scalar(1 / 256), "yz": scalar(0, np.uint8)},
        [(2, 8)],
    ),
    "gemm": (
        "(uint8[2,8] x) => (uint8[2,5] y) { y = com.microsoft.QGemm <alpha=0.5, transB=1> "
        "(x, xs, xz, w, ws, wz, b, ys, yz) }",
        {
            **U,
            "w": weight(5, 8),
            "ws": np.linspace(0.001, 0.009, 5, dtype=np.float32),
            "wz": np.zeros(5, np.int8),
            "b": np.arange(-300, 200, 100, dtype=np.int32),
        },
        [(2, 8)],
    ),
}


def build(graph: str, constants: dict[str, Array]) -> ir.Model:
    """Parse a model whose domain com.microsoft the ONNX checker knows nothing about."""
    proto = onnx.parser.parse_model(HEAD + graph)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    return ir.from_proto(proto)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def feeds_of(model: ir.Model, shapes: list[tuple[int, ...]]) -> dict[str, Array]:
    return {
        str(v.name): codes(*shape, dtype=v.dtype.numpy())
        for v, shape in zip(model.graph.inputs, shapes, strict=True)
        if v.dtype is not None
    }


@pytest.mark.parametrize("case", STATIC)
def test_codes_are_within_one_step_of_the_qoperator(case: str) -> None:
    graph, constants, shapes = STATIC[case]
    before = build(graph, constants)
    after = before.clone()
    outcome = rewrite_qoperators(after)
    assert len(outcome.changed) == 1 and not outcome.declined
    assert not any(op.startswith("QL") or op == "QGemm" for op in ops(after))
    assert ops(after)[-1] == "QuantizeLinear"
    feeds = feeds_of(before, shapes)
    want = Reference(before).run(feeds)["y"].astype(int)
    got = Reference(after).run(feeds)["y"].astype(int)
    assert np.ptp(want) > 2, "the case must produce different codes"
    assert np.abs(got - want).max() <= 1
    assert after.graph.outputs[0].dtype == before.graph.outputs[0].dtype


def test_encodings_are_kept_exactly() -> None:
    graph, constants, _ = STATIC["conv-per-channel"]
    model = build(graph, constants)
    rewrite_qoperators(model)
    (conv,) = [n for n in model.graph if n.op_type == "Conv"]
    x, w, b = (v.producer() for v in conv.inputs if v is not None)
    assert x is not None and w is not None and b is not None
    stored = [v.const_value.numpy() for v in w.inputs if v is not None and v.const_value]
    np.testing.assert_array_equal(stored[0], constants["w"])
    np.testing.assert_array_equal(stored[1], constants["ws"])
    assert w.attributes.get_int("axis", -9) == 0
    bias_scale = b.inputs[1]
    assert bias_scale is not None and bias_scale.const_value is not None
    want = constants["xs"] * constants["ws"]
    np.testing.assert_array_equal(bias_scale.const_value.numpy(), want)
    assert model.graph.outputs[0].name == "y"


def test_every_rule_has_a_case() -> None:
    text = " ".join(graph for graph, _, _ in STATIC.values()) + WHERE + DYNAMIC + FUSED + TO_FLOAT
    text += CONV_INTEGER
    assert {op for _, op in RULES if f"{op} " not in text} == set()


WHERE = (
    "(bool[2,8] c, uint8[2,8] x, uint8[2,8] x2) => (uint8[2,8] y) "
    "{ y = com.microsoft.QLinearWhere (c, x, xs, xz, x2, bs, bz, ys, yz) }"
)


def test_where() -> None:
    model = build(WHERE, BOTH)
    after = model.clone()
    assert rewrite_qoperators(after).changed
    rng = np.random.default_rng(1)
    feeds: dict[str, Array] = {
        "c": rng.integers(0, 2, (2, 8)).astype(bool),
        "x": rng.integers(0, 256, (2, 8)).astype(np.uint8),
        "x2": rng.integers(0, 256, (2, 8)).astype(np.uint8),
    }
    want, got = Reference(model).run(feeds)["y"], Reference(after).run(feeds)["y"]
    assert np.abs(got.astype(int) - want).max() <= 1


DYNAMIC = """(float[4,8] x) => (float[4,5] y) {
  q, s, z = DynamicQuantizeLinear (x)
  acc = MatMulInteger (q, w, z, wz)
  real = Cast <to=1> (acc)
  scales = Mul (s, ws)
  scaled = Mul (real, scales)
  y = Add (scaled, bias)
}"""
CONV_INTEGER = """(float[1,4,7,7] x) => (float[1,6,5,5] y) {
  q, s, z = DynamicQuantizeLinear (x)
  acc = ConvInteger (q, w, z, wz)
  real = Cast <to=1> (acc)
  scales = Mul (s, ws)
  y = Mul (scales, real)
}"""
FUSED = """(float[4,8] x) => (float[4,5] y) {
  y = com.microsoft.DynamicQuantizeMatMul (x, w, ws, wz, bias)
}"""
TO_FLOAT = """(uint8[4,8] x) => (float[4,5] y) {
  y = com.microsoft.MatMulIntegerToFloat (x, w, xs, ws, xz, wz, bias)
}"""
FLOAT_BIAS = {"bias": np.linspace(-1, 1, 5, dtype=np.float32)}


@pytest.mark.parametrize(
    ("graph", "constants", "shape", "op"),
    [
        pytest.param(DYNAMIC, {**COLUMNS, **FLOAT_BIAS}, (4, 8), "MatMul", id="matmul"),
        pytest.param(FUSED, {**COLUMNS, **FLOAT_BIAS}, (4, 8), "MatMul", id="fused"),
        pytest.param(
            CONV_INTEGER,
            {"w": CHANNELS["w"], "ws": scalar(0.004), "wz": scalar(3, np.int8)},
            (1, 4, 7, 7),
            "Conv",
            id="conv",
        ),
    ],
)
def test_run_time_quantisation_becomes_a_float_activation(
    graph: str, constants: dict[str, Array], shape: tuple[int, ...], op: str
) -> None:
    before = build(graph, constants)
    after = before.clone()
    outcome = rewrite_qoperators(after)
    assert [n for n in outcome.changed if "quantised at run time" in n.text]
    assert op in ops(after) and ops(after).count("DequantizeLinear") == 1
    assert not {"DynamicQuantizeLinear", "Cast", "Mul"} & set(ops(after)), "the chain is gone"
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    want, got = Reference(before).run({"x": x})["y"], Reference(after).run({"x": x})["y"]
    # The original rounds x to 255 steps; each product is off by at most half a step times |w|.
    matrix = constants["w"].astype(np.float32) * np.max(constants["ws"])
    step = (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / 255
    bound = 0.5 * step * float(np.abs(matrix).reshape(matrix.shape[0], -1).sum())
    assert 0 < np.abs(got - want).max() < bound


def test_matmul_integer_to_float_with_a_constant_scale_stays_static() -> None:
    before = build(TO_FLOAT, {**U, **COLUMNS, **FLOAT_BIAS})
    after = before.clone()
    assert "encodings kept" in rewrite_qoperators(after).changed[0].text
    x = {"x": codes(4, 8)}
    want, got = Reference(before).run(x)["y"], Reference(after).run(x)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_two_readers_share_one_dequantisation() -> None:
    graph = """(uint8[2,8] x) => (uint8[2,8] y, uint8[2,8] y2) {
      y = com.microsoft.QLinearSigmoid (x, xs, xz, ys, yz)
      y2 = com.microsoft.QLinearLeakyRelu (x, xs, xz, ys, yz)
    }"""
    model = build(graph, U)
    rewrite_qoperators(model)
    assert ops(model).count("DequantizeLinear") == 1


def test_missing_zero_points_are_zero() -> None:
    graph = (
        "(int8[2,8] x) => (int8[2,8] y) "
        '{ y = com.microsoft.QLinearLeakyRelu <alpha=0.5> (x, xs, "", ys) }'
    )
    model = build(graph, {"xs": scalar(0.02), "ys": scalar(0.03)})
    rewrite_qoperators(model)
    x = codes(2, 8, dtype=np.int8)
    # ONNX Runtime 1.32 crashes on the original, so the definition itself is the reference.
    real = x.astype(np.float32) * np.float32(0.02)
    want = np.rint(np.where(real < 0, real / 2, real) / np.float32(0.03))
    got = Reference(model).run({"x": x})["y"]
    assert got.dtype == np.int8 and np.abs(got - want).max() <= 1


@pytest.mark.parametrize(
    ("graph", "constants", "reason"),
    [
        (
            "(float[4,8] x, float s) => (float[4,5] y) { q = QuantizeLinear (x, xs, xz) "
            "a = MatMulInteger (q, w, xz, wz) r = Cast <to=1> (a) y = Mul (r, s) }",
            {**U, **COLUMNS},
            "product of an input and a weight scale",
        ),
        (
            "(uint8[1,7,7,3] x) => (uint8[1,1,1,3] y) { y = com.microsoft."
            "QLinearGlobalAveragePool <channels_last=1> (x, xs, xz, ys, yz) }",
            U,
            "channels_last",
        ),
        (
            "(uint8[2,8] x, float s) => (uint8[2,8] y) "
            "{ y = com.microsoft.QLinearSigmoid (x, s, xz, ys, yz) }",
            U,
            "not constant",
        ),
        (
            "(uint8[2,8,3] x) => (uint8[2,8,3] y) "
            "{ y = com.microsoft.QLinearSoftmax <axis=1, opset=12> (x, xs, xz, ys, yz) }",
            U,
            "flattens",
        ),
        (
            "(uint8[2,8] x) => (uint8[2,5] y) { y = QLinearMatMul (x, as, xz, w, ws, wz, ys, yz) }",
            {**U, **MATRIX, "as": np.full(2, 0.1, np.float32)},
            "more than one scale",
        ),
    ],
)
def test_declines_with_a_reason_and_leaves_the_graph(
    graph: str, constants: dict[str, Array], reason: str
) -> None:
    model = build(graph, constants)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    outcome = rewrite_qoperators(model)
    assert not outcome.changed and reason in outcome.declined[0].text
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_old_opset_is_declined() -> None:
    proto = onnx.parser.parse_model(HEAD.replace("21", "11") + STATIC["matmul"][0])
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, n) for n, a in STATIC["matmul"][1].items()
    )
    outcome = rewrite_qoperators(ir.from_proto(proto))
    assert not outcome.changed and "opset 11 has no" in outcome.declined[0].text


def test_a_float_model_is_not_touched() -> None:
    model = model_from_text(
        '<ir_version: 10, opset_import: ["" : 21]> m (float[2] X) => (float[2] Y) { Y = Relu (X) }'
    )
    outcome = rewrite_qoperators(model)
    assert not outcome.changed and not outcome.declined


def small_cnn(path: Path) -> None:
    rng = np.random.default_rng(3)
    model = model_from_text(
        """<ir_version: 10, opset_import: ["" : 17]>
        m (float[1,3,8,8] x) => (float[1,5] y) {
          a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
          r = Relu (a)
          b = Conv <pads = [1, 1, 1, 1]> (r, w2)
          s = Add (r, b)
          p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (s)
          g = GlobalAveragePool (p)
          f = Flatten (g)
          y = MatMul (f, w3)
        }""",
        w1=rng.standard_normal((6, 3, 3, 3)).astype(np.float32) * 0.3,
        b1=rng.standard_normal(6).astype(np.float32),
        w2=rng.standard_normal((6, 6, 3, 3)).astype(np.float32) * 0.2,
        w3=rng.standard_normal((6, 5)).astype(np.float32),
    )
    ir.save(model, path)


class Reader:
    """ONNX Runtime's reader protocol over seeded samples."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.left = [rng.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(8)]

    def get_next(self) -> dict[str, Array] | None:
        return {"x": self.left.pop()} if self.left else None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("style", ["QOperator", "QDQ"])
def test_models_of_the_onnx_runtime_quantiser(style: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_static

    small_cnn(tmp_path / "float.onnx")
    quantised = tmp_path / "quantised.onnx"
    quantize_static(
        str(tmp_path / "float.onnx"),
        str(quantised),
        Reader(),  # pyright: ignore[reportArgumentType]
        quant_format=QuantFormat[style],
        per_channel=True,
        reduce_range=True,
    )
    model = load(quantised).model
    outcome = rewrite_qoperators(model)
    assert bool(outcome.changed) == (style == "QOperator") and not outcome.declined
    assert not any("QLinear" in op for op in ops(model))
    x = {"x": np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    want = Reference(quantised).run(x)["y"]
    got = Reference(model).run(x)["y"]
    # One int8 step of the output; steps lost on the way add up to well under a second one.
    assert np.abs(got - want).max() <= 1.01 * np.min(np.diff(np.unique(want)))


@pytest.mark.filterwarnings("ignore")
def test_model_of_the_dynamic_quantiser(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small_cnn(tmp_path / "float.onnx")
    quantised = tmp_path / "quantised.onnx"
    quantize_dynamic(
        str(tmp_path / "float.onnx"), str(quantised), weight_type=QuantType.QInt8, reduce_range=True
    )
    model = load(quantised).model
    outcome = rewrite_qoperators(model)
    assert outcome.changed and not outcome.declined
    assert not {"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"} & set(ops(model))
    x = {"x": np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    want, got = Reference(quantised).run(x)["y"], Reference(model).run(x)["y"]
    np.testing.assert_allclose(got, want, atol=0.03 * float(np.abs(want).max()))
