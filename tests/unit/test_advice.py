"""Advice names the measured cause, and only options that edgec has."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest

from edgec.compiler.advice import advise, overall
from edgec.compiler.cli import cli
from edgec.compiler.pipeline import AUTO_METHODS, CORRECTIONS, RESHAPING

AUTO = "mse ranges, the lowest output error of minmax 0.002, percentile 0.0019, mse 0.001"


def step(name: str, changed: str = "", declined: str = "", where: str = "x") -> dict[str, Any]:
    """Return one entry of report["passes"]."""
    notes = [[{"where": where, "text": t}] if t else [] for t in (changed, declined)]
    return {"name": name, "changed": notes[0], "declined": notes[1]}


PASSES = [
    step("cross_layer_equalisation", declined="Clip 'c' does not scale", where="Conv 'a'"),
    step("calibration_method", changed=AUTO),
    step("bias_correction", changed="corrected"),
]


def case(
    own: float = 20.0, stored: float = 20.0, kernel: str = "gemm", weights: Any = None,
    passes: Any = PASSES, **tensor: Any,
) -> Any:  # fmt: skip
    """Return the advice for a layer whose stored value has these properties."""
    row = {
        "call": 3, "kernel": kernel, "nodes": ["Conv 'a'"], "value": "v", "sqnr_db": own,
        "local_sqnr_db": own, "storage_sqnr_db": stored, "weights": weights,
    }  # fmt: skip
    value: dict[str, Any] = {
        "call": 3, "bits": 8, "clipped_share": 0.0, "clipping_share": 0.0, "levels": 30.0,
        "low": -4.0, "high": 4.0, "seen_low": -4.0, "seen_high": 4.0,
        "channels": {"loudest": 5, "loudest_magnitude": 2.0, "median_magnitude": 1.0}, **tensor,
    }  # fmt: skip
    report = {"layers": [row], "tensors": [value], "passes": passes, "calibration": "64 samples"}
    return advise(row, report)


OUTLIER = {"loudest": 5, "loudest_magnitude": 40.0, "median_magnitude": 1.0}
WEIGHTS = {"bits": 8, "sqnr_db": 25.0, "peak_to_rms": 9.0, "channel": 7}
CASES: dict[str, Any] = {
    "saturation": case(clipped_share=0.02, clipping_share=0.9),
    "outlier channel": case(channels=OUTLIER),
    "spread": case(levels=4.0),
    "shared range": case(levels=4.0, seen_low=-0.5, seen_high=0.5),
    "rounding": case(),
    "softmax": case(kernel="softmax"),
    "weight imbalance": case(stored=40.0, weights=WEIGHTS),
    "weights": case(stored=40.0, weights={**WEIGHTS, "peak_to_rms": 3.0}),
    "kernel": case(stored=40.0, kernel="norm"),
}


@pytest.mark.parametrize("cause", CASES)
def test_cause(cause: str) -> None:
    advice = CASES[cause]
    assert advice.cause == cause
    assert advice.reason.endswith(".") and advice.remedy.endswith(".")


def test_evidence_is_in_the_reason() -> None:
    assert "2.00%" in CASES["saturation"].reason and "90%" in CASES["saturation"].reason
    assert "Channel 5" in CASES["outlier channel"].reason
    assert "40 times" in CASES["outlier channel"].reason
    assert "8 times what" in CASES["shared range"].reason
    assert "4 of 256 codes" in CASES["spread"].reason
    assert "channel 7" in CASES["weight imbalance"].reason
    assert "25 dB" in CASES["weights"].reason and "40 dB" in CASES["kernel"].reason


def test_a_good_layer_needs_nothing() -> None:
    advice = case(own=41.0, stored=41.0, channels=OUTLIER)
    assert advice.cause == "none" and advice.remedy == ""


def test_remedies_depend_on_what_was_tried() -> None:
    cut: Any = {"clipped_share": 0.02, "clipping_share": 0.9}
    assert "auto chose mse" in CASES["saturation"].remedy
    asked = [step("calibration_method", changed="percentile ranges as asked")]
    assert "--calibration-method minmax" in case(passes=asked, **cut).remedy
    asked = [step("calibration_method", changed="minmax ranges as asked")]
    assert "more samples" in case(passes=asked, **cut).remedy
    assert "--calibration-method auto" in case(passes=asked, levels=4.0).remedy
    assert "Clip 'c' does not scale" in CASES["outlier channel"].remedy
    ran = [step("cross_layer_equalisation", changed="scaled")]
    assert "could not even it out" in case(passes=ran, channels=OUTLIER).remedy
    without = case(passes=[], channels=OUTLIER).remedy
    assert without == "Compile without --no-pass cross_layer_equalisation."
    assert case(passes=[], stored=40.0, weights=WEIGHTS).remedy.endswith("bias_correction.")
    narrow = [*PASSES, step("wide_activations", declined="8 bits: not worth it")]
    assert "--wide-activations always" in case(passes=narrow, channels=OUTLIER).remedy
    assert "--wide" not in case(passes=narrow, channels=OUTLIER, bits=12).remedy


def every_sentence() -> str:
    """Return all remedies of the tests above in one text."""
    narrow = [*PASSES, step("wide_activations", declined="8 bits: not worth it")]
    asked = [step("calibration_method", changed="minmax ranges as asked")]
    more = [case(passes=narrow), case(passes=asked, levels=4.0), case(passes=[], channels=OUTLIER)]
    return " ".join(a.remedy for a in (*CASES.values(), *more))


def test_only_options_that_exist_are_advised() -> None:
    compile_verb: Any = cli.commands["compile"]
    options = {o for p in compile_verb.params if isinstance(p, click.Option) for o in p.opts}
    advised = set(re.findall(r"--[a-z-]+", every_sentence()))
    assert advised and advised <= options
    named = set(re.findall(r"--no-pass (\w+)", every_sentence()))
    assert named and named <= {p.name for p in (*RESHAPING, *CORRECTIONS)}


def test_auto_does_not_try_what_is_advised_beyond_it() -> None:
    assert {"entropy"} & set(AUTO_METHODS) == set() and "entropy" in CASES["spread"].remedy


def test_overall() -> None:
    assert overall({"calibration": "64 samples of the given calibration data"}) == []
    (few,) = overall({"calibration": "4 samples of the given calibration data"})
    assert "more than 4" in few
    synthetic = overall({"calibration": "WARNING: 16 seeded synthetic samples, no real data"})
    assert "--calibration" in synthetic[0]
