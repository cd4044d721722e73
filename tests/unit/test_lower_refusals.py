"""What no integer kernel expresses is refused in a sentence naming the node and the reason.

Without float islands: with them, the sentence is the reason of the island where TVM has a kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from unittest.mock import patch

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.compiler.core.encoding import TensorEncoding
from edgec.compiler.core.errors import ModelError
from edgec.compiler.core.passbase import Context
from edgec.compiler.core.plan import QuantPlan
from edgec.compiler.lowering import islands
from edgec.compiler.lowering.lower import Lowering, RefusedError, Request, lower
from edgec.compiler.lowering.values import Quantised
from edgec.passes.apply_plan import ApplyPlan
from tests.pairs import Array, Op, ints, normal, single

E = TensorEncoding(8, (0.03,), (0,))
TINY, HUGE = TensorEncoding(8, (1e-9,), (0,)), TensorEncoding(8, (1e9,), (0,))
AXIS_0 = TensorEncoding(8, (0.03,) * 4, (0,) * 4, axis=0)
OFFSET = TensorEncoding(8, (0.01,), (100,))
XWY = {"X": E, "W": E, "Y": E}
XY = {"X": E, "Y": E}
ABY = {"A": E, "B": E, "Y": E}


def op(x: str, y: str, body: str, opset: int = 21, **arrays: Array) -> Op:
    return Op(f"(float[{x}] X) => (float[{y}] Y)", body, arrays, opset)


def binary(body: str) -> Op:
    return Op("(float[4,4] A, float[4,4] B) => (float[4,4] Y)", body, {})


CONV = op("1,4,5,5", "1,4,3,3", "Y = Conv <kernel_shape=[3,3]> (X, W)", W=normal(4, 4, 3, 3))
GEMM = op("2,4", "2,4", "Y = Gemm (X, W, B)", W=normal(4, 4), B=normal(4))
NORM = "Y = LayerNormalization (X, G, B)"

CASES: Mapping[str, tuple[Op, Mapping[str, TensorEncoding], str]] = {
    "no_kernel": (op("4,4", "4,4", "Y = Tan (X)"), XY, "Tan 'Y.*': no integer kernel"),
    "stays_float": (
        op("4,4", "4", "T = Tan (X) Y = GlobalAveragePool (T)".replace(
            "GlobalAveragePool (T)", "ReduceMax <keepdims=0> (T, a)"), a=ints(1)),
        XY, "ReduceMax 'Y.*': no integer kernel",
    ),
    "input_of_kernel_stays_float": (
        op("4,4", "4,4", "T = Tan (X) Y = MatMul (T, T)"), XY, "'T' stays float",
    ),
    "weight_not_quantised": (CONV, XY, "Conv 'Y.*': its weight 'W' is not quantised"),
    "weight_not_per_output_channel": (
        CONV, {**XWY, "W": TensorEncoding(8, (0.03,) * 4, (0,) * 4, axis=1)},
        "Conv 'Y.*': weight 'W.dq' is not encoded per output channel",
    ),
    "weight_zero_point": (
        CONV, {**XWY, "W": OFFSET}, "Conv 'Y.*': weight 'W.dq' does not fit int8"
    ),
    "weight_bits": (
        CONV, {**XWY, "W": TensorEncoding(16, (0.03,), (0,))}, "Conv .*does not fit int8",
    ),
    "rescale_range": (CONV, {"X": HUGE, "W": HUGE, "Y": TINY}, "Conv 'Y.*': rescale factor"),
    "bias_overflow": (GEMM, {"X": TINY, "W": TINY, "Y": E}, "Gemm 'Y.*': its bias overflows"),
    "bias_size": (
        op("4,4", "4,4", "M = MatMul (X, W) Y = Add (M, B)", W=normal(4, 4), B=normal(4, 4)),
        {"X": E, "W": E, "Y": E}, "Add 'Y.*: its bias 'B' is not one value a channel",
    ),
    "gemm_alpha": (
        op("2,4", "2,4", "Y = Gemm <alpha=2.0> (X, W)", W=normal(4, 4)), XWY,
        "Gemm 'Y.*': transA, alpha or beta is set",
    ),
    "conv_3d": (
        op("1,1,4,4,4", "1,1,3,3,3", "Y = Conv <kernel_shape=[2,2,2]> (X, W)",
           W=normal(1, 1, 2, 2, 2)), XWY, "Conv 'Y.*': only 1-D and 2-D",
    ),
    "auto_pad": (
        op("1,4,5,5", "1,4,5,5", 'Y = Conv <kernel_shape=[3,3], auto_pad="SAME_UPPER"> (X, W)',
           W=normal(4, 4, 3, 3)), XWY, "Conv 'Y.*': auto_pad was not resolved",
    ),
    "vector_product": (
        Op("(float[4,4] A, float[4] B) => (float[4] Y)", "Y = MatMul (A, B)", {}), ABY,
        "MatMul 'Y.*': a product with a vector",
    ),
    "division": (binary("Y = Div (A, B)"), ABY, "Div 'Y.*': division of one tensor by another"),
    "constant_operand": (
        op("4,4", "4,4", "Y = Add (X, C)", C=normal(4, 4)), XY,
        "Add 'Y.*': its constant operand 'C' is not quantised",
    ),
    "sum_ratio": (binary("Y = Add (A, B)"), {**ABY, "A": HUGE}, "Add 'Y.*': scale ratio"),
    "product_ratio": (
        binary("Y = Mul (A, B)"), {"A": HUGE, "B": HUGE, "Y": TINY}, "Mul 'Y.*': rescale factor",
    ),
    "pad_mode": (
        op("4,4", "4,6", 'Y = Pad <mode="reflect"> (X, p)', p=ints(0, 1, 0, 1)), XY,
        "Pad 'Y.*': only constant padding",
    ),
    "pad_cuts": (
        op("4,4", "4,3", "Y = Pad (X, p)", p=ints(0, -1, 0, 0)), XY, "Pad 'Y.*': its pads are not",
    ),
    "pool_rank": (
        op("1,4,8", "1,4,4", "Y = MaxPool <kernel_shape=[2], strides=[2]> (X)"), XY,
        "MaxPool 'Y.*': only pooling of 4-D images",
    ),
    "pool_dilated": (
        op("1,4,8,8", "1,4,6,6", "Y = MaxPool <kernel_shape=[2,2], dilations=[2,2]> (X)"), XY,
        "MaxPool 'Y.*': dilated pooling",
    ),
    "pool_ceil": (
        op("1,4,5,5", "1,4,3,3",
           "Y = AveragePool <kernel_shape=[2,2], strides=[2,2], ceil_mode=1> (X)"), XY,
        "AveragePool 'Y.*': ceil_mode pooling past the edge",
    ),
    "pool_range": (
        op("1,4,5,5", "1,4,1,1", "Y = GlobalAveragePool (X)"), {"X": HUGE, "Y": TINY},
        "GlobalAveragePool 'Y.*': rescale factor",
    ),
    "resize_linear": (
        op("1,4,5,5", "1,4,10,10", 'Y = Resize <mode="linear"> (X, , s)',
           s=np.array([1, 1, 2, 2], np.float32)), XY, "Resize 'Y.*': only nearest-neighbour",
    ),
    "resize_channels": (
        op("1,4,5,5", "1,8,5,5", 'Y = Resize <mode="nearest"> (X, , s)',
           s=np.array([1, 2, 1, 1], np.float32)), XY, "Resize 'Y.*': resizing batch or channels",
    ),
    "resize_coordinates": (
        op("1,4,5,5", "1,4,10,10", 'Y = Resize <mode="nearest", '
           'coordinate_transformation_mode="half_pixel_symmetric"> (X, , s)',
           s=np.array([1, 1, 2, 2], np.float32)), XY, "Resize 'Y.*': coordinate mode",
    ),
    "norm_axis": (
        op("2,3,4", "2,3,4", "Y = LayerNormalization <axis=1> (X, G, B)", G=normal(3, 4),
           B=normal(3, 4)), XY, "LayerNormalization 'Y.*': only normalisation over the last axis",
    ),
    "norm_scale": (
        Op("(float[3,4] X, float[4] G) => (float[3,4] Y)", "Y = LayerNormalization (X, G)", {}),
        {**XY, "G": E}, "LayerNormalization 'Y.*': its scale or bias is not a constant",
    ),
    "norm_range": (
        op("3,4", "3,4", NORM, G=normal(4), B=normal(4)), {"X": E, "Y": TINY},
        "LayerNormalization 'Y.*': gamma over the output scale",
    ),
    "not_a_number": (op("3,4", "3,4", "Y = Sqrt (X)"), XY, r"Sqrt 'Y.*': undefined \(NaN\)"),
    "indices_not_integers": (
        Op("(float[3,4] X, float[2,3] Z) => (float[2,1,4] Y)",
           "J = Multinomial (Z) Y = Gather (X, J)", {}), XY,
        r"(?:'J' stays float: )?Multinomial 'J': no integer kernel computes run-time integers",
    ),
}  # fmt: skip


# What reads a refused integer tensor reports it too.
CASCADES = {"indices_not_integers"}


def planned(case: Op, encodings: Mapping[str, TensorEncoding]) -> ir.Model:
    model = case.model
    ApplyPlan().apply(model, Context(plan=QuantPlan().with_encodings(encodings)))
    return model


def no_island(low: Lowering, node: ir.Node, request: Request, reason: RefusedError) -> Quantised:
    raise reason


def no_buffer(low: Lowering, value: ir.Value, reason: str) -> str:
    raise RefusedError(f"'{value.name}' stays float: {reason}")


def problems(model: ir.Model) -> tuple[str, ...]:
    with (
        patch.object(islands, "float_island", no_island),
        patch.object(islands, "float_buffer", no_buffer),
        pytest.raises(ModelError) as caught,
    ):
        lower(model)
    return caught.value.problems


@pytest.mark.parametrize("name", CASES)
def test_refusal_names_the_node_and_the_reason(name: str) -> None:
    case, encodings, wanted = CASES[name]
    found = problems(planned(case, encodings))
    assert re.match(wanted, found[0]), found
    assert len(found) == (2 if name in CASCADES else 1), found


def literal(text: str, **arrays: Array) -> ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> m ' + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


S = {"s": single(0.05), "z": np.array(5, np.int8)}
LITERAL: Mapping[str, tuple[ir.Model, str]] = {
    "run_time_scale": (
        literal(
            """(float[4] X, float t) => (float[4] Y) {
            Q = QuantizeLinear (X, t) Y = DequantizeLinear (Q, t) }"""
        ),
        "QuantizeLinear 'Q': its scale is not a constant",
    ),
    "sixteen_unsigned_bits": (
        literal(
            """(float[4] X) => (float[4] Y) {
            Q = QuantizeLinear (X, s, z) Y = DequantizeLinear (Q, s, z) }""",
            s=single(0.1), z=np.array(7, np.uint16),
        ),
        "QuantizeLinear 'Q': uint16 codes are not supported; use int8",
    ),
    "thirtytwo_bits": (
        literal(
            """(float[4] X) => (float[4] Y) {
            Q = QuantizeLinear (X, s, z) Y = DequantizeLinear (Q, s, z) }""",
            s=single(0.1), z=np.array(7, np.int32),
        ),
        "QuantizeLinear 'Q': int32 codes are not supported; use int8",
    ),
    "product_of_two_sixteen_bit_operands": (
        literal(
            """(float[2,4] A, float[2,4] B) => (float[2,4] Y) {
            QA = QuantizeLinear (A, s, z) DA = DequantizeLinear (QA, s, z)
            QB = QuantizeLinear (B, s, z) DB = DequantizeLinear (QB, s, z)
            M = Mul (DA, DB)
            QM = QuantizeLinear (M, s, z) Y = DequantizeLinear (QM, s, z) }""",
            s=single(0.1), z=np.array(-30000, np.int16),
        ),
        "Mul 'M': a product overflows 32 bits; use fewer bits",
    ),
    "activation_per_channel": (
        literal(
            """(float[2,4] X) => (float[2,4] Y) {
            Q = QuantizeLinear <axis=0> (X, s, z) Y = DequantizeLinear <axis=0> (Q, s, z) }""",
            s=np.array([0.1, 0.2], np.float32), z=np.zeros(2, np.int8),
        ),
        "QuantizeLinear 'Q': activations are encoded per tensor",
    ),
    "four_bits": (
        literal(
            """(float[4] X) => (float[4] Y) {
            Q = QuantizeLinear <output_dtype=22> (X, s) Y = DequantizeLinear (Q, s) }""",
            s=single(0.1),
        ),
        "QuantizeLinear 'Q': int4 codes are not supported; use int8",
    ),
    "blocked_weight": (
        literal(
            """(float[2,8] X) => (float[2,4] Y) {
            Q = QuantizeLinear (X, s, z) D = DequantizeLinear (Q, s, z)
            V = DequantizeLinear <axis=0, block_size=4> (W, t) M = MatMul (D, V)
            O = QuantizeLinear (M, s, z) Y = DequantizeLinear (O, s, z) }""",
            W=np.ones((8, 4), np.int8), t=np.ones((2, 4), np.float32), **S,
        ),
        "MatMul 'M': weight 'V' has blocks that are not int4 along its input channels",
    ),
    "input_type": (
        literal("(float16[4] X) => (float16[4] Y) { Y = Tanh (X) }"),
        "input 'X' has type FLOAT16",
    ),
    "integers_that_nothing_dequantises": (
        literal("(int8[4] X) => (int8[4] Y) { Y = Identity (X) }"),
        "input 'X' holds integers that nothing dequantises",
    ),
    "codes_into_an_operator": (
        literal(
            """(float[4] X) => (float[4] Y) {
            Q = QuantizeLinear (X, s, z) N = Neg (Q) Y = DequantizeLinear (N, s, z) }""", **S,
        ),
        "Neg 'N': no integer kernel works on codes",
    ),
    "float_output": (
        literal(
            """(float[4] X) => (float[4] Y) {
            Q = QuantizeLinear (X, s, z) D = DequantizeLinear (Q, s, z) Y = Tanh (D) }""", **S,
        ),
        "'Y' stays float",
    ),
    "run_time_slice": (
        literal(
            """(float[4] X, int64[1] a) => (float[k] Y) {
            Q = QuantizeLinear (X, s, z) D = DequantizeLinear (Q, s, z) Y = Slice (D, a, b) }""",
            b=ints(4), **S,
        ),
        "Slice 'Y': starts and ends must be constants",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LITERAL)
def test_refusal_of_a_quantised_model(name: str) -> None:
    model, wanted = LITERAL[name]
    found = problems(model)
    assert re.match(wanted, found[0]), found


def test_all_problems_at_once_and_no_others() -> None:
    body = (
        "A = Tan (X) B = Cosh (A) C = Add (B, A) Y = ReduceMax <keepdims=0> (C, ax) Z = Div (A, X)"
    )
    case = Op("(float[4,9] X) => (float[4] Y, float[4,9] Z)", body, {"ax": ints(1)})
    found = problems(planned(case, dict.fromkeys("XABCYZ", E)))
    assert [re.sub(r"\.float", "", p.split(":")[0]) for p in found] == [
        "Tan 'A'", "Cosh 'B'", "ReduceMax 'Y'", "Div 'Z'",
    ]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_with_islands_the_reason_is_kept_as_note_or_refusal(name: str) -> None:
    case, encodings, wanted = CASES[name]
    try:
        said: Sequence[str] = lower(planned(case, encodings)).notes
    except ModelError as refused:
        said = refused.problems
    assert any(re.search(wanted.replace("Y.*'", "Y[^']*'"), line) for line in said), said
