"""What calibration saw: one frozen record per ONNX value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .encoding import F32


@dataclass(frozen=True, slots=True, eq=False)
class ValueStats:
    """Range of one activation over all calibration samples.

    `low`, `high`: the range chosen by the calibration method (what an encoding is made from).
    `seen_low`, `seen_high`: smallest and largest value met.
    `channel_low`, `channel_high`, `channel_mean`: [channels] along `channel_axis`.
    `halves`: the ranges seen on every other sample, zero included; None for fewer than two samples.
    """

    low: float
    high: float
    seen_low: float
    seen_high: float
    channel_low: F32
    channel_high: F32
    channel_mean: F32
    channel_axis: int
    halves: tuple[tuple[float, float], tuple[float, float]] | None = None


Stats = Mapping[str, ValueStats]
