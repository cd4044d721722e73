"""Operators without an integer kernel: float islands beside ONNX Runtime, each with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pairs import Op, ints, normal, pipeline_pair

CASES = {
    "tan": Op("(float[3,5] X) => (float[3,5] Y)", "S = Sigmoid (X) Y = Tan (S)", {}),
    "cosh": Op("(float[3,5] X) => (float[3,5] Y)", "Y = Cosh (X)", {}),
    "quotient": Op("(float[3,5] A, float[3,5] B) => (float[3,5] Y)",
                   "E = Exp (B) Y = Div (A, E)", {}),
    "reduce_max": Op("(float[3,5] X) => (float[3,1] Y)", "Y = ReduceMax (X, a)", {"a": ints(1)}),
    "pool_1d": Op("(float[1,4,8] X) => (float[1,4,4] Y)",
                  "Y = AveragePool <kernel_shape=[2], strides=[2]> (X)", {}),
    "after_a_transpose": Op("(float[3,5] X) => (float[5,3] Y)",
                            "T = Transpose (X) Y = Cosh (T)", {}),
    "two_in_a_row": Op("(float[3,5] X) => (float[3,5] Y)", "A = Cosh (X) Y = Sinh (A)", {}),
    "layer_norm_of_two_axes": Op(
        "(float[2,3,4] X) => (float[2,3,4] Y)", "Y = LayerNormalization <axis=1> (X, G, B)",
        {"G": normal(3, 4), "B": normal(3, 4, seed=1)},
    ),
    "integers": Op("(float[9,4] X, int64[2] I) => (float[2,4] Y)",
                   "J = Add (I, I) Y = Gather (X, J)", {}),
    "condition": Op("(float[3,4] X, bool[3,4] A, bool[3,4] B) => (float[3,4] Y)",
                    "C = Xor (A, B) N = Neg (X) Y = Where (C, X, N)", {}),
    "weights_inside": Op("(float[1,2,5] X) => (float[1,3,3] Y)", "Y = Conv (X, W)",
                         {"W": normal(3, 2, 3)}),
    "undefined_for_half_of_its_codes": Op("(float[3,5] X) => (float[3,5] Y)",
                                          "A = Abs (X) C = Mul (A, A) Y = Sqrt (C)", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_island_equals_onnx_runtime(name: str) -> None:
    found = pipeline_pair(CASES[name].model)
    assert found.worst <= 1
    assert found.share_equal >= 0.97
    assert bool(found.floats) == bool(found.program.notes)


def test_an_island_says_which_operator_and_why() -> None:
    found = pipeline_pair(CASES["quotient"].model)
    (note,) = found.program.notes
    assert "Div" in note and "division of one tensor by another" in note
    assert found.floats == {"dequantise", "float_op", "quantise"}


def test_integer_models_have_no_notes() -> None:
    op = Op("(float[3,5] X) => (float[3,5] Y)", "Y = Tanh (X)", {})
    assert not pipeline_pair(op.model).program.notes


def test_no_number_is_quantised_to_the_lowest_code_everywhere() -> None:
    from edgec.compiler.lowering.kernels.quantise import Quantise

    x = np.array([np.nan, -np.inf, np.inf, -np.nan], np.float32)
    scale, q = np.array([0.5], np.float32), np.array([3, -128, 127], np.int32)
    (codes,) = Quantise(4).reference(x, scale, q)
    assert codes.tolist() == [-128, -128, 127, -128]
