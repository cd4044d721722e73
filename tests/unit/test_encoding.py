"""Encodings: validation, the codes ONNX Runtime stores, special ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.compiler.core.encoding import TensorEncoding, affine_encoding, symmetric_encoding
from edgec.compiler.core.graph import model_from_text
from edgec.compiler.frontend.reference import Reference


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((7, (1.0,), (0,)), "bits must be one of"),
        ((8, (), ()), "at least one"),
        ((8, (1.0, 2.0), (0,), 0), "one scale per zero point"),
        ((8, (1.0, 2.0), (0, 0)), "a per-tensor encoding has one scale, got 2"),
        ((8, (0.0,), (0,)), "finite and positive"),
        ((8, (float("inf"),), (0,)), "finite and positive"),
        ((8, (float("nan"),), (0,)), "finite and positive"),
        ((8, (-1.0,), (0,)), "finite and positive"),
    ],
)
def test_impossible_encodings_are_refused(arguments: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        TensorEncoding(*arguments)


@pytest.mark.parametrize(("bits", "signed", "limits", "dtype"), [
    (8, True, (-128, 127), "int8"), (8, False, (0, 255), "uint8"), (4, True, (-8, 7), "int8"),
    (2, False, (0, 3), "uint8"), (16, True, (-32768, 32767), "int16"),
    (32, True, (-(2**31), 2**31 - 1), "int32"),
])  # fmt: skip
def test_limits_and_types(bits: int, signed: bool, limits: tuple[int, int], dtype: str) -> None:
    encoding = TensorEncoding(bits, (0.5,), (0,), None, signed)
    assert encoding.limits == limits
    assert encoding.dtype == np.dtype(dtype)
    codes = encoding.quantise([-1e12, 1e12])
    assert codes.tolist() == list(limits) and codes.dtype == np.dtype(dtype)


@pytest.mark.parametrize("zero_type", ["int8", "uint8"])
def test_codes_are_those_of_onnx_runtime(zero_type: str) -> None:
    signed = zero_type == "int8"
    model = model_from_text(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        m (float[3,500] X) => ({zero_type}[3,500] Q, float[3,500] Y) {{
        Q = QuantizeLinear <axis=0> (X, s, z) Y = DequantizeLinear <axis=0> (Q, s, z) }}""",
        s=np.array([0.03, 1.0, 7e-4], np.float32), z=np.array([3, 0, 9], zero_type),
    )  # fmt: skip
    x = (np.random.default_rng(3).standard_normal((3, 500)) * 4).astype(np.float32)
    x[1, :9] = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 300.5, -300.5, 0]  # ties go to even
    answer = Reference(model).run({"X": x})
    scale = tuple(float(np.float32(s)) for s in (0.03, 1.0, 7e-4))
    encoding = TensorEncoding(8, scale, (3, 0, 9), 0, signed)
    np.testing.assert_array_equal(encoding.quantise(x), answer["Q"])
    np.testing.assert_array_equal(encoding.dequantise(answer["Q"]), answer["Y"])


def test_affine_encoding_holds_zero_exactly() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 3.0), (-4.0, -1.0), (0.0, 0.0), (-1e-30, 1e-30)):
        encoding = affine_encoding(low, high)
        assert encoding.roundtrip([0.0])[0] == 0


def test_affine_encoding_of_one_sided_ranges_uses_every_code() -> None:
    assert affine_encoding(0, 255).zero_point == (-128,)
    assert affine_encoding(-255, 0).zero_point == (127,)
    assert affine_encoding(0, 255, signed=False).zero_point == (0,)
    assert affine_encoding(0, 3, bits=2).scale == (1.0,)


def test_symmetric_encoding_per_channel() -> None:
    encoding = symmetric_encoding([127.0, 0.0, 12.7], 8, axis=1)
    assert encoding.zero_point == (0, 0, 0) and encoding.axis == 1
    assert encoding.scale[0] == 1.0 and encoding.scale[1] > 0
    assert symmetric_encoding(7, 4, None).scale == (1.0,)


def test_negative_axis_is_taken_from_the_end() -> None:
    encoding = TensorEncoding(8, (1.0, 10.0), (0, 0), -1)
    assert encoding.quantise([[10.0, 10.0]]).tolist() == [[10, 1]]
