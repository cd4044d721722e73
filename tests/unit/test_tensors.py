"""Ranges, histograms and channels of stored values are those of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.compiler import losses, tensors
from edgec.compiler.core.encoding import affine_encoding
from edgec.compiler.core.stats import ValueStats
from edgec.compiler.lowering.program import Array, Origin
from edgec.compiler.tensors import BINS
from tests.small import cnn, cnn_samples
from tests.unit.test_losses import built_of


def facts(values: Array, low: float, high: float, **seen: Any) -> dict[str, Any]:
    """Return the facts of values stored over [low, high]."""
    origin = Origin("v", affine_encoding(low, high), np.arange(values.size))
    ends = {"low": low, "high": high, "seen_low": values.min(), "seen_high": values.max()}
    channel = {"channel_low": np.zeros(2), "channel_high": np.zeros(2), "channel_mean": np.zeros(2)}
    given: Any = {**ends, **channel, "channel_axis": 0, **seen}
    return tensors._facts(origin, values, ValueStats(**given) if seen else None)  # pyright: ignore[reportPrivateUsage]


def test_values_outside_and_what_they_cost() -> None:
    inside = np.linspace(-1, 1, 999, dtype=np.float32)
    found = facts(np.append(inside, np.float32(3)), -1, 1)
    assert found["clipped_share"] == 1e-3 and found["clipping_share"] > 0.99
    assert facts(inside, -1, 1)["clipped_share"] == 0
    assert facts(inside, -1, 1)["clipping_share"] < 0.01


def test_histogram_counts_every_value() -> None:
    values = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    found = facts(values, -2, 2)["histogram"]
    assert len(found["counts"]) == BINS and sum(found["counts"]) == 5000
    assert found["low"] == values.min() and found["high"] == values.max()
    wide = facts(values, -20, 20)["histogram"]
    assert wide["low"] == pytest.approx(-20, rel=0.02) and sum(wide["counts"]) == 5000


def test_levels_are_codes_within_one_rms() -> None:
    values = np.full(10, 0.5, np.float32)
    assert facts(values, 0, 1)["levels"] == pytest.approx(127.5)
    assert facts(values, 0, 100)["levels"] == pytest.approx(1.275)


def test_the_loudest_channel() -> None:
    high = np.array([1, 1, 8, 2], np.float32)
    low = np.array([-1, -3, 0, 0], np.float32)
    found = facts(np.ones(4, np.float32), 0, 8, channel_low=low, channel_high=high)["channels"]
    assert found == {
        "count": 4, "loudest": 2, "loudest_magnitude": 8.0, "median_magnitude": 2.5,
    }  # fmt: skip


def test_rows_of_a_network() -> None:
    built = built_of(cnn(), {"image": cnn_samples()})
    traced = losses.trace(built, 4)
    assert traced is not None
    rows = tensors.tensor_facts(built, traced)
    assert [r["call"] for r in rows] == sorted(r["call"] for r in rows)
    assert {r["call"] for r in rows} == {r["call"] for r in losses.layer_errors(built, traced)}
    stats = built.lowered.quantised.planned.ranged.stats
    plan = built.lowered.quantised.planned.plan
    for row in rows:
        assert row["seen_high"] == stats[row["value"]].seen_high
        assert row["scale"] == plan.encodings[row["value"]].scale[0]
        assert sum(row["histogram"]["counts"]) == traced.real[row["value"]].size
    assert tensors.tensor_facts(built, None) == []
