"""Softmax and norms: the integer program beside ONNX Runtime on the quantised model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pairs import Op, assert_pair, ints, normal, pipeline_pair, single

BIG = -1e9
CAUSAL = np.where(np.tril(np.ones((6, 6), bool)), np.float32(0), np.float32(BIG))
BLOCK = np.where(np.arange(6) % 3 == 0, np.float32(BIG), np.float32(0))


def rows(x: str, body: str, spread: float = 1.0, opset: int = 21, **arrays: np.ndarray) -> Op:
    return Op(f"(float[{x}] X) => (float[{x}] Y)", body, arrays, opset, spread)


SCORES = "(float[2,3,6,4] A, float[2,3,4,6] B) => (float[2,3,6,6] Y)"
CASES = {
    "softmax": rows("4,10", "Y = Softmax (X)", spread=2),
    "softmax_long": rows("2,700", "Y = Softmax (X)", spread=3),
    "softmax_axis_1": rows("2,5,3,4", "Y = Softmax <axis=1> (X)", spread=2),
    "softmax_axis_0": rows("7,3", "Y = Softmax <axis=0> (X)", spread=2),
    "softmax_scaled": rows("4,10", "S = Mul (X, c) Y = Softmax (S)", c=single(0.35)),
    "softmax_divided": rows("4,10", "S = Div (X, c) Y = Softmax (S)", c=single(2.83)),
    "softmax_sharp": rows("4,10", "Y = Softmax (X)", spread=40),
    "softmax_of_one": rows("4,1", "Y = Softmax (X)"),
    "softmax_causal": rows("2,3,6,6", "S = Add (X, M) Y = Softmax (S)", M=CAUSAL),
    "softmax_masked_left": rows("2,3,6,6", "S = Add (M, X) Y = Softmax (S)", M=BLOCK),
    "softmax_masked_3d": rows("3,6,6", "S = Add (X, M) Y = Softmax (S)", M=BLOCK[None, None]),
    "softmax_masked_lowest": rows(
        "3,6,6", "S = Add (X, M) Y = Softmax (S)",
        M=np.where(CAUSAL < 0, np.finfo(np.float32).min, np.float32(0)),
    ),
    "attention_causal": Op(
        SCORES, "S = MatMul (A, B) D = Div (S, r) K = Add (D, M) Y = Softmax (K)",
        {"r": single(2), "M": CAUSAL}, kernels="matmul softmax",
    ),
    "attention_scaled_after_mask": Op(
        SCORES, "S = MatMul (A, B) D = Mul (S, r) K = Add (D, M) Y = Softmax (K)",
        {"r": single(0.5), "M": BLOCK.reshape(1, 1, 1, 6)}, kernels="matmul softmax",
    ),
    "attention_bias_is_no_mask": Op(
        SCORES, "S = MatMul (A, B) K = Add (S, M) Y = Softmax (K)", {"M": normal(6, 6)}
    ),
    "layer_norm": rows(
        "3,5,16", "Y = LayerNormalization (X, G, B)", G=normal(16), B=normal(16, seed=1)
    ),
    "layer_norm_no_bias": rows(
        "3,16", "Y = LayerNormalization <epsilon=0.01> (X, G)", G=normal(16)
    ),
    "layer_norm_relu": rows(
        "3,16", "N = LayerNormalization (X, G, B) Y = Relu (N)", G=normal(16), B=normal(16, seed=1)
    ),
    "layer_norm_parts": rows(
        "3,16",
        "M = ReduceMean (X, axis) C = Sub (X, M) P = Pow (C, two) V = ReduceMean (P, axis) "
        "E = Add (V, eps) R = Sqrt (E) N = Div (C, R) S = Mul (N, G) Y = Add (S, B)",
        axis=ints(-1), two=single(2), eps=single(1e-5), G=normal(16), B=normal(16, seed=1),
    ),
    "rms_norm": rows("3,16", "Y = RMSNormalization (X, G)", opset=23, G=normal(16)),
    "unit_length": rows(
        "3,16", "P = Mul (X, X) V = ReduceSum (P, axis) R = Sqrt (V) Y = Div (X, R)", axis=ints(-1)
    ),
    "rms_norm_parts": rows(
        "3,16",
        "P = Pow (X, two) V = ReduceMean (P, axis) E = Add (V, eps) R = Sqrt (E) "
        "N = Div (X, R) Y = Mul (N, G)",
        axis=ints(-1), two=single(2), eps=single(1e-6), G=normal(16),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_onnx_runtime(name: str) -> None:
    assert_pair(CASES[name])


RUN_TIME = {
    "keeps_where_true": "K = Where (C, zero, big)",
    "keeps_where_false": "K = Where (C, big, zero)",
}


@pytest.mark.parametrize("name", RUN_TIME)
def test_mask_chosen_at_run_time(name: str) -> None:
    body = f"{RUN_TIME[name]} S = Add (X, K) Y = Softmax (S)"
    signature = "(bool[1,1,6] C, float[2,6,6] X) => (float[2,6,6] Y)"
    assert_pair(Op(signature, body, {"zero": single(0), "big": single(BIG)}))


ARITHMETIC = {
    "additive": (
        "(int64[2,6] M, float[2,3,6,6] X) => (float[2,3,6,6] Y)",
        "F = Cast <to=1> (M) U = Unsqueeze (F, axes) N = Sub (one, U) B = Mul (N, big) "
        "S = Add (X, B) Y = Softmax (S)",
        "compare copy softmax",
    ),
    "mean": (
        "(int64[2,6] M, float[2,6,5] X) => (float[2,5] Y)",
        "F = Cast <to=1> (M) U = Unsqueeze (F, last) P = Mul (X, U) "
        "S = ReduceSum <keepdims=0> (P, tokens) N = ReduceSum <keepdims=0> (U, tokens) "
        "C = Clip (N, least) Y = Div (S, C)",
        "compare masked_mean",
    ),
    "mean_of_expanded": (
        "(bool[2,6] M, float[2,6,5] X) => (float[2,1,5] Y)",
        "F = Cast <to=1> (M) U = Unsqueeze (F, last) E = Expand (U, whole) P = Mul (E, X) "
        "S = ReduceSum (P, tokens) N = ReduceSum (E, tokens) C = Max (least, N) Y = Div (S, C)",
        "masked_mean",
    ),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_masks_made_by_arithmetic(name: str) -> None:
    signature, body, kernels = ARITHMETIC[name]
    arrays = {"axes": ints(1, 2), "last": ints(-1), "tokens": ints(1), "whole": ints(2, 6, 5),
              "one": single(1), "big": single(-1e4), "least": single(1e-9)}  # fmt: skip
    found = pipeline_pair(Op(signature, body, arrays).model, entries=2)
    assert " ".join(found.kernels) == kernels
    assert found.worst <= 1 and found.share_equal >= 0.99


def test_mask_of_positions_known_at_run_time() -> None:
    body = """Q = Unsqueeze (P, axis) C = LessOrEqual (slots, Q) K = Where (C, zero, big)
    S = Add (X, K) Y = Softmax (S)"""
    arrays = {"slots": np.arange(6), "axis": np.array([1]), "zero": single(0), "big": single(BIG)}
    assert_pair(Op("(int64[6] P, float[2,6,6] X) => (float[2,6,6] Y)", body, arrays))
