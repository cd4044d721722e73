"""What the stored values hold, beside the ranges they are stored in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .core.stats import ValueStats
from .losses import Traced, stored_outputs
from .lowering.program import Array, Origin
from .outliers import outlier_facts
from .stages import Built

BINS = 48


def tensor_facts(built: Built, traced: Traced | None) -> list[dict[str, Any]]:
    """Return one row per stored value in execution order; empty where there is no float model.

    `low`, `high`: what the encoding can store; `seen_low`, `seen_high`: what calibration met;
    `clipped_share`, `clipping_share`: values outside, and their part of the storage error;
    `levels`: codes within one root mean square; `histogram`: of the float values of the samples;
    `channels`: the channel with the largest magnitude beside the median one; `outliers` and
    `outliers_before` (folding): see `outlier_facts`.
    """
    if traced is None:
        return []
    ranged = built.lowered.quantised.planned.ranged
    rows: list[dict[str, Any]] = []
    for call, origin in _origins(built):
        if origin.value in traced.real:
            real = traced.real[origin.value]
            facts = _facts(origin, real, ranged.stats.get(origin.value))
            first = traced.before.get(origin.value)
            facts["outliers"] = outlier_facts(real)
            facts["outliers_before"] = None if first is None else outlier_facts(first)
            rows.append({"value": origin.value, "call": call, **facts})
    return rows


def _origins(built: Built) -> Iterator[tuple[int, Origin]]:
    program = built.lowered.program
    for index, _, buffer in stored_outputs(program):
        yield index, program.origins[buffer]


def _facts(origin: Origin, real: Array, seen: ValueStats | None) -> dict[str, Any]:
    encoding = origin.encoding
    scale, zero = encoding.scale[0], encoding.zero_point[0]
    smallest, largest = encoding.limits
    low, high = (smallest - zero) * scale, (largest - zero) * scale
    values = np.asarray(real, np.float64)
    inside = np.clip(values, low, high)
    noise = np.square(values - encoding.roundtrip(real)).sum()
    rms = float(np.sqrt(np.square(values).mean()))
    met = (seen.seen_low, seen.seen_high) if seen else (values.min(), values.max())
    return {
        "bits": encoding.bits,
        "scale": scale,
        "zero_point": zero,
        "low": low,
        "high": high,
        "seen_low": float(met[0]),
        "seen_high": float(met[1]),
        "clipped_share": float(np.mean((values < low - scale / 2) | (values > high + scale / 2))),
        "clipping_share": float(np.square(values - inside).sum() / noise) if noise > 0 else 0.0,
        "levels": rms / scale,
        "histogram": _histogram(values, min(low, met[0]), max(high, met[1])),
        "channels": None if seen is None else _channels(seen),
    }


def _histogram(values: Array, low: float, high: float) -> dict[str, Any]:
    counts, edges = np.histogram(values, BINS, (float(low), float(max(high, low + 1e-12))))
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def _channels(seen: ValueStats) -> Mapping[str, Any] | None:
    """Return the loudest channel, its largest magnitude and the median channel's."""
    magnitude = np.maximum(np.abs(seen.channel_low), np.abs(seen.channel_high))
    if magnitude.size < 4:
        return None
    return {
        "count": int(magnitude.size),
        "loudest": int(magnitude.argmax()),
        "loudest_magnitude": float(magnitude.max()),
        "median_magnitude": float(np.median(magnitude)),
    }
