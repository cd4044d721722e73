"""Elementwise operators: the integer program beside ONNX Runtime on the quantised model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pairs import Op, assert_pair, ints, normal, single

SHAPE = "1,4,5,6"
UNARY = [
    "Relu (X)", "Sigmoid (X)", "Tanh (X)", "Erf (X)", "Exp (X)", "Neg (X)", "Abs (X)",
    "HardSigmoid (X)", "HardSwish (X)", "LeakyRelu <alpha=0.1> (X)", "Elu (X)", "Selu (X)",
    "Celu (X)", "Softplus (X)", "Softsign (X)", "Gelu (X)", 'Gelu <approximate="tanh"> (X)',
    "Mish (X)", "ThresholdedRelu <alpha=0.5> (X)", "Sin (X)", "Cos (X)", "Atan (X)", "Floor (X)",
    "Ceil (X)", "Round (X)", "Sign (X)", "Clip (X, low, high)", "Clip (X, , high)",
    "Min (X, high)", "Max (X, low)", "PRelu (X, slope)", "Add (X, high)", "Sub (high, X)",
    "Mul (X, slope)", "Mul (X, low)", "Div (X, high)", "Pow (X, two)", "Identity (X)",
]  # fmt: skip
SCALARS = {"low": single(-0.7), "high": single(1.3), "slope": single(0.2), "two": single(2)}


def unary(call: str) -> Op:
    used = {n: v for n, v in SCALARS.items() if n in call}
    return Op(f"(float[{SHAPE}] X) => (float[{SHAPE}] Y)", f"Y = {call}", used)


def two(a: str, b: str, y: str, body: str, opset: int = 21, **arrays: np.ndarray) -> Op:
    return Op(f"(float[{a}] A, float[{b}] B) => (float[{y}] Y)", body, arrays, opset)


def one(
    x: str, y: str, body: str, spread: float = 1.0, opset: int = 21, **arrays: np.ndarray
) -> Op:
    return Op(f"(float[{x}] X) => (float[{y}] Y)", body, arrays, opset, spread)


CASES = {
    **{call: unary(call) for call in UNARY},
    "add": two(SHAPE, SHAPE, SHAPE, "Y = Add (A, B)"),
    "add_channel": two(SHAPE, "4,1,1", SHAPE, "Y = Add (A, B)"),
    "add_left_smaller": two("6", SHAPE, SHAPE, "Y = Add (A, B)"),
    "add_both_broadcast": two("1,4,1,6", "5,1", SHAPE, "Y = Add (A, B)"),
    "add_relu": two(SHAPE, SHAPE, SHAPE, "S = Add (A, B) Y = Relu (S)"),
    "add_clip": two(SHAPE, SHAPE, SHAPE, "S = Add (A, B) Y = Clip (S, low, high)",
                    low=SCALARS["low"], high=SCALARS["high"]),
    "add_itself": one("3,4", "3,4", "Y = Add (X, X)"),
    "add_constant": one(SHAPE, SHAPE, "Y = Add (X, C)", C=normal(4, 1, 1)),
    "add_constant_left": one(SHAPE, SHAPE, "Y = Add (C, X)", C=normal(1, 4, 5, 6)),
    "sub": two(SHAPE, SHAPE, SHAPE, "Y = Sub (A, B)"),
    "sub_broadcast_left": two("1,1", "3,4", "3,4", "Y = Sub (A, B)"),
    "sub_constant_minus": one("3,4", "3,4", "Y = Sub (C, X)", C=normal(4)),
    "mul": two(SHAPE, SHAPE, SHAPE, "Y = Mul (A, B)"),
    "mul_channel": two(SHAPE, "1,4,1,1", SHAPE, "Y = Mul (A, B)"),
    "mul_constant": one(SHAPE, SHAPE, "Y = Mul (X, C)", C=normal(6)),
    "mul_relu": two(SHAPE, SHAPE, SHAPE, "S = Mul (A, B) Y = Relu (S)"),
    "square": one("3,8", "3,8", "Y = Mul (X, X)"),
    "div_constant": one("3,8", "3,8", "Y = Div (X, C)", C=np.abs(normal(8)) + 1),
    "reciprocal": one("3,8", "3,8", "E = Exp (X) Y = Reciprocal (E)"),
    "sqrt_log": one("3,8", "3,8", "E = Exp (X) S = Sqrt (E) Y = Log (E)"),
    "silu": one(SHAPE, SHAPE, "S = Sigmoid (X) Y = Mul (X, S)"),
    "hardswish_parts": one(
        SHAPE, SHAPE, "A = Add (X, three) C = Clip (A, zero, six) M = Mul (X, C) Y = Div (M, six)",
        spread=3, three=single(3), zero=single(0), six=single(6),
    ),
    "gelu_erf_parts": one(
        SHAPE, SHAPE,
        "D = Div (X, root) E = Erf (D) P = Add (E, one) M = Mul (X, P) Y = Mul (M, half)",
        root=single(np.sqrt(2)), one=single(1), half=single(0.5),
    ),
    "gelu_tanh_parts": one(
        SHAPE, SHAPE,
        "C = Pow (X, three) K = Mul (C, c) S = Add (X, K) R = Mul (S, r) T = Tanh (R) "
        "P = Add (T, one) M = Mul (X, P) Y = Mul (M, half)",
        three=single(3), c=single(0.044715), r=single(0.7978846), one=single(1), half=single(0.5),
    ),
    "relu_read_twice": one(
        "3,8", "3,8", "S = Add (X, C) R = Relu (S) T = Tanh (S) Y = Mul (R, T)", C=normal(3, 8)
    ),
    "quick_gelu_of_gemm": one(
        "3,8", "3,8", "G = MatMul (X, W) K = Mul (G, c) S = Sigmoid (K) Y = Mul (G, S)",
        W=normal(8, 8), c=single(1.702),
    ),
    "concat": two("1,2,3,3", "1,3,3,3", "1,5,3,3", "Y = Concat <axis=1> (A, B)"),
    "concat_scales": two(
        "2,3", "2,4", "2,7", "P = Exp (A) Q = Tanh (B) Y = Concat <axis=-1> (P, Q)"
    ),
    "concat_itself": one("2,3", "2,6", "Y = Concat <axis=1> (X, X)"),
    "concat_constant": one("2,3", "5,3", "Y = Concat <axis=0> (C, X)", C=normal(3, 3)),
    "concat_of_relus": two(
        "2,3", "2,4", "2,7", "S = Add (A, A) P = Relu (S) Q = Relu (B) Y = Concat <axis=1> (P, Q)"
    ),
    "pad": one("1,2,3,4", "1,2,6,5", "Y = Pad (X, pads)", pads=ints(0, 0, 1, 0, 0, 0, 2, 1)),
    "pad_value": one(
        "1,2,3,4", "1,2,5,6", "Y = Pad (X, pads, v)", pads=ints(0, 0, 1, 1, 0, 0, 1, 1),
        v=single(0.75),
    ),
    "pad_axes": one(
        "2,3,4", "2,3,7", "Y = Pad (X, pads, , axes)", pads=ints(1, 2), axes=ints(-1)
    ),
    "where_constant_condition": two("2,3", "2,3", "2,3", "Y = Where (C, A, B)",
                                    C=np.array([[True, False, True]])),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_onnx_runtime(name: str) -> None:
    assert_pair(CASES[name])


RUN_TIME = {
    "where": Op("(bool[2,3] C, float[2,3] A, float[2,3] B) => (float[2,3] Y)",
                "Y = Where (C, A, B)", {}),
    "where_broadcast": Op("(bool[3] C, float[2,3] A, float[1,1] B) => (float[2,3] Y)",
                          "Y = Where (C, A, B)", {}),
    "where_compared": Op(
        "(int64[4] P, float[4,4] A, float[4,4] B) => (float[4,4] Y)",
        "Q = Unsqueeze (P, one) C = Greater (Q, limits) Y = Where (C, A, B)",
        {"one": ints(1), "limits": ints(0, 1, 2, 3)},
    ),
    "where_scalar_constant": Op("(bool[2,3] C, float[2,3] A) => (float[2,3] Y)",
                                "Y = Where (C, A, zero)", {"zero": single(0)}),
}  # fmt: skip


@pytest.mark.parametrize("name", RUN_TIME)
def test_run_time_conditions(name: str) -> None:
    assert_pair(RUN_TIME[name])
