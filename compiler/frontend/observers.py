"""Streaming range observers: what a tensor held, in memory that does not grow with the samples.

A histogram has dyadic bins: bin i of exponent e holds [i * 2**e, (i + 1) * 2**e). Bins of two
grids nest exactly, so widening merges whole bins, and the counts depend on the values alone,
never on their order or on how they were split into arrays. Zero is always a bin edge, and
exact zeros are counted apart because every encoding stores them without error.

Entropy follows Migacz, "8-bit inference with TensorRT" (GTC 2017), with both ends free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, cast, get_args

import numpy as np

from ..core.encoding import F32, F64, I64
from ..core.errors import OptionError

BINS = 2048
MOMENTUM = 0.9  # weight of the past in the moving average; the newest array gets the rest
BLOCK = 1 << 16  # elements binned at once: bounds the temporaries and keeps them in the cache
SMALLEST_CLIP = 1 / 128  # the range searches never keep less of either side than this
GRID = 11  # clip positions of either end in the coarse search; their ratio is 1.6
LINE = 16  # clip positions of one end in each closer search

MethodName = Literal["minmax", "moving-average", "percentile", "entropy", "mse"]


class Observer(Protocol):
    """Learns the range of one tensor from the finite values of arrays of any shape."""

    def update(self, array: F32) -> None:
        """Take the values of one array into account."""
        ...

    def range(self) -> tuple[float, float]:
        """Return (low, high): contains zero, stays within the hull of zero and what was seen."""
        ...


@dataclass(frozen=True, slots=True)
class CalibrationMethod:
    """How a range is chosen, and the parameters of that choice.

    `percentile`: share of values kept, half of the rest is cut at either end; for percentile.
    `levels`: codes of the encoding the range is made for; for entropy and mse.
    """

    name: MethodName = "minmax"
    percentile: float = 99.99
    levels: int = 256

    def __post_init__(self) -> None:
        if self.name not in get_args(MethodName):
            supported = ", ".join(get_args(MethodName))
            raise OptionError(f"unknown calibration method '{self.name}': use one of {supported}")
        if not 50 <= self.percentile <= 100:
            raise OptionError(f"percentile {self.percentile} is not usable: give 50 to 100")
        if not 4 <= self.levels <= 256:
            raise OptionError(f"{self.levels} levels are not usable: give 4 to 256")

    @staticmethod
    def parse(text: str) -> CalibrationMethod:
        """Read "minmax", "percentile:99.9", "entropy:128" and so on; raises OptionError."""
        name, _, parameter = text.partition(":")
        method = CalibrationMethod(cast(MethodName, name))
        if not parameter:
            return method
        try:
            if name == "percentile":
                return replace(method, percentile=float(parameter))
            if name in ("entropy", "mse"):
                return replace(method, levels=int(parameter))
        except ValueError:
            raise OptionError(
                f"calibration method '{text}' is not usable: '{parameter}' is no number"
            ) from None
        raise OptionError(f"calibration method '{name}' takes no parameter: drop ':{parameter}'")

    def observer(self, histogram: Histogram | None = None) -> Observer:
        """Return a fresh observer that chooses its range by this method.

        `histogram`: what it counts in, if it counts; else one of its own.
        """
        counted = Histogram() if histogram is None else histogram
        makers: dict[str, Callable[[], Observer]] = {
            "minmax": MinMax,
            "moving-average": MovingAverage,
            "percentile": lambda: Percentile(self.percentile, counted),
            "entropy": lambda: Entropy(self.levels, counted),
            "mse": lambda: MeanSquaredError(self.levels, counted),
        }
        return makers[self.name]()


class Observers:
    """One observer per method; those that count values share one histogram."""

    def __init__(self, methods: Sequence[CalibrationMethod]) -> None:
        histogram = Histogram()
        self._observers = [method.observer(histogram) for method in methods]
        counted = [getattr(observer, "histogram", observer) for observer in self._observers]
        self._updated = list({id(item): item for item in counted}.values())

    def update(self, array: F32) -> None:
        """Take the values of one array into account, once for all that count them."""
        for item in self._updated:
            item.update(array)

    def range(self, method: int) -> tuple[float, float]:
        """Return the range by method number `method`."""
        return self._observers[method].range()


@dataclass(slots=True)
class MinMax:
    """The smallest and the largest value."""

    low: float = math.inf
    high: float = -math.inf

    def update(self, array: F32) -> None:
        """Widen the range to hold array."""
        if array.size:
            self.low = min(self.low, float(array.min()))
            self.high = max(self.high, float(array.max()))

    def range(self) -> tuple[float, float]:
        """Return the hull of zero and what was seen."""
        return min(self.low, 0.0), max(self.high, 0.0)


@dataclass(slots=True)
class MovingAverage:
    """Exponential moving average of each array's smallest and largest value."""

    low: float = math.nan
    high: float = math.nan

    def update(self, array: F32) -> None:
        """Move the range towards that of array; the first array sets it."""
        if array.size:
            self.low = _moved(self.low, float(array.min()))
            self.high = _moved(self.high, float(array.max()))

    def range(self) -> tuple[float, float]:
        """Return the averaged range widened to contain zero."""
        if math.isnan(self.low):
            return 0.0, 0.0
        return min(self.low, 0.0), max(self.high, 0.0)


def _moved(past: float, new: float) -> float:
    if math.isnan(past):
        return new
    # Rounding may leave [past, new] by one unit in the last place.
    moved = MOMENTUM * past + (1 - MOMENTUM) * new
    return min(max(moved, min(past, new)), max(past, new))


@dataclass(slots=True, eq=False)
class Histogram:
    """Counts of at most BINS dyadic bins, and of exact zeros (not counted in any bin).

    Bin j of `counts` holds [first + j, first + j + 1) * 2**exponent.
    """

    counts: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    first: int = 0
    exponent: int = -200
    zeros: int = 0
    seen: MinMax = field(default_factory=MinMax)

    @property
    def total(self) -> int:
        """Number of values taken in, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def update(self, array: F32) -> None:
        """Count the values of array, widening the bins first if they would become too many."""
        self.seen.update(array)
        flat = np.ascontiguousarray(array, np.float32).reshape(-1)
        if flat.size:
            self._cover()
        for start in range(0, flat.size, BLOCK):
            self._count(flat[start : start + BLOCK])

    def _cover(self) -> None:
        """Grow the grid to the smallest exponent and window that hold all values seen."""
        low, high = self.seen.range()
        exponent = max(self.exponent, _exponent_for(low, high))
        first = math.floor(math.ldexp(low, -exponent))
        counts = np.zeros(math.floor(math.ldexp(high, -exponent)) - first + 1, np.int64)
        old = (self.first + np.arange(self.counts.size)) >> min(exponent - self.exponent, 63)
        np.add.at(counts, old - first, self.counts)
        self.counts, self.first, self.exponent = counts, first, exponent

    def _count(self, block: F32) -> None:
        # float64, because a float32 quotient can underflow to zero and so change its bin.
        scaled = block.astype(np.float64) * math.ldexp(1.0, -self.exponent)
        index = np.floor(scaled).astype(np.int64) - self.first
        self.counts += np.bincount(index, minlength=self.counts.size)
        zeros = block.size - int(np.count_nonzero(block))
        self.zeros += zeros
        self.counts[-self.first] -= zeros

    def centres(self) -> F64:
        """Return the value that stands for each bin: its centre, moved into the range seen."""
        middle = np.ldexp(self.first + np.arange(self.counts.size) + 0.5, self.exponent)
        return np.clip(middle, *self.seen.range())

    def quantile(self, share: float) -> float:
        """Return the value below which `share` of all values lie, linear within a bin."""
        counts = self.counts.copy()
        edges = np.ldexp(self.first + np.arange(counts.size + 1.0), self.exponent)
        # Zeros are a point mass between bins: an edge that the curve climbs without moving.
        below = np.concatenate(([0], np.cumsum(counts)))
        at = -self.first
        below = np.concatenate((below[: at + 1], below[at:] + self.zeros))
        edges = np.concatenate((edges[: at + 1], edges[at:]))
        return float(np.interp(share * below[-1], below, edges))


def _exponent_for(low: float, high: float) -> int:
    """Return the smallest exponent at which [low, high] (zero inside) spans at most BINS bins."""
    exponent = math.frexp(max(high - low, 2.0**-149))[1] - BINS.bit_length() - 1
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent


@dataclass(slots=True, eq=False)
class Percentile:
    """The range that keeps the middle `percentile` per cent of all values."""

    percentile: float
    histogram: Histogram = field(default_factory=Histogram)

    def update(self, array: F32) -> None:
        """Count the values of array."""
        self.histogram.update(array)

    def range(self) -> tuple[float, float]:
        """Return the range between both quantiles, cut to what was seen, with zero in it."""
        seen_low, seen_high = self.histogram.seen.range()
        if not self.histogram.total:
            return 0.0, 0.0
        cut = (100 - self.percentile) / 200
        low = min(max(self.histogram.quantile(cut), seen_low), 0.0)
        return low, max(min(self.histogram.quantile(1 - cut), seen_high), 0.0)


@dataclass(slots=True, eq=False)
class Entropy:
    """The range whose quantised histogram diverges least (Kullback-Leibler) from the clipped."""

    levels: int
    histogram: Histogram = field(default_factory=Histogram)

    def update(self, array: F32) -> None:
        """Count the values of array."""
        self.histogram.update(array)

    def range(self) -> tuple[float, float]:
        """Return the best range found by searching both ends in turn."""
        return _search_range(self.histogram, self.levels, clip_divergence)


@dataclass(slots=True, eq=False)
class MeanSquaredError:
    """The range whose encoding has the smallest mean squared error on the histogram."""

    levels: int
    histogram: Histogram = field(default_factory=Histogram)

    def update(self, array: F32) -> None:
        """Count the values of array."""
        self.histogram.update(array)

    def range(self) -> tuple[float, float]:
        """Return the best range found by searching both ends in turn."""
        return _search_range(self.histogram, self.levels, clip_mse)


Cost = Callable[[Histogram, F64, F64, int], F64]


def _search_range(histogram: Histogram, levels: int, cost: Cost) -> tuple[float, float]:
    """Return the cheapest range found from min/max inwards, never dearer than min/max itself.

    A coarse grid over both ends comes first, because searching one end at a time from min/max
    stops at local optima; then each end is searched ever more closely around the best.
    """
    low, high = histogram.seen.range()
    if not histogram.counts.any():
        return low, high

    def cheapest(lows: F64, highs: F64) -> tuple[float, float]:
        found = int(np.argmin(cost(histogram, low * lows, high * highs, levels)))
        return float(lows[found]), float(highs[found])

    best = cheapest(*_grid(low < 0.0, high > 0.0))
    for spread in (1.4, 1.1):
        if high > 0.0:
            highs = _around(best[1], spread)
            best = cheapest(np.full(highs.size, best[0]), highs)
        if low < 0.0:
            lows = _around(best[0], spread)
            best = cheapest(lows, np.full(lows.size, best[1]))
    return low * best[0], high * best[1]


def _grid(negative: bool, positive: bool) -> tuple[F64, F64]:
    """Return clip positions of both ends as shares of min/max, that itself first."""
    count = GRID if negative and positive else GRID * GRID // 2
    shares = np.geomspace(1.0, SMALLEST_CLIP, count)
    whole = np.ones(1)
    lows, highs = np.meshgrid(shares if negative else whole, shares if positive else whole)
    return lows.ravel(), highs.ravel()


def _around(best: float, spread: float) -> F64:
    """Return clip positions within a factor of `spread` around best, itself first."""
    close = best * np.geomspace(spread, 1 / spread, LINE)
    return np.concatenate(([best], np.clip(close, SMALLEST_CLIP, 1.0)))


def _filled(histogram: Histogram) -> tuple[F64, F64]:
    """Return the centres and counts of the bins that hold anything."""
    filled = histogram.counts > 0
    return histogram.centres()[filled], histogram.counts[filled].astype(np.float64)


def clip_mse(histogram: Histogram, lows: F64, highs: F64, levels: int) -> F64:
    """Return the mean squared error over all values of encoding each range [low, high].

    lows <= 0 <= highs: [candidates]. Quantises bin centres as `affine_encoding` would; exact
    zeros add no error.
    """
    centres, counts = _filled(histogram)
    scale = np.maximum((highs - lows) / (levels - 1), 1e-8)[:, None]
    zero = np.clip(np.rint(-lows[:, None] / scale), 0, levels - 1)
    codes = np.clip(np.rint(centres / scale), -zero, levels - 1 - zero)
    return np.square(codes * scale - centres) @ counts / histogram.total


def clip_divergence(histogram: Histogram, lows: F64, highs: F64, levels: int) -> F64:
    """Return the Kullback-Leibler divergence KL(P || Q) of each range [low, high].

    P: the bins inside the range, with the outliers added to its outermost bins. Q: the same
    bins without the outliers, merged into `levels` and spread evenly again. Exact zeros belong
    to neither. A range narrower than `levels` bins, where merging could lose nothing and any cut
    would look free, costs infinity; so does one with no values inside.
    """
    centres, counts = _filled(histogram)
    start, stop = np.searchsorted(centres, lows), np.searchsorted(centres, highs, "right")
    place = np.arange(centres.size)
    inside = (place >= start[:, None]) & (place < stop[:, None])
    step = np.maximum((highs - lows) / levels, 1e-300)[:, None]
    level = np.clip(((centres - lows[:, None]) / step).astype(np.int64), 0, levels - 1)
    slot = level + levels * np.arange(lows.size)[:, None]
    kept = counts * inside
    mass = np.bincount(slot.ravel(), kept.ravel(), lows.size * levels)
    width = np.bincount(slot.ravel(), inside.ravel(), lows.size * levels)
    spread = np.where(inside, (mass / np.maximum(width, 1))[slot], 0.0)
    costs = _divergence(_with_outliers(kept, counts, start, stop), spread)
    return np.where(highs - lows < levels * 2.0**histogram.exponent, np.inf, costs)


def _with_outliers(kept: F64, counts: F64, start: I64, stop: I64) -> F64:
    """Add what lies below bin `start` and from bin `stop` on to the outermost kept bins."""
    below = np.concatenate(([0.0], np.cumsum(counts)))
    rows = np.flatnonzero(start < stop)
    clipped = kept.copy()
    clipped[rows, start[rows]] += below[start[rows]]
    clipped[rows, stop[rows] - 1] += below[-1] - below[stop[rows]]
    return clipped


def _divergence(p: F64, q: F64) -> F64:
    """Return KL(p || q) of each row after normalising it; p > 0 only where q > 0.

    Rows without any mass return infinity.
    """
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    empty = q.sum(axis=1) == 0
    total_p, total_q = np.where(empty, 1, p.sum(axis=1)), np.where(empty, 1, q.sum(axis=1))
    mean_log = (p * np.log(ratio)).sum(axis=1) / total_p
    return np.where(empty, np.inf, mean_log + np.log(total_q / total_p))
