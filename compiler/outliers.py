"""How far a value is from evenly filled: outlier channels and tokens, before and after folding."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .frontend.calibrate import channel_axis
from .lowering.program import Array

# Values with fewer channels or tokens than this are not looked at.
FEWEST = 4
# A channel is persistent if it exceeds the token's median magnitude this many times in most tokens.
LOUD, MOST_TOKENS = 6.0, 0.75
# A token is massive if its largest magnitude exceeds that of the median token this many times.
MASSIVE = 20.0
# Values drawn as pictures, and the largest picture.
DRAWN, ROWS, COLUMNS = 3, 32, 128
# A value was evened out if its loudest channel was this many times as loud before; ratios closer
# to one than SAME are no change.
EVENED, SAME = 1.2, 1e-3
# A picture's darkest cell is the largest magnitude, its lightest this many decades below.
DECADES = 3.0


def outlier_facts(real: Array) -> dict[str, Any] | None:
    """Return what is uneven about a value [samples, *shape]; None if it has no channels or tokens.

    `kurtosis`: of all elements (3: normal); `channel_ratio`, `token_ratio`: the largest magnitude
    of a channel or token over that of the median one; `persistent_channels`, `massive_tokens`: how
    many there are.
    """
    rows = _rows(real)
    if rows is None:
        return None
    deviation = rows - rows.mean()
    variance = float(np.square(deviation).mean())
    size = np.abs(rows)
    median = np.maximum(np.median(size, axis=1, keepdims=True), 1e-12)
    tokens, channels = size.max(axis=1), size.max(axis=0)
    loud = (size > LOUD * median).mean(axis=0) >= MOST_TOKENS
    return {
        "kurtosis": float((deviation**4).mean()) / max(variance**2, 1e-24),
        "channel_ratio": _over_median(channels),
        "token_ratio": _over_median(tokens),
        "persistent_channels": int(loud.sum()),
        "massive_tokens": int((tokens > MASSIVE * max(float(np.median(tokens)), 1e-12)).sum()),
    }


def heat_map(real: Array) -> dict[str, Any] | None:
    """Return magnitudes [tokens, channels] as a picture: rows, columns and 8-bit cells in base64.

    A cell is the largest magnitude of the tokens and channels it stands for, on a logarithmic
    scale of DECADES decades.
    """
    rows = _rows(real)
    if rows is None:
        return None
    cells = _pooled(_pooled(np.abs(rows), ROWS).T, COLUMNS).T
    darkest = max(float(cells.max()), 1e-30)
    shade = 1 + np.log10(np.maximum(cells / darkest, 1e-30)) / DECADES
    codes = np.rint(255 * np.clip(shade, 0, 1)).astype(np.uint8)
    text = base64.b64encode(codes.tobytes()).decode("ascii")
    return {"rows": codes.shape[0], "columns": codes.shape[1], "cells": text, "largest": darkest}


def pictures(
    rows: Sequence[Mapping[str, Any]], real: Mapping[str, Array], before: Mapping[str, Array]
) -> list[dict[str, Any]]:
    """Return heat maps of the values that folding evened out most, then of the loudest.

    `before` of a picture is None where folding changed nothing.
    """
    found = [row for row in rows if row["outliers"] is not None]
    evened = sorted((r for r in found if _fall(r) >= EVENED), key=lambda row: -_fall(row))
    loudest = sorted(found, key=lambda row: -row["outliers"]["channel_ratio"])
    chosen = {row["value"]: row for row in [*evened[: DRAWN - 1], *loudest]}
    return [
        {
            "value": name,
            "after": heat_map(real[name]),
            "before": heat_map(before[name]) if _fall(row) != 1 else None,
        }
        for name, row in [*chosen.items()][:DRAWN]
    ]


def _fall(row: Mapping[str, Any]) -> float:
    """Return how many times as loud the loudest channel was before folding."""
    first = row["outliers_before"]
    if first is None:
        return 1.0
    ratio: float = first["channel_ratio"] / row["outliers"]["channel_ratio"]
    return 1.0 if abs(ratio - 1) < SAME else ratio


def _rows(real: Array) -> Array | None:
    """Return [tokens, channels] in float64, or None if there are too few of either."""
    shape = real.shape[1:]
    if len(shape) < 2 or real.dtype.kind != "f":
        return None
    axis = 1 + channel_axis(len(shape))
    rows = np.moveaxis(real, axis, -1).reshape(-1, real.shape[axis]).astype(np.float64)
    return rows if min(rows.shape) >= FEWEST else None


def _over_median(magnitudes: Array) -> float:
    return float(magnitudes.max()) / max(float(np.median(magnitudes)), 1e-12)


def _pooled(cells: Array, most: int) -> Array:
    """Return cells with at most `most` rows: the largest of neighbours."""
    count = min(len(cells), most)
    starts = np.linspace(0, len(cells), count, endpoint=False).astype(int)
    return np.maximum.reduceat(cells, starts, axis=0)
