"""Conv, Gemm and MatMul: the integer program beside ONNX Runtime on the quantised model."""

from __future__ import annotations

import pytest

from tests.pairs import Op, assert_pair, normal, single


def conv(
    x: str, y: str, attributes: str, weight: tuple[int, ...], bias: bool = True, tail: str = "",
    kernels: str | None = None,
) -> Op:  # fmt: skip
    arrays = {"W": normal(*weight)} | ({"B": normal(weight[0], seed=1)} if bias else {})
    out = "C" if tail else "Y"
    call = f"{out} = Conv <{attributes}> (X, W{', B' if bias else ''}) {tail}"
    return Op(f"(float[{x}] X) => (float[{y}] Y)", call, arrays, kernels=kernels)


CASES = {
    "conv_3x3_pads": conv(
        "1,4,8,9", "1,6,8,9", "kernel_shape=[3,3], pads=[1,1,1,1]", (6, 4, 3, 3)
    ),
    "conv_asymmetric_pads_and_strides": conv(
        "1,3,9,8", "1,5,5,5", "kernel_shape=[3,3], pads=[0,1,2,2], strides=[2,2]", (5, 3, 3, 3)
    ),
    "conv_dilated": conv(
        "1,2,9,9", "1,4,5,7", "kernel_shape=[3,2], dilations=[2,2]", (4, 2, 3, 2), bias=False
    ),
    "conv_groups_relu": conv(
        "2,6,5,5", "2,4,3,3", "kernel_shape=[3,3], group=2", (4, 3, 3, 3), tail="Y = Relu(C)",
        kernels="copy conv2d copy",
    ),
    "conv_pointwise_clip": conv(
        "1,8,4,4", "1,5,4,4", "kernel_shape=[1,1]", (5, 8, 1, 1), tail="Y = Clip(C, zero, six)",
        kernels="copy gemm copy",
    ),
    "conv_pointwise_strided": conv(
        "1,8,5,5", "1,5,3,3", "kernel_shape=[1,1], strides=[2,2]", (5, 8, 1, 1)
    ),
    "conv_depthwise": conv(
        "1,6,7,7", "1,6,4,4", "kernel_shape=[3,3], group=6, pads=[1,1,1,1], strides=[2,2]",
        (6, 1, 3, 3), kernels="copy depthwise_conv2d copy",
    ),
    "conv_depthwise_multiplier_2": conv(
        "1,3,6,6", "1,6,4,4", "kernel_shape=[3,3], group=3", (6, 1, 3, 3)
    ),
    "conv_1d": conv("1,3,20", "1,4,9", "kernel_shape=[5], strides=[2], pads=[1,1]", (4, 3, 5)),
    "conv_1d_depthwise_dilated": conv(
        "2,4,16", "2,4,12", "kernel_shape=[3], dilations=[2], group=4", (4, 1, 3)
    ),
    "conv_on_one_pixel": conv(
        "1,4,1,1", "1,4,1,1", "kernel_shape=[3,3], pads=[1,1,1,1]", (4, 4, 3, 3)
    ),
    "gemm_trans_b": Op(
        "(float[3,7] X) => (float[3,5] Y)", "Y = Gemm <transB=1> (X, W, B)",
        {"W": normal(5, 7), "B": normal(5, seed=1)}, kernels="gemm",
    ),
    "gemm_relu": Op(
        "(float[3,7] X) => (float[3,5] Y)", "G = Gemm (X, W, B) Y = Relu(G)",
        {"W": normal(7, 5), "B": normal(5, seed=1)}, kernels="gemm",
    ),
    "gemm_no_bias": Op(
        "(float[1,64] X) => (float[1,2] Y)", "Y = Gemm (X, W)", {"W": normal(64, 2)}
    ),
    "matmul_bias_right": Op(
        "(float[2,3,8] X) => (float[2,3,5] Y)", "M = MatMul (X, W) Y = Add (M, B)",
        {"W": normal(8, 5), "B": normal(5, seed=1)}, kernels="gemm",
    ),
    "matmul_bias_left": Op(
        "(float[2,3,8] X) => (float[2,3,5] Y)", "M = MatMul (X, W) A = Add (B, M) Y = Relu(A)",
        {"W": normal(8, 5), "B": normal(5, seed=1)}, kernels="gemm",
    ),
    "matmul_bias_3d": Op(
        "(float[2,3,8] X) => (float[2,3,5] Y)", "M = MatMul (X, W) Y = Add (M, B)",
        {"W": normal(8, 5), "B": normal(1, 1, 5, seed=1)},
    ),
    "matmul_single_bias": Op(
        "(float[3,8] X) => (float[3,5] Y)", "M = MatMul (X, W) Y = Add (M, B)",
        {"W": normal(8, 5), "B": normal(1, seed=1)},
    ),
    "matmul_scaled": Op(
        "(float[3,8] X) => (float[3,5] Y)", "M = MatMul (X, W) Y = Mul (M, half)",
        {"W": normal(8, 5), "half": single(0.125)},
    ),
    "matmul_activations": Op(
        "(float[2,3,4,8] A, float[2,3,8,5] B) => (float[2,3,4,5] Y)", "Y = MatMul (A, B)", {},
        kernels="matmul",
    ),
    "matmul_broadcast_batch": Op(
        "(float[2,3,4,8] A, float[3,8,5] B) => (float[2,3,4,5] Y)", "Y = MatMul (A, B)", {}
    ),
    "matmul_transposed_lazily": Op(
        "(float[2,4,3,8] A, float[2,5,3,8] B) => (float[2,3,4,5] Y)",
        "P = Transpose <perm=[0,2,1,3]> (A) Q = Transpose <perm=[0,2,3,1]> (B) Y = MatMul (P, Q)",
        {}, kernels="matmul",
    ),
    "matmul_scaled_scores": Op(
        "(float[2,4,8] A, float[2,8,5] B) => (float[2,4,5] Y)",
        "S = MatMul (A, B) Y = Div (S, root)", {"root": single(2.828)}, kernels="matmul",
    ),
    "matmul_vector_like": Op(
        "(float[2,1,8] A, float[2,8,1] B) => (float[2,1,1] Y)", "Y = MatMul (A, B)", {}
    ),
    "matmul_constant_batch": Op(
        "(float[2,4,8] A) => (float[2,4,5] Y)", "Y = MatMul (A, W)", {"W": normal(2, 8, 5)}
    ),
    "matmul_constant_left": Op(
        "(float[8,5] A) => (float[4,5] Y)", "Y = MatMul (W, A)", {"W": normal(4, 8)}
    ),
}  # fmt: skip
CLIP = {"zero": single(0), "six": single(6)}


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_onnx_runtime(name: str) -> None:
    op = CASES[name]
    if "zero" in op.body:
        op = Op(op.signature, op.body, {**op.arrays, **CLIP}, kernels=op.kernels)
    assert_pair(op)
