"""Which values are stored, inherited from a root, or exist only inside a kernel."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.passes._islands import analyse, is_mask
from tests.pairs import Array, Op, ints, normal, single

W, B = normal(4, 4), normal(4)
IMAGE = normal(4, 4, 3, 3)
MASK = np.where(np.tril(np.ones((4, 4), bool)), np.float32(0), np.float32(-1e9))
CASES: dict[str, tuple[str, dict[str, Array], str, str]] = {
    # name: body, constants, stored, absorbed; X is float[2,4,4], Y the output
    "movement": ("R = Transpose (X) S = Identity (R) Y = Tanh (S)", {}, "X Y", ""),
    "matmul_bias": ("M = MatMul (X, W) Y = Add (M, B)", {"W": W, "B": B}, "X Y", "M"),
    "matmul_bias_relu": (
        "M = MatMul (X, W) A = Add (M, B) Y = Relu (A)", {"W": W, "B": B}, "X Y", "M A"
    ),
    "matmul_read_twice": (
        "M = MatMul (X, W) A = Add (M, B) Y = Mul (A, M)", {"W": W, "B": B}, "X M A Y", ""
    ),
    "relu_of_sum": ("A = Add (X, X) R = Relu (A) Y = MatMul (R, W)", {"W": W}, "X R Y", "A"),
    "relu_read_twice": (
        "A = MatMul (X, W) R = Relu (A) Y = Mul (R, A)", {"W": W}, "X A Y", "R"
    ),
    "region": ("S = Sigmoid (X) M = Mul (X, S) Y = MatMul (M, W)", {"W": W}, "X M Y", "S"),
    "region_ends_where_another_reads": (
        "S = Mul (X, X) A = Abs (X) M = MatMul (S, W) N = Add (S, A) Y = Mul (M, N)", {"W": W},
        "X S A M N Y", "",
    ),
    "two_sources": (
        "M = MatMul (X, W) S = Sigmoid (X) Y = Mul (M, S)", {"W": W}, "X M S Y", ""
    ),
    "scalar_factor": ("M = MatMul (X, X) D = Div (M, c) Y = Softmax (D)", {"c": single(2)},
                      "X D Y", "M"),
    "negative_factor": ("M = MatMul (X, X) D = Mul (M, c) Y = Softmax (D)", {"c": single(-2)},
                        "X M D Y", ""),
    "mask": ("A = Add (X, K) Y = Softmax (A)", {"K": MASK}, "X Y", "A"),
    "bias_is_no_mask": ("A = Add (X, K) Y = Softmax (A)", {"K": W}, "X A Y", ""),
    "split": ("P, Q = Split <axis=0> (X, s) M = Mul (P, Q) Y = Concat <axis=0> (M, Q)",
              {"s": ints(1, 1)}, "X M Y", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_are_sorted(name: str) -> None:
    body, arrays, stored, absorbed = CASES[name]
    shape = "4,4,2" if name == "movement" else "2,4,4"
    model = Op(f"(float[2,4,4] X) => (float[{shape}] Y)", body, arrays).model
    found = analyse(model.graph)
    assert [v.name for v in found.stored] == stored.split()
    assert {v.name for v in found.absorbed} == set(absorbed.split())


def test_roots_of_movement_chains() -> None:
    body = "M = MatMul (X, W) T = Transpose (M) R = Reshape (T, s) Y = Tanh (R)"
    op = Op("(float[4,4] X) => (float[16] Y)", body, {"W": W, "s": ints(16)})
    found = analyse(op.model.graph)
    names = {str(v.name): str(r.name) for v, r in found.roots.items()}
    assert names == {"T": "M", "R": "M"}
    assert {str(found.root(v).name) for v in found.roots} == {"M"}


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (MASK, True),
        (np.array([0, -np.inf], np.float32), True),
        (np.array([0, -1e4], np.float32), True),
        (np.array([0, 0], np.float32), False),
        (np.array([1, -1e9], np.float32), False),
        (np.array([0, -100], np.float32), False),
    ],
)
def test_additive_masks(data: Array, wanted: bool) -> None:
    shape = ",".join(map(str, data.shape))
    model = Op(f"(float[{shape}] X) => (float[{shape}] Y)", "Y = Add (X, K)", {"K": data}).model
    (node,) = model.graph
    assert is_mask(node.inputs[1]) is wanted


@pytest.mark.parametrize(("a", "b", "wanted"), [(0, -1e9, True), (-1e9, 0, True), (0, 1, False),
                                               (5, -1e9, False)])  # fmt: skip
def test_masks_chosen_at_run_time(a: float, b: float, wanted: bool) -> None:
    op = Op("(bool[4] C) => (float[4] Y)", "K = Where (C, a, b) Y = Tanh (K)",
            {"a": single(a), "b": single(b)})  # fmt: skip
    assert is_mask(op.model.graph[0].outputs[0]) is wanted
