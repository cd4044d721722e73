"""Models that arrive quantised: hand-written, unsigned, from ONNX Runtime's quantiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.compiler.core.encoding import TensorEncoding
from edgec.compiler.core.errors import ModelError
from edgec.compiler.core.passbase import Context
from edgec.compiler.core.plan import QuantPlan
from edgec.compiler.frontend.load import load
from edgec.compiler.frontend.opset import upgrade
from edgec.compiler.lowering.lower import lower
from edgec.passes.apply_plan import ApplyPlan
from tests.pairs import Array, Op, Pair, ints, normal, pair, random_feeds, single


def signed(scale: float, zero: int) -> TensorEncoding:
    return TensorEncoding(8, (scale,), (zero,))


def unsigned(scale: float, zero: int) -> TensorEncoding:
    return TensorEncoding(8, (scale,), (zero,), None, False)


def planned(op: Op, **encodings: TensorEncoding) -> ir.Model:
    """Return op's model with Q and DQ exactly where encodings says."""
    model = op.model
    outcome = ApplyPlan().apply(model, Context(plan=QuantPlan().with_encodings(encodings)))
    assert not outcome.declined
    return model


def check(model: ir.Model, worst: int = 1, share: float = 0.99, count: int = 4) -> Pair:
    found = pair(model, [random_feeds(model, seed) for seed in range(count)])
    assert found.worst <= worst
    assert found.share_equal >= share
    return found


CONV = Op(
    "(float[1,4,6,6] X) => (float[1,6,6,6] Y)",
    "C = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (X, W, B) Y = Relu (C)",
    {"W": normal(6, 4, 3, 3), "B": normal(6, seed=1)},
)
PER_CHANNEL = TensorEncoding(8, (0.02, 0.03, 0.025, 0.02, 0.021, 0.018), (0,) * 6, axis=0)


@pytest.mark.parametrize(
    ("x", "w", "y"),
    [
        (signed(0.025, 7), PER_CHANNEL, signed(0.06, -128)),
        (signed(0.025, -128), signed(0.025, 0), signed(0.3, 20)),
        (unsigned(0.025, 120), PER_CHANNEL, unsigned(0.06, 0)),
        (unsigned(0.025, 0), unsigned(0.025, 128), unsigned(0.06, 3)),
        (signed(0.025, 0), signed(0.03, 0), unsigned(0.00005, 10)),  # nearly all saturate
        (signed(0.0001, 0), signed(0.03, 0), signed(2.0, 0)),  # nearly all are zero
    ],
)
def test_conv_in_given_encodings(x: TensorEncoding, w: TensorEncoding, y: TensorEncoding) -> None:
    found = check(planned(CONV, X=x, W=w, Y=y))
    assert found.kernels == ["copy", "conv2d", "copy"]


def test_weight_zero_point_within_int8_moves_into_the_codes() -> None:
    weight = TensorEncoding(8, (0.05,), (3,))
    check(planned(CONV, X=signed(0.03, 1), W=weight, Y=signed(0.08, -128)))


@pytest.mark.parametrize("ratio", [1.1e-3, 0.137, 1.0, 7.03, 503.0])
def test_sum_of_operands_of_unlike_scale(ratio: float) -> None:
    op = Op("(float[8,50] A, float[8,50] B) => (float[8,50] Y)", "Y = Add (A, B)", {})
    larger = max(ratio, 1.0) * 0.03
    check(planned(op, A=signed(0.03, 3), B=signed(0.03 * ratio, -9), Y=signed(larger, 5)))


def test_ties_of_equal_scales_round_as_the_contract_says() -> None:
    # Sums of codes over an output step of two are ties half of the time: ONNX rounds them to
    # even, the contract up; they differ by one step and never by more.
    op = Op("(float[8,50] A, float[8,50] B) => (float[8,50] Y)", "Y = Add (A, B)", {})
    model = planned(op, A=signed(0.5, 0), B=signed(0.5, 0), Y=signed(1.0, 0))
    found = pair(model, [random_feeds(model, seed, 20) for seed in range(4)])
    assert found.worst == 1 and 0.6 < found.share_equal < 0.9


@pytest.mark.parametrize(
    ("op", "scale_y"),
    [
        (Op("(float[6,9] X) => (float[6,9] Y)", "Y = Sub (c, X)", {"c": single(1.25)}), 0.03),
        (Op("(float[6,9] X) => (float[6,9] Y)", "Y = Sub (X, c)", {"c": single(1.25)}), 0.03),
        (Op("(float[6,9] X) => (float[6,9] Y)", "Y = Div (X, c)", {"c": single(3.0)}), 0.01),
        (Op("(float[6,9] X) => (float[6,9] Y)", "Y = Mul (c, X)", {"c": single(-3.0)}), 0.1),
        (Op("(float[6,9] X) => (float[6,9] Y)", "Y = Pow (X, c)", {"c": single(2)}), 0.05),
        (Op("(float[6,9] X) => (float[6,9] Y)", "Y = PRelu (X, c)", {"c": single(0.3)}), 0.03),
    ],
)
def test_scalar_operators_keep_their_form(op: Op, scale_y: float) -> None:
    check(planned(op, X=signed(0.025, 4), Y=signed(scale_y, -3)))


TEXT = '<ir_version: 10, opset_import: ["" : 21]> m '


def literal(text: str, **arrays: Array) -> ir.Model:
    proto = onnx.parser.parse_model(TEXT + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


S = {
    "s": single(0.05),
    "z": np.array(5, np.int8),
    "s2": single(0.11),
    "z2": np.array(-20, np.int8),
}
U = {
    "s": single(0.05),
    "z": np.array(133, np.uint8),
    "s2": single(0.11),
    "z2": np.array(108, np.uint8),
}


@pytest.mark.parametrize(("dtype", "numbers"), [("int8", S), ("uint8", U)])
def test_integer_inputs_and_outputs(dtype: str, numbers: dict[str, Array]) -> None:
    model = literal(
        f"""({dtype}[4,6] X) => ({dtype}[4,6] Y) {{
        F = DequantizeLinear (X, s, z) T = Tanh (F) Y = QuantizeLinear (T, s2, z2) }}""",
        **numbers,
    )
    found = check(model)
    assert [(p.name, p.dtype) for p in found.program.inputs] == [("X", "int8")]
    assert [(p.name, p.dtype) for p in found.program.outputs] == [("Y", "int8")]
    assert found.program.outputs[0].encoding == signed(float(np.float32(0.11)), -20)


def test_integer_and_real_output_of_one_tensor() -> None:
    model = literal(
        """(float[4,6] X) => (int8[4,6] Q, float[4,6] Y, float[4,6] T) {
        Q = QuantizeLinear (X, s, z) Y = DequantizeLinear (Q, s, z)
        H = Tanh (Y) P = QuantizeLinear (H, s2, z2) T = DequantizeLinear (P, s2, z2) }""",
        **S,
    )
    found = check(model)
    buffers = [p.buffer for p in (*found.program.inputs, *found.program.outputs)]
    assert len(set(buffers)) == 4, "every port owns its memory"


def test_one_value_quantised_twice_with_different_scales() -> None:
    model = literal(
        """(float[4,6] X, float[4,6] Z) => (float[4,6] Y, float[4,6] V) {
        Q = QuantizeLinear (X, s, z) D = DequantizeLinear (Q, s, z)
        R = QuantizeLinear (Z, s, z) E = DequantizeLinear (R, s, z)
        A = Add (D, E)
        P = QuantizeLinear (A, s, z) Y = DequantizeLinear (P, s, z)
        O = QuantizeLinear (A, s2, z2) V = DequantizeLinear (O, s2, z2) }""",
        **S,
    )
    assert check(model).kernels == ["add", "add"]


def test_input_quantised_with_two_encodings_is_refused() -> None:
    model = literal(
        """(float[4,6] X) => (float[4,6] Y, float[4,6] V) {
        P = QuantizeLinear (X, s, z) Y = DequantizeLinear (P, s, z)
        O = QuantizeLinear (X, s2, z2) V = DequantizeLinear (O, s2, z2) }""",
        **S,
    )
    with pytest.raises(ModelError, match="input 'X' is quantised with two encodings"):
        lower(model)


def test_requantisation_in_front_of_an_operator() -> None:
    model = literal(
        """(float[4,6] X) => (float[4,6] V) {
        P = QuantizeLinear (X, s, z) Y = DequantizeLinear (P, s, z)
        O = QuantizeLinear (Y, s2, z2) V = DequantizeLinear (O, s2, z2) }""",
        **S,
    )
    assert check(model).kernels == ["table"]
    assert check(model).worst == 0


def test_movement_on_codes_and_on_reals() -> None:
    model = literal(
        """(float[2,3,4] X) => (float[4,6] Y) {
        P = QuantizeLinear (X, s, z) T = Transpose <perm=[2,0,1]> (P)
        D = DequantizeLinear (T, s, z) R = Reshape (D, shape)
        O = QuantizeLinear (R, s, z) Y = DequantizeLinear (O, s, z) }""",
        shape=ints(4, 6), **S,
    )  # fmt: skip
    assert check(model).worst == 0


def test_missing_zero_points_are_unsigned_zero() -> None:
    model = literal(
        """(float[4,6] X) => (float[4,6] Y) {
        P = QuantizeLinear (X, s) D = DequantizeLinear (P, s) T = Sqrt (D)
        O = QuantizeLinear (T, s) Y = DequantizeLinear (O, s) }""",
        s=single(0.02),
    )
    assert check(model).program.outputs[0].encoding == signed(float(np.float32(0.02)), -128)


def test_output_that_another_kernel_reads_and_input_that_is_an_output() -> None:
    op = Op(
        "(float[3,8] X) => (float[3,8] A, float[3,8] B, float[8,3] C)",
        "A = Tanh (X) B = Mul (A, X) C = Transpose (A)", {},
    )  # fmt: skip
    found = check(planned(op, X=signed(0.03, 0), A=signed(0.01, 0), B=signed(0.03, -100)))
    assert len(found.program.outputs) == 3


def test_input_that_is_directly_an_output() -> None:
    op = Op("(float[3,8] X) => (float[3,8] Y)", "Y = Identity (X)", {})
    found = check(planned(op, X=signed(0.03, 0)))
    assert found.kernels == ["copy"]
    assert found.worst == 0


class _Reader:
    def __init__(self, model: ir.Model) -> None:
        self._feeds = iter([random_feeds(model, seed) for seed in range(8)])

    def get_next(self) -> Any:
        return next(self._feeds, None)


NETWORK = Op(
    "(float[1,3,12,12] X) => (float[1,5] Y)",
    """A = Conv <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (X, W1, B1) R = Relu (A)
    D = Conv <kernel_shape=[3,3], group=8, pads=[1,1,1,1]> (R, W2, B2) E = Clip (D, zero, six)
    P = Conv <kernel_shape=[1,1]> (E, W3, B3) S = Add (P, R)
    M = MaxPool <kernel_shape=[2,2], strides=[2,2]> (S) G = GlobalAveragePool (M)
    F = Flatten (G) Y = Gemm <transB=1> (F, W4, B4)""",
    {
        "W1": normal(8, 3, 3, 3, scale=0.4), "B1": normal(8, seed=1),
        "W2": normal(8, 1, 3, 3, seed=2, scale=0.4), "B2": normal(8, seed=3),
        "W3": normal(8, 8, 1, 1, seed=4, scale=0.4), "B3": normal(8, seed=5),
        "W4": normal(5, 8, seed=6, scale=0.4), "B4": normal(5, seed=7),
        "zero": single(0), "six": single(6),
    },
)  # fmt: skip


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activation", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_models_of_onnx_runtimes_quantiser(
    tmp_path: Path, activation: str, per_channel: bool, form: str
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    ir.save(NETWORK.model, source)
    reader: Any = _Reader(NETWORK.model)
    quantize_static(
        str(source), str(target), reader, quant_format=QuantFormat[form],
        per_channel=per_channel, activation_type=QuantType[activation],
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    loaded = load(target)
    upgrade(loaded.model)
    if form == "QOperator":
        from edgec.compiler.frontend.qoperator import rewrite_qoperators

        rewrite_qoperators(loaded.model)
    found = check(loaded.model, worst=2, share=0.8, count=8)
    assert (found.steps <= 1).mean() >= 0.95
    assert "depthwise_conv2d" in found.kernels
