"""The integer contract against exact rationals, and how loop nests walk buffers."""

from __future__ import annotations

import math
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.core.encoding import Requantiser
from edgec.compiler.lowering.kernels._access import Access, collapse, dense
from edgec.compiler.lowering.kernels._shared import (
    exact_sum,
    fits_pairs,
    pack_pairs_dsp,
    pack_rows,
)
from edgec.compiler.lowering.kernels.add import add_parameters, preshift
from edgec.compiler.lowering.kernels.average_pool import round_average
from edgec.compiler.lowering.kernels.norm import inverse_sqrt
from edgec.compiler.lowering.views import View
from tests.pairs import Array

EXTREMES = [-(2**31), -(2**31) + 1, -1, 0, 1, 2**30, 2**31 - 1]
ACCUMULATORS = st.one_of(st.sampled_from(EXTREMES), st.integers(-(2**31), 2**31 - 1))
SCALES = st.floats(2.0**-31, 2.0**28, allow_nan=False)
examples = settings(max_examples=300, deadline=None, derandomize=True)


@examples
@given(SCALES, st.lists(ACCUMULATORS, min_size=1, max_size=20))
def test_apply_is_the_exact_rational_rule(scale: float, accumulators: list[int]) -> None:
    rule = Requantiser.of(scale)
    got = rule.apply(np.array(accumulators)[:, None], 0, -(2**62), 2**62).reshape(-1)
    for acc, y in zip(accumulators, got, strict=True):
        exact = Fraction(acc * rule.multiplier[0], 2**rule.shift) + Fraction(1, 2)
        assert y == floor(exact)


@examples
@given(SCALES, ACCUMULATORS)
def test_two_instruction_form_equals_the_rule(scale: float, acc: int) -> None:
    rule = Requantiser.of(scale)
    if rule.shift < 33:
        return
    s = rule.shift - 32
    high = ((acc * rule.multiplier[0]) >> 32) + (1 << (s - 1))
    assert -(2**31) <= high < 2**31, "smmla would wrap"
    assert high >> s == rule.apply(np.array([acc]), 0, -(2**62), 2**62)[0]


@examples
@given(st.lists(SCALES, min_size=1, max_size=5))
def test_multipliers_are_31_bits_and_close(scales: list[float]) -> None:
    rule = Requantiser.of(scales)
    assert 2**30 <= max(rule.multiplier) < 2**31
    assert 1 <= rule.shift <= 62
    for scale, multiplier in zip(scales, rule.multiplier, strict=True):
        assert abs(Fraction(multiplier, 2**rule.shift) - Fraction(scale)) <= Fraction(
            1, 2 ** (rule.shift + 1)
        )


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan"), 2.0**-33, 2.0**30])
def test_scales_out_of_range_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="rescale factor"):
        Requantiser.of(scale)


@pytest.mark.parametrize("scale", [2.0**-32, 2.0**30 - 1, 1 - 2.0**-40, 1.0])
def test_scales_at_the_edges_are_taken(scale: float) -> None:
    rule = Requantiser.of(scale)
    assert 1 <= rule.shift <= 62 and max(rule.multiplier) < 2**31


@examples
@given(
    st.sampled_from([8, 12, 16]), st.floats(-1, 1), st.floats(2.0**-27, 1), st.floats(-1, 1),
    st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1),
)  # fmt: skip
def test_sum_of_two_tensors_is_exact_to_its_factors(
    bits: int, left: float, right: float, a: float, b: float, za: float, zb: float
) -> None:
    left, right = (math.ldexp(scale, 23 - bits) for scale in (left, right))
    codes = [math.floor(share * ((1 << (bits - 1)) - 1)) for share in (a, b, za, zb)]
    _exact_sum(bits, (left, right), codes)


def _exact_sum(bits: int, scales: tuple[float, float], codes: list[int]) -> None:
    left, right = scales
    a, b, za, zb = codes
    q = [int(v) for v in add_parameters((left, right), (za, zb), 0, -128, 127, bits)]
    shift, factors = q[0], q[6:]
    total = ((a - za) * factors[0] + (b - zb) * factors[1]) << preshift(bits)
    assert abs(total) < 2**62
    high = (total >> 32) + (1 << (shift - 33))
    assert -(2**31) <= high < 2**31, "the high word would wrap"
    assert high >> (shift - 32) == floor(Fraction(total, 2**shift) + Fraction(1, 2))
    real = (a - za) * Fraction(left) + (b - zb) * Fraction(right)
    # Factors are rounded to 29 bits or more of the larger one.
    limit = Fraction(max(abs(left), right)) * (abs(a - za) + abs(b - zb)) / 2**29
    assert abs(Fraction(total, 2**shift) - real) <= limit


@examples
@given(st.integers(-(2**24), 2**24), st.integers(2, 400), st.integers(20, 45))
def test_averages_round_ties_to_even(total: int, divisor: int, shift: int) -> None:
    multiplier = 2**shift // divisor
    if multiplier >= 2**31:
        return
    q = np.array([shift, 0, -(2**30), 2**30, 0], np.int32)
    exact = Fraction(total * multiplier, 2**shift)
    if abs(exact) < 100:
        assert int(round_average(np.array([total]), multiplier, q)[0]) == round(exact)


@examples
@given(st.one_of(st.integers(1, 2**52), st.integers(0, 52).map(lambda e: 2**e)))
def test_inverse_square_root_is_good_to_26_bits(v: int) -> None:
    r, k = inverse_sqrt(np.array([v], np.uint64))
    assert 2**30 <= int(r[0]) <= 2**31
    got = Fraction(int(r[0])) / Fraction(2) ** (46 + int(k[0]))
    assert abs(float(got**2 * v) - 1) < 2.0**-26


@st.composite
def nests(draw: st.DrawFn) -> tuple[tuple[int, ...], Access]:
    """Return a loop shape and an access built from transposes, slices and broadcasts."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    view = View.whole("b", shape)
    for _ in range(draw(st.integers(0, 4))):
        rank = len(view.shape)
        kind = draw(st.sampled_from(["transpose", "slice", "broadcast", "reshape"]))
        if kind == "transpose":
            view = view.transpose(draw(st.permutations(range(rank))))
        elif kind == "slice":
            axis = draw(st.integers(0, rank - 1))
            n = view.shape[axis]
            start, step = draw(st.integers(0, n - 1)), draw(st.sampled_from([-2, -1, 1, 2]))
            view = view.slice((*[slice(None)] * axis, slice(start, None, step)))
        elif kind == "broadcast":
            view = view.broadcast((draw(st.integers(1, 3)), *view.shape))
        else:
            flat = view.reshape((int(np.prod(view.shape)),))
            view = flat if flat is not None else view
    return view.shape, view.access


@examples
@given(nests())
def test_collapse_keeps_every_position(nest: tuple[tuple[int, ...], Access]) -> None:
    shape, access = nest
    extents, (a, b) = collapse(shape, (access, dense(shape)))
    for before, after in ((access, a), (dense(shape), b)):
        want = before.positions(shape).reshape(-1)
        np.testing.assert_array_equal(after.positions(extents).reshape(-1), want)
    assert 1 not in extents


@examples
@given(st.data())
def test_views_equal_numpy(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    base = np.arange(int(np.prod(shape)))
    view, array = View.whole("b", shape), base.reshape(shape)
    for _ in range(data.draw(st.integers(1, 5))):
        rank = array.ndim
        kind = data.draw(st.sampled_from(["transpose", "slice", "broadcast", "reshape", "pick"]))
        axis = data.draw(st.integers(0, rank - 1)) if rank else 0
        if kind == "transpose":
            order = data.draw(st.permutations(range(rank)))
            view, array = view.transpose(order), array.transpose(order)
        elif kind == "slice" and rank:
            stop, step = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([-1, 1, 2]))
            index = (*[slice(None)] * axis, slice(None, stop if step > 0 else None, step))
            view, array = view.slice(index), array[index]
        elif kind == "pick" and rank:
            index = (*[slice(None)] * axis, data.draw(st.integers(0, array.shape[axis] - 1)))
            view, array = view.slice(index), array[index]
        elif kind == "broadcast":
            view, array = (
                view.broadcast((2, *array.shape)),
                np.broadcast_to(array, (2, *array.shape)),
            )
        elif kind == "reshape":
            new = data.draw(st.sampled_from([(array.size,), (1, array.size), (array.size, 1)]))
            reshaped = view.reshape(new)
            if reshaped is None:
                continue
            view, array = reshaped, array.reshape(new)
        np.testing.assert_array_equal(base[view.access.positions(view.shape)], array)


@examples
@given(st.integers(1, 6), st.integers(1, 70), st.integers(1, 6), st.integers(0, 2**31))
def test_float_sums_are_exact(m: int, k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-128, 128, (rows, k)).astype(np.int8) for rows in (m, n))
    np.testing.assert_array_equal(exact_sum(a, b), a.astype(np.int64) @ b.astype(np.int64).T)


def unpack_rows_dsp(packed: Array, rows: int, k: int, together: int) -> Array:
    """Read weights as the inner blocks of edgec_gemm_dsp.h walk them."""
    out = np.zeros((-(-rows // together) * together, -(-k // 4) * 4), np.int8)
    at = 0
    for first in range(0, rows, together):
        for i in range(0, out.shape[1], 4):
            for row in range(first, first + together):
                out[row, i : i + 4] = packed[at : at + 4]
                at += 4
    assert at == packed.size
    return out


@examples
@given(st.integers(1, 9), st.integers(1, 20), st.sampled_from([1, 4]))
def test_dsp_packing_is_read_back(rows: int, k: int, together: int) -> None:
    weight = np.random.default_rng(rows * 100 + k).integers(-127, 128, (rows, k)).astype(np.int8)
    read = unpack_rows_dsp(pack_rows(weight, together), rows, k, together)
    np.testing.assert_array_equal(read[:rows, :k], weight)
    assert not read[rows:].any() and not read[:, k:].any()


def pair_sums(packed: Array, x: Array, rows: int, together: int) -> Array:
    """Sum products as the blocks for pairs of edgec_gemm_dsp.h do, in wrapping int32."""
    k = -(-x.size // 4) * 4
    column = np.pad(x, (0, k - x.size)).reshape(-1, 4)[:, [0, 2, 1, 3]].astype(np.int64)
    halves = packed.view("<i2").reshape(-1, k // 4, together, 4).astype(np.int64)
    low = (halves + 128) % 256 - 128
    full, a = (np.einsum("rkph,kh->rp", part, column) for part in (halves, low))
    b = ((full - a + 2**31) % 2**32 - 2**31) >> 8
    return np.stack([a, b], axis=-1).reshape(-1)[:rows]


@examples
@given(st.integers(1, 9), st.integers(1, 600), st.integers(0, 2**31))
def test_paired_weights_give_every_sum_back(rows: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reach = int(rng.integers(1, 128))
    weight = rng.integers(-reach, reach + 1, (rows, k)).astype(np.int8)
    x = rng.choice([-128, 127, 3], k).astype(np.int8)
    exact = weight.astype(np.int64) @ x.astype(np.int64)
    if fits_pairs(weight):
        for together in (1, 2):
            sums = pair_sums(pack_pairs_dsp(weight, together), x, rows, together)
            np.testing.assert_array_equal(sums, exact)


def test_weights_that_would_overflow_are_not_paired() -> None:
    assert fits_pairs(np.full((2, 516), -127, np.int8))
    assert not fits_pairs(np.full((2, 517), 127, np.int8))
    assert not fits_pairs(np.full((2, 4), -128, np.int8))
