"""Traps that look like a pattern of a pass and are not, and edits that must not leak."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.graph import constant, model_from_text
from edgec.compiler.core.passbase import Context, Outcome, Transform
from edgec.passes import discover

PASSES = {p.name: p for p in discover() if isinstance(p, Transform)}


def model(body: str, shape: str = "2,2", **arrays: NDArray[Any]) -> ir.Model:
    return model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[{shape}] X) => (float[{shape}] Y) {{ {body} }}",
        **arrays,
    )


def applied(name: str, target: ir.Model) -> Outcome:
    return PASSES[name].apply(target, Context())


def kinds(target: ir.Model) -> list[str]:
    return [node.op_type for node in target.graph]


def full(value: float) -> NDArray[np.float32]:
    return np.full((), value, np.float32)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("Y = Div (c, X)", 1.0),
        ("Y = Sub (c, X)", 0.0),
        ("Y = Pow (c, X)", 1.0),
        ("Y = Mul (c, X)", 1.0001),
        ("T = Transpose <perm = [1, 0]> (X)  Y = Mul (T, c)", 2.0),
    ],
)
def test_fold_constants_keeps_what_only_looks_idle(body: str, value: float) -> None:
    before = model(f"N = Neg (X)  {body.replace('X', 'N')}", c=full(value))
    count = len(kinds(before))
    assert not applied("fold_constants", before).changed
    assert len(kinds(before)) == count


def test_fold_constants_keeps_a_slice_that_reverses() -> None:
    reverse = model(
        "N = Neg (X)  Y = Slice (N, start, end, axis, step)",
        start=np.array([-1]), end=np.array([-9]), axis=np.array([0]), step=np.array([-1]),
    )  # fmt: skip
    applied("fold_constants", reverse)
    assert kinds(reverse) == ["Neg", "Slice"]


def test_fold_constants_keeps_the_weight_names_that_it_computes() -> None:
    half = model("W = Cast <to = 1> (h)  Y = MatMul (X, W)", h=np.eye(2, dtype=np.float16))
    applied("fold_constants", half)
    assert list(half.graph.initializers) == ["W"]
    assert half.graph.initializers["W"].dtype == ir.DataType.FLOAT


def test_a_cube_is_no_norm() -> None:
    cube = model(
        "S = Pow (X, c)  V = ReduceMean (S, last)  R = Sqrt (V)  Y = Div (X, R)",
        c=full(3), last=np.array([-1]),
    )  # fmt: skip
    assert applied("fuse_rmsnorm", cube) == Outcome()
    assert cube.opset_imports[""] == 21


def test_stacked_norms_are_both_fused() -> None:
    norm = "S{i} = Mul ({x}, {x})  V{i} = ReduceMean (S{i}, last)  R{i} = Sqrt (V{i})"
    first = norm.format(i=1, x="X") + "  N = Div (X, R1)"
    stacked = model(f"{first}  {norm.format(i=2, x='N')}  Y = Div (N, R2)", last=np.array([-1]))
    assert len(applied("fuse_rmsnorm", stacked).changed) == 2
    assert kinds(stacked) == ["RMSNormalization", "RMSNormalization"]
    assert stacked.opset_imports[""] == 23
    stacked.clone()  # every value has a producer


def test_a_newer_opset_is_not_lowered() -> None:
    newer = model(
        "S = Mul (X, X)  V = ReduceMean (S, last)  R = Sqrt (V)  Y = Div (X, R)",
        last=np.array([-1]),
    )
    newer.opset_imports[""] = 25
    assert applied("fuse_rmsnorm", newer).changed
    assert newer.opset_imports[""] == 25


def test_dilation_counts_in_same_padding() -> None:
    """ONNX Runtime refuses auto_pad with dilation, so the formula is checked by itself."""
    dilated = model(
        'Y = Conv <auto_pad = "SAME_UPPER", dilations = [2, 1]> (X, W)',
        "1,1,7,7",
        W=np.ones((1, 1, 3, 3), np.float32),
    )
    applied("resolve_auto_pad", dilated)
    (conv,) = dilated.graph
    assert list(conv.attributes.get_ints("pads", ())) == [2, 1, 2, 1]


def test_folding_into_a_shared_weight_leaves_its_other_reader_alone() -> None:
    shared = np.array([[1, 2], [3, 4]], np.float32)
    tied = model("A = MatMul (X, W)  B = Mul (A, c)  Y = MatMul (B, W)", W=shared, c=full(0.5))
    assert applied("fold_scalars", tied).changed
    first, second = (node for node in tied.graph if node.op_type == "MatMul")
    np.testing.assert_array_equal(constant(first.inputs[1]), shared / 2)
    np.testing.assert_array_equal(constant(second.inputs[1]), shared)


def test_quantised_weights_are_left_to_their_encoding() -> None:
    quantised = model(
        "W = DequantizeLinear (codes, s)  A = MatMul (X, W)  Y = Mul (A, c)",
        codes=np.ones((2, 2), np.int8), s=full(0.1), c=full(0.5),
    )  # fmt: skip
    for name in ("fold_constants", "fold_scalars"):
        outcome = applied(name, quantised)
        assert outcome.declined and not outcome.changed


def test_equalisation_evens_out_the_ranges() -> None:
    first = np.array([[8, 0.5], [4, 0.25]], np.float32)
    second = np.array([[1, 2], [2, 4]], np.float32)
    pair = model("A = MatMul (X, V)  R = Relu (A)  Y = MatMul (R, W)", V=first, W=second)
    assert applied("cross_layer_equalisation", pair).changed
    one, two = (constant(node.inputs[1]) for node in pair.graph if node.op_type == "MatMul")
    assert one is not None and two is not None
    outputs, inputs = np.abs(one).max(axis=0), np.abs(two).max(axis=1)
    np.testing.assert_allclose(outputs, inputs, rtol=1e-5)
