"""A quantised model in double: exact where float32 rounds, the same graph to its callers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgec.compiler.core.graph import model_from_text
from edgec.compiler.frontend.double import in_double
from edgec.compiler.frontend.reference import Reference
from tests.pairs import single
from tests.small import cnn_samples, qdq_cnn, qoperator

CONV = """<ir_version: 10, opset_import: ["" : 21]> conv
    (TYPE[1, C, 1, 3] x) => (int8[1, 4, 1, 3] y) {
    xf = DequantizeLinear(x, xs, xz)
    wf = DequantizeLinear<axis = 0>(w, ws, wz)
    bf = DequantizeLinear<axis = 0>(b, bs, bz)
    c = Conv(xf, wf, bf)
    y = QuantizeLinear(c, ys, yz)
}"""
AVERAGE = """<ir_version: 8, opset_import: ["" : OPSET]> mean
    (int8[1, 3, 5, 5] x) => (int8[1, 3, 1, 1] y) {
    xf = DequantizeLinear(x, xs, zero)
    p = AveragePool<kernel_shape = [5, 5]>(xf)
    y = QuantizeLinear(p, ys, zero)
}"""
ZERO = np.array(0, np.int8)


def conv(kind: str, channels: int, weights: NDArray[Any], scales: NDArray[Any]) -> ir.Model:
    """Return a quantised 1x1 convolution with a bias, int8 weights and scales per channel."""
    codes = np.dtype(np.int16 if kind == "int16" else np.uint8)
    return model_from_text(
        CONV.replace("TYPE", kind).replace("C,", f"{channels},"),
        xs=single(0.0131), xz=np.array(0 if kind == "int16" else 121, codes),
        w=weights.reshape(4, channels, 1, 1), ws=scales, wz=np.zeros(4, np.int8),
        b=np.array([5, -700, 90000, 0], np.int32), bs=single(0.0131) * scales,
        bz=np.zeros(4, np.int32), ys=single(0.37), yz=np.array(-3, np.int8),
    )  # fmt: skip


def exactly(model: ir.Model, x: NDArray[Any]) -> NDArray[Any]:
    """Return the convolution of codes x [1, C, 1, W] in rational arithmetic, rounded half even."""
    c = {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.const_value}
    sums = c["w"][:, :, 0, 0].astype(np.int64) @ (x[0, :, 0].astype(np.int64) - int(c["xz"]))
    y = np.zeros((1, 4, 1, x.shape[3]), np.int8)
    for channel, column in np.ndindex(4, x.shape[3]):
        product = Fraction(float(c["xs"])) * Fraction(float(c["ws"][channel]))
        bias = Fraction(float(c["bs"][channel])) * int(c["b"][channel])
        real = (product * int(sums[channel, column]) + bias) / Fraction(float(c["ys"]))
        y[0, channel, 0, column] = np.clip(round(real) + int(c["yz"]), -128, 127)
    return y


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["uint8", "int16"]),
    channels=st.sampled_from([1, 70, 700, 3000]),
    seed=st.integers(0, 2**20),
)
def test_convolutions_are_exact(kind: str, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (4, channels)).astype(np.int8)
    scales = rng.uniform(1e-4, 2e-4, 4).astype(np.float32)
    model = conv(kind, channels, weights, scales)
    low, high = (0, 256) if kind == "uint8" else (-2048, 2048)
    x = rng.integers(low, high, (1, channels, 1, 3)).astype("u1" if kind == "uint8" else "i2")
    np.testing.assert_array_equal(Reference(in_double(model)).run({"x": x})["y"], exactly(model, x))


def test_a_near_tie_that_float32_rounds_away_is_kept() -> None:
    # float32 lacks 2**24 + 1, and the one below it is worth exactly two steps and a half.
    text = """<ir_version: 8, opset_import: ["" : 17]> tie (int32[1] x) => (int8[1] y) {
        a = DequantizeLinear(x, xs)
        m = Mul(a, f)
        y = QuantizeLinear(m, ys, zero)
    }"""
    scale = single(1.0)
    factor = single(2.5 / 2**24)
    model = model_from_text(text, xs=scale, ys=scale, zero=ZERO, f=factor)
    x = np.array([2**24 + 1], np.int32)
    assert Reference(in_double(model)).run({"x": x})["y"][0] == 3
    assert Reference(model).run({"x": x})["y"][0] == 2


@pytest.mark.parametrize("opset", ["17", "18"])
def test_an_average_of_the_whole_input(opset: str) -> None:
    model = model_from_text(
        AVERAGE.replace("OPSET", opset), xs=single(0.1), ys=single(0.1), zero=ZERO
    )
    x = np.random.default_rng(0).integers(-128, 128, (1, 3, 5, 5)).astype(np.int8)
    wanted = np.round(x.astype(np.int64).sum(axis=(2, 3), keepdims=True) / 25)
    np.testing.assert_array_equal(Reference(in_double(model)).run({"x": x})["y"], wanted)


def test_other_operators_keep_float32() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> erf
        (int8[1, 4] x) => (float[1, 4] real, int8[1, 4] y) {
        a = DequantizeLinear(x, s, zero)
        e = Erf(a)
        real = Add(e, a)
        y = QuantizeLinear(e, s, zero)
    }"""
    model = model_from_text(text, s=single(0.01), zero=ZERO)
    x = np.array([[-100, -3, 0, 77]], np.int8)
    plain, double = Reference(model).run({"x": x}), Reference(in_double(model)).run({"x": x})
    assert double["real"].dtype == np.float32
    np.testing.assert_allclose(double["real"], plain["real"], rtol=1e-6)
    np.testing.assert_array_equal(double["y"], plain["y"])


@pytest.mark.parametrize("make", [qdq_cnn, qoperator])
def test_names_and_types_are_kept_and_the_model_is_left_alone(make: Any) -> None:
    model = make()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    double = in_double(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    for ours, theirs in (
        (double.graph.inputs, model.graph.inputs),
        (double.graph.outputs, model.graph.outputs),
    ):
        assert [(v.name, v.dtype) for v in ours] == [(v.name, v.dtype) for v in theirs]


def test_a_network_is_where_float32_puts_it_up_to_near_ties() -> None:
    model = qdq_cnn()
    feeds = {"image": cnn_samples()[:1]}
    (double,), (plain,) = (
        Reference(in_double(model)).run(feeds).values(),
        Reference(model).run(feeds).values(),
    )
    assert double.dtype == plain.dtype
    step = np.abs(plain).max() / 100
    assert np.abs(double.astype(np.float64) - plain).max() < step
