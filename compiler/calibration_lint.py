"""What is suspicious about calibration data: samples that repeat, do not vary or are too few."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .core.passbase import Feeds
from .core.stats import Stats, ValueStats
from .stages import Profiled

# Fewer samples than this say little about ranges.
FEW = 16
# Two halves of the samples agree about a range if neither is this many times as wide.
APART = 2.0
# Values named in one sentence.
NAMED = 3


def fingerprint(feeds: Feeds) -> int:
    """Return a number that equal samples share and different ones do not, but for bad luck."""
    arrays = {name: np.asarray(feeds[name]) for name in sorted(feeds)}
    return hash(tuple((n, a.dtype.str, a.shape, a.tobytes()) for n, a in arrays.items()))


def lint(profiled: Profiled) -> list[str]:
    """Return one sentence per thing that is suspicious; none for synthetic or no data."""
    if profiled.synthetic or not profiled.stats:
        return []
    inputs = {str(v.name) for v in profiled.canonical.model.graph.inputs}
    return [
        *_amount(profiled.sample_count, profiled.repeated),
        *_still(profiled.stats, inputs),
        *_apart(profiled.stats),
    ]


def _amount(count: int, repeated: int) -> Iterator[str]:
    distinct = count - repeated
    if repeated:
        yield (
            f"{repeated} of {count} calibration samples equal an earlier one: they add nothing; "
            "look for a loader that repeats itself"
        )
    if distinct < FEW:
        yield f"{distinct} calibration samples are few for ranges; give {FEW} or more, 64 are usual"


def _still(stats: Stats, inputs: set[str]) -> Iterator[str]:
    for name in sorted(inputs & set(stats)):
        seen = stats[name]
        if seen.seen_low == seen.seen_high:
            yield (
                f"input '{name}' is {seen.seen_low:g} everywhere in the calibration data: "
                "look for samples that were not filled"
            )


def _apart(stats: Stats) -> Iterator[str]:
    ratios = {name: _ratio(seen) for name, seen in stats.items()}
    far = sorted((n for n in ratios if ratios[n] > APART), key=lambda n: -ratios[n])
    if far:
        some = ", ".join(f"'{n}' {ratios[n]:.1f}" for n in far[:NAMED])
        more = f" and {len(far) - NAMED} more" if len(far) > NAMED else ""
        yield (
            f"two halves of the calibration samples disagree about ranges ({some} times as wide"
            f"{more}): more samples, or cleaner ones, would steady them"
        )


def _ratio(seen: ValueStats) -> float:
    """Return how many times the range of one half is as wide as that of the other; 1 if equal."""
    if seen.halves is None:
        return 1.0
    narrow, wide = sorted(high - low for low, high in seen.halves)
    if wide <= 0:
        return 1.0
    return float("inf") if narrow <= 0 else wide / narrow
