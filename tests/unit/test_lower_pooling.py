"""Pooling and resizing: the integer program beside ONNX Runtime on the quantised model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.pairs import Op, assert_pair, ints


def image(x: str, y: str, body: str, **arrays: np.ndarray) -> Op:
    return Op(f"(float[{x}] X) => (float[{y}] Y)", body, arrays)


CASES = {
    "max": image("1,3,6,6", "1,3,3,3", "Y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (X)"),
    "max_padded": image(
        "2,3,7,5", "2,3,4,5", "Y = MaxPool <kernel_shape=[3,3], strides=[2,1], pads=[1,1,1,1]> (X)"
    ),
    "max_of_relu": image(
        "1,3,6,6", "1,3,3,3", "R = Relu (X) Y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (R)"
    ),
    "relu_of_max": image(
        "1,3,6,6", "1,3,3,3", "R = MaxPool <kernel_shape=[2,2], strides=[2,2]> (X) Y = Relu (R)"
    ),
    "average": image(
        "1,3,6,6", "1,3,3,3", "Y = AveragePool <kernel_shape=[2,2], strides=[2,2]> (X)"
    ),
    "average_padded": image(
        "1,3,5,5",
        "1,3,3,3",
        "Y = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (X)",
    ),
    "average_padded_included": image(
        "1,3,5,5",
        "1,3,3,3",
        "Y = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], "
        "count_include_pad=1> (X)",
    ),
    "average_relu": image(
        "1,3,4,4", "1,3,2,2", "P = AveragePool <kernel_shape=[3,3]> (X) Y = Relu (P)"
    ),
    "global": image("2,5,4,7", "2,5,1,1", "Y = GlobalAveragePool (X)"),
    "global_then_flatten": image("2,5,4,7", "2,5", "P = GlobalAveragePool (X) Y = Flatten (P)"),
    "mean_spatial": image(
        "2,5,4,4", "2,5", "Y = ReduceMean <keepdims=0> (X, axes)", axes=ints(2, 3)
    ),
}
TRANSFORMS = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
# Output sizes: double, not a multiple, smaller, one pixel.
SIZES = {"8,6": (8, 6), "7,5": (7, 5), "2,2": (2, 2), "1,9": (1, 9)}


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_onnx_runtime(name: str) -> None:
    assert_pair(CASES[name])


@pytest.mark.parametrize(("transform", "rounding"), list(itertools.product(TRANSFORMS, ROUNDINGS)))
def test_nearest_resize_takes_the_rows_that_onnx_runtime_takes(
    transform: str, rounding: str
) -> None:
    attributes = (
        f'mode="nearest", coordinate_transformation_mode="{transform}", nearest_mode="{rounding}"'
    )
    for text, (height, width) in SIZES.items():
        body = f"Y = Resize <{attributes}> (X, , , sizes)"
        op = image("1,2,4,3", f"1,2,{text}", body, sizes=ints(1, 2, height, width))
        assert assert_pair(op).worst == 0, text


@pytest.mark.parametrize("scales", [(2, 2), (1, 3), (1.5, 2.5), (0.6, 0.75)])
def test_resize_by_scales_takes_the_rows_that_onnx_runtime_takes(
    scales: tuple[float, float],
) -> None:
    height, width = int(5 * scales[0]), int(4 * scales[1])
    for transform in TRANSFORMS:
        attributes = f'mode="nearest", coordinate_transformation_mode="{transform}"'
        body = f"Y = Resize <{attributes}> (X, , scales)"
        given = np.array([1, 1, *scales], np.float32)
        op = image("1,2,5,4", f"1,2,{height},{width}", body, scales=given)
        assert assert_pair(op).worst == 0, transform
