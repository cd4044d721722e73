"""Movement operators: lazy views and copies beside ONNX Runtime on the quantised model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pairs import Op, assert_pair, ints, normal


def move(x: str, y: str, body: str, kernels: str | None = None, **arrays: np.ndarray) -> Op:
    return Op(f"(float[{x}] X) => (float[{y}] Y)", body, arrays, kernels=kernels)


CASES = {
    "reshape": move("2,3,4", "6,4", "Y = Reshape (X, s)", "copy", s=ints(6, 4)),
    "reshape_after_transpose": move(
        "2,3,4", "4,6", "T = Transpose <perm=[2,0,1]> (X) Y = Reshape (T, s)", s=ints(4, 6)
    ),
    "reshape_after_transpose_that_copies": move(
        "2,3,4", "3,8", "T = Transpose <perm=[1,2,0]> (X) Y = Reshape (T, s)", s=ints(3, 8)
    ),
    "flatten": move("2,3,4", "2,12", "Y = Flatten (X)"),
    "squeeze_unsqueeze": move(
        "1,3,1,4", "3,4,1", "S = Squeeze (X, a) Y = Unsqueeze (S, b)", a=ints(0, 2), b=ints(-1)
    ),
    "transpose": move("2,3,4", "4,2,3", "Y = Transpose <perm=[2,0,1]> (X)", "copy"),
    "transpose_default": move("2,3,4", "4,3,2", "Y = Transpose (X)"),
    "transpose_stays_lazy": move(
        "2,3,4", "2,4,3", "T = Transpose <perm=[0,2,1]> (X) A = Abs (T) Y = Neg (A)", "table copy"
    ),
    "expand": move("3,1", "2,3,4", "Y = Expand (X, s)", s=ints(2, 3, 4)),
    "expand_repeats_heads": Op(
        "(float[1,4,3,8] Q, float[1,2,3,8] K) => (float[1,4,3,3] Y)",
        """U = Unsqueeze (K, a) E = Expand (U, s) R = Reshape (E, t)
        T = Transpose <perm=[0,1,3,2]> (R) Y = MatMul (Q, T)""",
        {"a": ints(2), "s": ints(1, 2, 2, 3, 8), "t": ints(1, 4, 3, 8)},
    ),
    "slice": move("4,6", "2,3", "Y = Slice (X, a, b)", a=ints(1, 2), b=ints(3, 5)),
    "slice_axes_steps": move(
        "4,9", "4,3", "Y = Slice (X, a, b, c, d)", a=ints(1), b=ints(8), c=ints(1), d=ints(3)
    ),
    "slice_backwards": move(
        "4,9", "4,5", "Y = Slice (X, a, b, c, d)", a=ints(-1), b=ints(-(2**31)), c=ints(-1),
        d=ints(-2),
    ),
    "slice_backwards_to_first": move(
        "9", "9", "Y = Slice (X, a, b, c, d)", a=ints(8), b=ints(-10), c=ints(0), d=ints(-1)
    ),
    "slice_backwards_from_far": move(
        "9", "8", "Y = Slice (X, a, b, c, d)", a=ints(100), b=ints(-9), c=ints(0), d=ints(-1)
    ),
    "slice_far_end": move("4,6", "4,4", "Y = Slice (X, a, b, c)", a=ints(2), b=ints(2**62),
                          c=ints(1)),
    "slice_negative": move("4,6", "4,2", "Y = Slice (X, a, b, c)", a=ints(-3), b=ints(-1),
                           c=ints(-1)),
    "slice_far_start": move("4,6", "4,5", "Y = Slice (X, a, b, c)", a=ints(-100), b=ints(-1),
                            c=ints(1)),
    "split": move(
        "2,6", "2,3", "A, B = Split <axis=1> (X, s) Y = Mul (A, B)", s=ints(3, 3)
    ),
    "split_uneven": move(
        "2,6", "2,2", "A, B, C = Split <axis=-1> (X, s) Y = Add (A, C)", s=ints(2, 2, 2)
    ),
    "split_num_outputs": move(
        "2,5", "2,3", "A, B = Split <axis=1, num_outputs=2> (X) Y = Neg (A)"
    ),
    "gather_one": move("4,6", "6", "Y = Gather <axis=0> (X, i)", i=np.array(2)),
    "gather_element": move("7", "7", "E = Gather (X, i) Y = Add (E, X)", i=np.array(3)),
    "gather_last": move("4,6", "4", "Y = Gather <axis=1> (X, i)", i=np.array(-1)),
    "gather_range": move("8,3", "4,3", "Y = Gather (X, i)", i=ints(1, 3, 5, 7)),
    "gather_reversed": move("5,3", "5,3", "Y = Gather (X, i)", i=ints(4, 3, 2, 1, 0)),
    "gather_any_order": move("3,5", "3,4", "Y = Gather <axis=1> (X, i)", i=ints(0, 3, 3, -1)),
    "gather_single": move("3,5", "3,1", "Y = Gather <axis=1> (X, i)", i=ints(-2)),
    "gather_2d_index": move("5,3", "2,2,3", "Y = Gather (X, i)", i=np.array([[0, 1], [2, 3]])),
    "gather_same_twice": move("3,5", "3,2", "Y = Gather <axis=1> (X, i)", i=ints(2, 2)),
    "identity_dropout": move("2,3", "2,3", "I = Identity (X) Y = Dropout (I)"),
    "movement_of_constant": move(
        "2,3", "2,3", "T = Transpose (C) Y = Add (X, T)", C=normal(3, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_onnx_runtime(name: str) -> None:
    assert_pair(CASES[name])


RUN_TIME = {
    "embedding": Op("(int64[2,3] I) => (float[2,3,5] Y)", "Y = Gather (T, I)", {"T": normal(4, 5)}),
    "embedding_added": Op(
        "(int64[3] I, float[3,5] X) => (float[3,5] Y)", "E = Gather (T, I) Y = Add (E, X)",
        {"T": normal(4, 5)},
    ),
    "activation_rows": Op("(int32[2] I, float[3,4,5] X) => (float[3,2,5] Y)",
                          "Y = Gather <axis=1> (X, I)", {}),
    "scalar_index": Op("(int64 I, float[4,5] X) => (float[5] Y)", "Y = Gather (X, I)", {}),
    "index_of_indices": Op(
        "(int64[1,4] I, float[4,5] X) => (float[2,5] Y)",
        "T = Transpose (I) S = Slice (T, a, b) R = Reshape (S, c) Y = Gather (X, R)",
        {"a": ints(1), "b": ints(3), "c": ints(2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUN_TIME)
def test_indices_known_at_run_time(name: str) -> None:
    assert_pair(RUN_TIME[name])
