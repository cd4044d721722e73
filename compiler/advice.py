"""What a layer's error comes from, and which option of edgec helps: read off the measurements.

Only causes that were measured are named, and only options that exist are advised; where none would
help, that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Nothing to mend from here on: 8 bits over a range of +-4.5 standard deviations of a normal
# distribution give 40 dB.
GOOD_DB = 36.0
# Storing the output explains a layer's error if the rest adds at most as much again.
_REST_DB = 3.0
# A channel this many times the median one decides the scale of all others.
OUTLIER_RATIO = 4.0
# One root mean square of the values on fewer codes than this: most of the range is rarely used.
FEW_LEVELS = 12.0
# A range stored this many times as wide as the values reach belongs to something else, too.
SHARED_RATIO = 3.0
# A weight this many times the root mean square of its channel takes the precision of the others.
PEAK_TO_RMS = 6.0
# Fewer calibration samples than this say little about ranges.
FEW_SAMPLES = 16

_TRAINED = "Train with quantisation: edgec takes the QDQ model as it is."
_SHARED = "No option changes this; scale the parts alike in the model before they are joined."


@dataclass(frozen=True, slots=True)
class Advice:
    """Why a layer loses what it loses, in one sentence, and what to try, in another."""

    cause: str
    reason: str
    remedy: str


def advise(row: Mapping[str, Any], report: Mapping[str, Any]) -> Advice:
    """Return the cause of a layer's own error and the remedy; `row`: one of report["layers"]."""
    if row["local_sqnr_db"] >= GOOD_DB:
        return Advice("none", "About as good as 8 bits get.", "")
    tensor = next((t for t in report["tensors"] if t["call"] == row["call"]), None)
    stored = row["storage_sqnr_db"] <= row["local_sqnr_db"] + _REST_DB
    if row["kernel"] == "softmax":
        return _softmax()
    if stored and tensor is not None:
        return _storage(row, tensor, report)
    if row["weights"] is not None:
        return _weights(row["weights"], report)
    return Advice(
        "kernel",
        f"Storing the result would give {row['storage_sqnr_db']:.0f} dB; the rest is the rounding "
        f"of the integer {row['kernel']}.",
        "No option changes this kernel.",
    )


def _softmax() -> Advice:
    return Advice(
        "softmax",
        "Probabilities share one fixed scale of 1/256, so small ones round to few codes.",
        "Usually harmless, for the largest stays exact; no option changes it.",
    )


def _storage(
    row: Mapping[str, Any], tensor: Mapping[str, Any], report: Mapping[str, Any]
) -> Advice:
    """Return what makes 8 bits too coarse for these values."""
    if tensor["clipping_share"] > 0.5:
        text = f"{tensor['clipped_share']:.2%} of the values lie outside the range stored"
        share = f"{tensor['clipping_share']:.0%} of the error."
        return Advice("saturation", f"{text} and make {share}", _wider(report))
    channels = tensor["channels"]
    if channels is not None and _ratio(channels) >= OUTLIER_RATIO:
        text = (
            f"Channel {channels['loudest']} reaches {channels['loudest_magnitude']:.3g}, "
            f"{_ratio(channels):.0f} times the median channel, and sets the scale of all."
        )
        return Advice("outlier channel", text, _equalise(row, tensor, report))
    wide = (tensor["high"] - tensor["low"]) / max(tensor["seen_high"] - tensor["seen_low"], 1e-12)
    if wide >= SHARED_RATIO:
        text = f"The range stored is {wide:.0f} times what these values reach: they share it with "
        return Advice("shared range", f"{text}what they are joined with.", _SHARED)
    if tensor["levels"] < FEW_LEVELS:
        text = (
            f"A wide range with few values at its ends: the root mean square of all spans "
            f"{tensor['levels']:.0f} of {1 << tensor['bits']} codes."
        )
        return Advice("spread", text, _narrower(report))
    text = f"The range is used evenly; {tensor['bits']} bits give no more here."
    return Advice("rounding", text, _wide(tensor, report) or _TRAINED)


def _ratio(channels: Mapping[str, Any]) -> float:
    return float(channels["loudest_magnitude"]) / max(float(channels["median_magnitude"]), 1e-12)


def _weights(weights: Mapping[str, Any], report: Mapping[str, Any]) -> Advice:
    text = f"The weights, {weights['sqnr_db']:.0f} dB in {weights['bits']} bits, add the most"
    if weights["peak_to_rms"] >= PEAK_TO_RMS:
        text += (
            f": in output channel {weights['channel']} the largest is {weights['peak_to_rms']:.0f} "
            "times the root mean square."
        )
        return Advice("weight imbalance", text, _weight_remedy(report))
    return Advice("weights", f"{text}; they are evenly spread.", _weight_remedy(report))


def _weight_remedy(report: Mapping[str, Any]) -> str:
    return _left_out("bias_correction", report) or _TRAINED


def _notes(report: Mapping[str, Any], step: str, kind: str) -> Iterator[Mapping[str, str]]:
    for item in report["passes"]:
        if item["name"] == step:
            yield from item[kind]


def _method(report: Mapping[str, Any]) -> tuple[str, str]:
    """Return the calibration method, and what auto measured of it ("" where it was asked for)."""
    text = next((n["text"] for n in _notes(report, "calibration_method", "changed")), "")
    chosen, _, measured = text.partition(" ranges, the lowest output error of ")
    return chosen.removesuffix(" ranges as asked"), measured


def _wider(report: Mapping[str, Any]) -> str:
    method, measured = _method(report)
    if measured:
        return f"Cut on purpose: auto chose {method} for the outputs' error ({measured})."
    if method == "minmax":
        return "Calibrate with more samples: these values were not among them."
    return "Compile with --calibration-method minmax, which cuts nothing."


def _narrower(report: Mapping[str, Any]) -> str:
    method, measured = _method(report)
    if measured:
        return (
            f"auto kept {method} ({measured}); try --calibration-method entropy or "
            "percentile:99.9, which it does not."
        )
    if method in ("minmax", "moving-average"):
        return "Compile with --calibration-method auto, which also tries cutting the ends."
    return _TRAINED


def _equalise(row: Mapping[str, Any], tensor: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    name = "cross_layer_equalisation"
    if text := _wide(tensor, report) or _left_out(name, report):
        return text
    if any(_notes(report, name, "changed")):
        return f"{name} ran and could not even it out. {_TRAINED}"
    here = (name, *row["nodes"])
    reasons = [n["text"] for n in _notes(report, name, "declined") if n["where"] in here]
    why = f" ({reasons[0]})" if reasons else ""
    return f"{name}, which evens channels, does not help{why}. {_TRAINED}"


def _left_out(name: str, report: Mapping[str, Any]) -> str:
    """Return the advice to let an optional pass run, if it was left out."""
    if any(item["name"] == name for item in report["passes"]):
        return ""
    return f"Compile without --no-pass {name}."


def _wide(tensor: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the advice to widen attention operands and gated products, where auto did not."""
    declined = [n["text"] for n in _notes(report, "wide_activations", "declined")]
    if tensor["bits"] > 8 or not declined:
        return ""
    return (
        "If it feeds an attention or gated product: --wide-activations always stores those in 12 "
        f"bits; auto did not ({declined[0]})."
    )


def overall(report: Mapping[str, Any]) -> list[str]:
    """Return what to do about the whole compilation, most important first; empty: nothing."""
    found: list[str] = []
    if "synthetic" in report["calibration"]:
        found.append("Pass --calibration with real inputs: without, accuracy means nothing.")
    count = report["calibration"].split(" ")[0]
    if count.isdigit() and int(count) < FEW_SAMPLES:
        found.append(f"Calibrate with more than {count} samples: ranges of so few are chance.")
    return found
