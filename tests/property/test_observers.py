from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec.compiler.core.encoding import F32
from edgec.compiler.frontend.observers import (
    BINS,
    CalibrationMethod,
    Histogram,
    MinMax,
    Percentile,
    clip_divergence,
    clip_mse,
)

LARGEST = float(np.finfo(np.float32).max)
TEXTS = ["minmax", "moving-average", "percentile", "percentile:90", "entropy", "mse", "mse:16"]


def arrays(limit: float = LARGEST) -> st.SearchStrategy[F32]:
    bound = float(np.float32(limit))
    return hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-bound, bound, width=32))


def pieces(array: F32, cuts: list[int]) -> list[F32]:
    return np.split(array, sorted(cut % (array.size + 1) for cut in cuts))


def histogram(*parts: F32) -> Histogram:
    made = Histogram()
    for part in parts:
        made.update(part)
    return made


@given(arrays(), st.lists(st.integers(0, 1000), max_size=5), st.randoms(use_true_random=False))
def test_histogram_depends_on_the_values_only(x: F32, cuts: list[int], rng: Random) -> None:
    whole, parts = histogram(x), pieces(x, cuts)
    rng.shuffle(parts)
    split = histogram(*parts)
    assert (split.first, split.exponent, split.zeros) == (whole.first, whole.exponent, whole.zeros)
    np.testing.assert_array_equal(split.counts, whole.counts)
    assert split.seen == whole.seen


@given(arrays(), st.lists(st.integers(0, 1000), max_size=5))
def test_widening_keeps_every_count_and_the_bound(x: F32, cuts: list[int]) -> None:
    made, taken = Histogram(), 0
    for part in pieces(x, cuts):
        made.update(part)
        taken += part.size
        assert made.total == taken
        assert made.counts.size <= BINS
        assert np.all(made.counts >= 0)


@given(arrays(1e30))
def test_each_value_lies_in_its_bin(x: F32) -> None:
    made = histogram(x)
    edges = np.ldexp(made.first + np.arange(made.counts.size + 1.0), made.exponent)
    expected = [np.count_nonzero((x >= a) & (x < b) & (x != 0)) for a, b in pairwise(edges)]
    assert made.counts.tolist() == expected


@given(arrays(), st.sampled_from(TEXTS))
def test_range_contains_zero_and_stays_within_what_was_seen(x: F32, text: str) -> None:
    observer = CalibrationMethod.parse(text).observer()
    for part in pieces(x, [7, 50]):
        observer.update(part)
    low, high = observer.range()
    assert min(float(x.min()), 0.0) <= low <= 0.0 <= high <= max(float(x.max()), 0.0)


@given(arrays(), st.sampled_from(TEXTS))
def test_a_side_that_was_seen_is_never_cut_off(x: F32, text: str) -> None:
    observer = CalibrationMethod.parse(text).observer()
    observer.update(x)
    low, high = observer.range()
    if text.startswith("percentile"):
        return
    assert (low < 0) == (float(x.min()) < 0)
    assert (high > 0) == (float(x.max()) > 0)


@given(arrays(), st.lists(st.integers(0, 1000), max_size=5))
def test_percentile_100_is_minmax(x: F32, cuts: list[int]) -> None:
    percentile, minmax = Percentile(100.0), MinMax()
    for part in pieces(x, cuts):
        percentile.update(part)
        minmax.update(part)
    assert percentile.range() == minmax.range()


@given(arrays(1e6), st.floats(50, 99.99))
def test_percentile_cuts_the_stated_share_to_within_a_bin(x: F32, percent: float) -> None:
    observer = Percentile(percent)
    observer.update(x)
    low, high = observer.range()
    width = 2.0**observer.histogram.exponent
    allowed = (100 - percent) / 200 * x.size + 1e-6
    assert np.count_nonzero(x < low - width) <= allowed
    assert np.count_nonzero(x > high + width) <= allowed


@given(arrays(1e6), st.sampled_from([4, 16, 128, 256]))
def test_mse_range_is_no_worse_than_minmax_on_the_histogram(x: F32, levels: int) -> None:
    observer = CalibrationMethod("mse", levels=levels).observer()
    observer.update(x)
    made = histogram(x)
    ends = np.array([observer.range(), made.seen.range()])
    if made.counts.any():
        chosen, minmax = clip_mse(made, ends[:, 0], ends[:, 1], levels)
        assert chosen <= minmax


@given(arrays(1e6), st.sampled_from([16, 128, 256]))
def test_entropy_range_diverges_no_more_than_minmax(x: F32, levels: int) -> None:
    observer = CalibrationMethod("entropy", levels=levels).observer()
    observer.update(x)
    made = histogram(x)
    ends = np.array([observer.range(), made.seen.range()])
    if made.counts.any():
        chosen, minmax = clip_divergence(made, ends[:, 0], ends[:, 1], levels)
        assert chosen <= minmax
        assert minmax >= -1e-9


@pytest.mark.parametrize("text", TEXTS)
@given(x=arrays(1e3), power=st.integers(-8, 8))
def test_range_scales_with_the_data(x: F32, power: int, text: str) -> None:
    if 0 < np.abs(x[x != 0]).min(initial=np.inf) < 1e-3:
        return
    plain, scaled = (CalibrationMethod.parse(text).observer() for _ in range(2))
    plain.update(x)
    scaled.update(np.ldexp(x, power))
    np.testing.assert_allclose(np.ldexp(plain.range(), power), scaled.range(), rtol=1e-12)
