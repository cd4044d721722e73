from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from edgec.compiler.core.encoding import F32, affine_encoding
from edgec.compiler.core.errors import OptionError
from edgec.compiler.frontend.observers import (
    BINS,
    CalibrationMethod,
    Entropy,
    Histogram,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Percentile,
    clip_divergence,
    clip_mse,
)

METHODS = ["minmax", "moving-average", "percentile", "entropy", "mse"]


def f32(*values: float) -> F32:
    return np.array(values, np.float32)


def heavy_tail(size: int = 50_000) -> F32:
    rng = np.random.default_rng(3)
    return rng.standard_t(3, size).astype(np.float32)


def true_mse(x: F32, ends: tuple[float, float], bits: int) -> float:
    return float(
        np.mean(np.square(affine_encoding(*ends, bits=bits).roundtrip(x) - x, dtype=float))
    )


def test_minmax_is_widened_to_zero() -> None:
    observer = MinMax()
    observer.update(f32(3, 5))
    assert observer.range() == (0, 5)
    observer.update(f32(-2))
    assert observer.range() == (-2, 5)


def test_moving_average_weighs_the_past_by_nine_tenths() -> None:
    observer = MovingAverage()
    for array in (f32(-10, 20), f32(0, 0), f32(-4, 6)):
        observer.update(array)
    low, high = observer.range()
    assert low == pytest.approx(0.9 * (0.9 * -10) + 0.1 * -4)
    assert high == pytest.approx(0.9 * (0.9 * 20) + 0.1 * 6)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_seen_means_an_empty_range(name: str) -> None:
    observer = CalibrationMethod.parse(name).observer()
    assert observer.range() == (0, 0)
    observer.update(np.zeros((0, 3), np.float32))
    assert observer.range() == (0, 0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, -1e9, 1e-42])
def test_a_constant_keeps_its_value(name: str, value: float) -> None:
    observer = CalibrationMethod.parse(name).observer()
    observer.update(np.full((2, 3), value, np.float32))
    stored = float(np.float32(value))
    assert observer.range() == (min(stored, 0), max(stored, 0))


def test_histogram_counts_zeros_apart_from_the_bins() -> None:
    histogram = Histogram()
    histogram.update(f32(0, 0, 1, -1, 0.25))
    assert (histogram.zeros, int(histogram.counts.sum()), histogram.total) == (2, 3, 5)


def test_histogram_uses_at_least_half_of_its_bins() -> None:
    for high in (1.0, 1.99, 2.0, 3e-5, 7e8):
        histogram = Histogram()
        histogram.update(f32(-high / 3, high))
        assert BINS // 2 <= histogram.counts.size <= BINS


def test_histogram_memory_does_not_grow() -> None:
    histogram = Histogram()
    rng = np.random.default_rng(0)
    for scale in np.geomspace(1e-20, 1e20, 100):
        histogram.update(rng.standard_normal(1000).astype(np.float32) * np.float32(scale))
    assert histogram.counts.nbytes <= 8 * BINS
    assert histogram.total == 100_000


def test_counting_a_large_array_needs_little_extra_memory() -> None:
    array = np.random.default_rng(0).standard_normal(4_000_000).astype(np.float32)
    tracemalloc.start()
    Histogram().update(array)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4_000_000


def test_quantile_lies_between_the_neighbouring_values_to_within_a_bin() -> None:
    x = heavy_tail()
    x[::3] = 0
    histogram = Histogram()
    histogram.update(x)
    width = 2.0**histogram.exponent
    ordered = np.sort(x)
    for share in (0.001, 0.2, 0.5, 0.9, 0.9999):
        place = round(share * x.size)
        assert ordered[place - 1] - width <= histogram.quantile(share) <= ordered[place] + width


def test_percentile_ignores_rare_outliers_and_counts_zeros() -> None:
    x = np.concatenate((np.linspace(0, 1, 5000), np.zeros(4990), np.full(10, 500)))
    kept, cut = Percentile(99.9), Percentile(99.0)
    for observer in (kept, cut):
        observer.update(x.astype(np.float32))
    assert kept.range() == (0, 500)
    assert cut.range()[1] <= 1 + 500 / (BINS // 2)


@pytest.mark.parametrize(("bits", "share"), [(4, 0.25), (8, 0.95)])
def test_mse_range_beats_minmax_on_the_data_itself(bits: int, share: float) -> None:
    x = heavy_tail()
    observer = MeanSquaredError(1 << bits)
    observer.update(x)
    best = true_mse(x, observer.range(), bits)
    assert best < share * true_mse(x, (float(x.min()), float(x.max())), bits)


def test_mse_range_is_near_the_optimum_of_a_full_search() -> None:
    x = heavy_tail()
    observer = MeanSquaredError(16)
    observer.update(x)
    low, high = float(x.min()), float(x.max())
    shares = np.geomspace(0.02, 1, 30)
    grid = min(true_mse(x, (low * a, high * b), 4) for a in shares for b in shares)
    assert true_mse(x, observer.range(), 4) <= 1.03 * grid


def test_clip_mse_agrees_with_the_encoding() -> None:
    # Values at bin centres, so that the histogram loses nothing.
    x = (np.arange(-600, 900, 7, dtype=np.float32) + np.float32(0.5)) * np.float32(0.25)
    histogram = Histogram()
    histogram.update(x)
    histogram.update(np.zeros(100, np.float32))
    with_zeros = np.concatenate((x, np.zeros(100, np.float32)))
    for low, high in ((-150.0, 225.0), (-40.0, 60.0), (-100.0, 0.0)):
        found = clip_mse(histogram, np.array([low]), np.array([high]), 256)
        assert found[0] == pytest.approx(true_mse(with_zeros, (low, high), 8), rel=1e-3)


def test_clip_divergence_of_a_hand_made_histogram() -> None:
    histogram = Histogram(np.array([4, 2, 1, 1], np.int64), 0, 0)
    histogram.seen.update(f32(0, 4))
    found = clip_divergence(histogram, np.zeros(3), np.array([4.0, 2.0, 0.25]), 2)
    # [0, 4) in two levels: Q = (3, 3, 1, 1). [0, 2): P = (4, 2 + 2), Q = (4, 2).
    whole = 4 / 8 * np.log(4 / 3) + 2 / 8 * np.log(2 / 3)
    half = 0.5 * np.log(0.5 / (4 / 6)) + 0.5 * np.log(0.5 / (2 / 6))
    np.testing.assert_allclose(found, [whole, half, np.inf], rtol=1e-12)


@pytest.mark.parametrize("size", [2, 32, 1000])
def test_entropy_of_few_values_keeps_at_least_levels_bins(size: int) -> None:
    for seed in range(5):
        observer = Entropy(256)
        observer.update(np.random.default_rng(seed).standard_normal(size).astype(np.float32))
        low, high = observer.range()
        assert high - low >= 256 * 2.0**observer.histogram.exponent


@pytest.mark.parametrize("sign", [1, -1])
def test_mse_cuts_one_side_and_keeps_the_other(sign: int) -> None:
    x = sign * np.concatenate((np.linspace(0, 10, 20_000), np.full(1, -40.0)))
    observer = MeanSquaredError(16)
    observer.update(x.astype(np.float32))
    short, long = sorted(abs(end) for end in observer.range())
    assert short < 2
    assert 9 < long <= 10


def test_entropy_clips_a_few_far_outliers() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate((rng.standard_normal(100_000), np.full(5, 40.0), np.full(5, -60.0)))
    observer = Entropy(256)
    observer.update(x.astype(np.float32))
    low, high = observer.range()
    assert -30 < low < -2.5
    assert 2.5 < high < 20


@pytest.mark.parametrize("text", ["entropy:256", "entropy:128", "mse:256"])
def test_range_search_is_fast(text: str) -> None:
    method = CalibrationMethod.parse(text).observer()
    method.update(heavy_tail())
    times: list[float] = []
    for _ in range(5):
        begin = time.perf_counter()
        method.range()
        times.append(time.perf_counter() - begin)
    # A search that is not vectorised takes seconds; the margin is for loaded machines.
    assert min(times) < 0.2


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("minmax", CalibrationMethod()),
        ("percentile:99.5", CalibrationMethod("percentile", percentile=99.5)),
        ("entropy:128", CalibrationMethod("entropy", levels=128)),
        ("mse:16", CalibrationMethod("mse", levels=16)),
    ],
)
def test_parse_reads_a_method_and_its_parameter(text: str, method: CalibrationMethod) -> None:
    assert CalibrationMethod.parse(text) == method


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("median", "use one of minmax, moving-average"),
        ("minmax:3", "takes no parameter"),
        ("percentile:high", "'high' is no number"),
        ("percentile:101", "give 50 to 100"),
        ("percentile:nan", "give 50 to 100"),
        ("mse:2", "give 4 to 256"),
    ],
)
def test_parse_names_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        CalibrationMethod.parse(text)


def test_parameters_reach_the_observer() -> None:
    percentile = CalibrationMethod("percentile", percentile=90).observer()
    entropy = CalibrationMethod("entropy", levels=128).observer()
    mse = CalibrationMethod("mse", levels=16).observer()
    assert isinstance(percentile, Percentile)
    assert isinstance(entropy, Entropy)
    assert isinstance(mse, MeanSquaredError)
    assert (percentile.percentile, entropy.levels, mse.levels) == (90, 128, 16)
