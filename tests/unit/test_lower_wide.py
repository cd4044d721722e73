"""Activations of more than 8 bits: 12 bits in int16 through every kernel that carries them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgec.compiler.core.encoding import TensorEncoding
from edgec.compiler.core.passbase import Context
from edgec.compiler.core.plan import QuantPlan
from edgec.passes.apply_plan import ApplyPlan
from tests.pairs import Array, Op, Pair, normal, pair, random_feeds

WIDE = TensorEncoding(12, (1 / 512,), (0,))
NARROW = TensorEncoding(8, (1 / 32,), (-5,))
WEIGHT = TensorEncoding(8, (1 / 64,) * 6, (0,) * 6, axis=1)


def planned(op: Op, **encodings: TensorEncoding) -> ir.Model:
    model = op.model
    outcome = ApplyPlan().apply(model, Context(plan=QuantPlan().with_encodings(encodings)))
    assert not outcome.declined
    return model


def compared(model: ir.Model) -> Pair:
    return pair(model, [random_feeds(model, seed) for seed in range(4)])


GEMM = Op("(float[3,10] X) => (float[3,6] Y)", "Y = MatMul (X, W)", {"W": normal(10, 6)})
TWO = "(float[2,3,6] A, float[2,3,6] B) => (float[2,3,6] Y)"
CASES = {
    "gemm_reads": (GEMM, {"X": WIDE, "W": WEIGHT, "Y": NARROW}),
    "gemm_writes": (GEMM, {"X": NARROW, "W": WEIGHT, "Y": WIDE}),
    "gemm_both": (GEMM, {"X": WIDE, "W": WEIGHT, "Y": WIDE}),
    "mul": (Op(TWO, "Y = Mul (A, B)", {}), {"A": WIDE, "B": NARROW, "Y": WIDE}),
    "mul_narrows": (Op(TWO, "Y = Mul (A, B)", {}), {"A": WIDE, "B": WIDE, "Y": NARROW}),
    "add": (Op(TWO, "Y = Add (A, B)", {}), {"A": WIDE, "B": WIDE, "Y": WIDE}),
    "sub_mixed": (Op(TWO, "Y = Sub (A, B)", {}), {"A": NARROW, "B": WIDE, "Y": NARROW}),
    "matmul": (
        Op("(float[2,3,6] A, float[2,6,5] B) => (float[2,3,5] Y)", "Y = MatMul (A, B)", {}),
        {"A": WIDE, "B": WIDE, "Y": TensorEncoding(8, (0.125,), (3,))},
    ),
    "layer_norm": (
        Op(
            "(float[3,16] X) => (float[3,16] Y)",
            "Y = LayerNormalization (X, G, B)",
            {"G": normal(16), "B": normal(16, seed=1)},
        ),
        {"X": WIDE, "Y": NARROW},
    ),
    "neg": (Op("(float[3,6] X) => (float[3,6] Y)", "Y = Neg (X)", {}), {"X": WIDE, "Y": WIDE}),
    "rescaled": (
        Op("(float[3,6] X) => (float[3,6] Y)", "Y = Mul (X, c)", {"c": np.array(-0.5, np.float32)}),
        {"X": WIDE, "Y": NARROW},
    ),
    "concat": (
        Op(TWO.replace("6] Y", "12] Y"), "Y = Concat <axis=2> (A, B)", {}),
        {"A": WIDE, "B": WIDE, "Y": WIDE},
    ),
    "constant_operand": (
        Op("(float[2,3,6] A) => (float[2,3,6] Y)", "Y = Mul (A, C)", {"C": normal(3, 6)}),
        {"A": WIDE, "C": WIDE, "Y": WIDE},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_twelve_bits_agree_with_onnx_runtime(name: str) -> None:
    op, encodings = CASES[name]
    found = compared(planned(op, **encodings))
    # Scales are powers of two, so exact ties are common: ours go up, those of ONNX to even.
    assert found.worst <= 1 and found.share_equal > 0.85
    assert not found.floats
    ports = {p.name: p for p in (*found.program.inputs, *found.program.outputs)}
    for name, encoding in encodings.items():
        if name in ports:
            assert ports[name].dtype == encoding.dtype.name
            assert ports[name].encoding == encoding


def test_movement_of_wide_codes_costs_no_kernel_but_the_output_copy() -> None:
    op = Op("(float[2,3,6] X) => (float[3,2,6] Y)",
            "T = Transpose <perm=[1,0,2]> (X) Y = Identity (T)", {})  # fmt: skip
    found = compared(planned(op, X=WIDE))
    assert found.worst == 0 and found.kernels == ["copy"]


def test_a_wide_result_may_be_moved_before_it_is_quantised() -> None:
    op = Op("(float[3,10] X) => (float[6,3] Y)", "M = MatMul (X, W) Y = Transpose (M)",
            {"W": normal(10, 6)})  # fmt: skip
    found = compared(planned(op, X=NARROW, W=WEIGHT, Y=WIDE))
    assert found.worst <= 1 and not found.floats and "gemm" in found.kernels


def test_four_bits_in_int8_are_clipped_as_well() -> None:
    four = TensorEncoding(4, (0.25,), (0,))
    model = planned(Op("(float[3,6] X) => (float[6,3] Y)", "Y = Transpose (X)", {}), X=four)
    assert "Clip" in [node.op_type for node in model.graph]


def test_a_wide_softmax_becomes_a_float_island() -> None:
    op = Op("(float[3,6] X) => (float[3,6] Y)", "Y = Softmax (X)", {})
    found = compared(planned(op, X=WIDE, Y=TensorEncoding(8, (1 / 256,), (-128,))))
    assert found.worst <= 1 and found.floats == {"dequantise", "float_op", "quantise"}


def test_a_norm_of_sixteen_bits_becomes_a_float_island() -> None:
    op = Op("(float[3,6] X) => (float[3,6] Y)", "Y = LayerNormalization (X, G)", {"G": normal(6)})
    found = compared(planned(op, X=TensorEncoding(16, (1e-4,), (0,)), Y=NARROW))
    (note,) = found.program.notes
    assert "no integer kernel reads more than 12 bits" in note
    assert found.worst <= 1 and found.floats


def test_int16_without_a_clip_has_sixteen_bits() -> None:
    full = TensorEncoding(16, (2.0**-13,), (-300,))
    op = Op("(float[4,5] X) => (float[5,4] Y)", "Y = Transpose (X)", {})
    found = compared(planned(op, X=full))
    assert found.worst == 0 and found.program.inputs[0].encoding == full


def test_wide_rows_looked_up_at_run_time() -> None:
    op = Op("(int64[3] I) => (float[3,6] Y)", "Y = Gather (T, I)", {"T": normal(7, 6)})
    model = planned(op, T=WIDE)
    found = compared(model)
    assert found.worst == 0 and found.kernels[0] == "gather_rows"


def test_what_overflows_the_accumulator_becomes_a_float_island_that_says_so() -> None:
    full = TensorEncoding(16, (1e-4,), (0,))
    w: Array = np.full((600, 6), 1, np.float32)
    op = Op("(float[3,600] X) => (float[3,6] Y)", "Y = MatMul (X, W)", {"W": w})
    weight = TensorEncoding(8, (1 / 127,) * 6, (0,) * 6, axis=1)
    found = compared(planned(op, X=full, W=weight, Y=NARROW))
    (note,) = found.program.notes
    assert "overflows the int32 accumulator" in note
    assert found.worst <= 1 and found.floats == {"dequantise", "float_op", "quantise"}
