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
# Values drawn as pictures, those with the loudest channels, and the largest picture.
DRAWN, ROWS, COLUMNS = 3, 32, 128
# A picture's darkest cell is the largest magnitude, its lightest this many decades below.
DECADES = 2.0


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
    """Return heat maps, before and after folding, of the values with the loudest channels."""
    found = [row for row in rows if row["outliers"] is not None]
    found = sorted(found, key=lambda row: -_loudest(row))
    return [
        {
            "value": row["value"],
            "after": heat_map(real[row["value"]]),
            "before": heat_map(before[row["value"]]) if row["value"] in before else None,
        }
        for row in found[:DRAWN]
    ]


def _loudest(row: Mapping[str, Any]) -> float:
    known = [facts for facts in (row["outliers"], row["outliers_before"]) if facts is not None]
    return max(facts["channel_ratio"] for facts in known)


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
