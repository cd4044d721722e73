"""Round trips through codes: half a step inside the range, saturation outside, idempotent."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.core.encoding import TensorEncoding, affine_encoding, symmetric_encoding
from edgec.compiler.core.plan import QuantPlan

examples = settings(max_examples=200, deadline=None, derandomize=True)
NUMBERS = st.floats(-1e4, 1e4, width=32)
RANGES = st.tuples(NUMBERS, NUMBERS).map(sorted)


@st.composite
def encodings(draw: st.DrawFn) -> TensorEncoding:
    bits = draw(st.sampled_from([2, 4, 8, 16]))
    if draw(st.booleans()):
        low, high = draw(RANGES)
        return affine_encoding(low, high, bits, draw(st.booleans()))
    size = draw(st.integers(1, 4))
    magnitudes = draw(st.lists(st.floats(0, 1e4), min_size=size, max_size=size))
    return symmetric_encoding(magnitudes, bits, 0)


def column(encoding: TensorEncoding, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = np.asarray(encoding.scale, np.float64)[:, None]
    return rng.uniform(-1.2, 1.2, (len(encoding.scale), 50)) * scale * (1 << encoding.bits)


@examples
@given(encodings(), st.integers(0, 2**31))
def test_error_is_half_a_step_inside_and_saturates_outside(e: TensorEncoding, seed: int) -> None:
    x = column(e, seed).astype(np.float32).astype(np.float64)
    back = e.roundtrip(x).astype(np.float64)
    low, high = e.limits
    scale, zero = (np.asarray(v, np.float64)[:, None] for v in (e.scale, e.zero_point))
    smallest, largest = (low - zero) * scale, (high - zero) * scale
    clipped = np.clip(x, smallest, largest)
    # float32 arithmetic: the quotient and the product are rounded once each.
    slack = scale * (0.5 + 2.0 ** (e.bits - 22)) + np.abs(x) * 2.0**-22
    assert (np.abs(back - clipped) <= slack).all()


@examples
@given(encodings(), st.integers(0, 2**31))
def test_round_trip_is_idempotent(e: TensorEncoding, seed: int) -> None:
    codes = e.quantise(column(e, seed))
    np.testing.assert_array_equal(e.quantise(e.dequantise(codes)), codes)
    assert codes.dtype == e.dtype
    assert codes.min() >= e.limits[0] and codes.max() <= e.limits[1]


@examples
@given(encodings(), st.integers(0, 2**31))
def test_quantise_keeps_order(e: TensorEncoding, seed: int) -> None:
    x = np.sort(column(e, seed), axis=1)
    assert (np.diff(e.quantise(x).astype(np.int64), axis=1) >= 0).all()


@examples
@given(RANGES, st.sampled_from([2, 4, 8, 16]), st.booleans())
def test_affine_range_is_covered_to_half_a_step(ends: list[float], bits: int, signed: bool) -> None:
    e = affine_encoding(ends[0], ends[1], bits, signed)
    low, high = e.limits
    first, last = ((c - e.zero_point[0]) * e.scale[0] for c in (low, high))
    slack = e.scale[0] * 0.51
    assert first <= min(ends[0], 0) + slack
    assert last >= max(ends[1], 0) - slack


@examples
@given(st.dictionaries(st.text(min_size=1, max_size=5), encodings(), max_size=4))
def test_plans_survive_json(items: dict[str, TensorEncoding]) -> None:
    plan = QuantPlan().with_encodings(items).with_float({"v": "why"})
    assert QuantPlan.from_json(plan.to_json()) == plan
