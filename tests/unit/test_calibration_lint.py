"""What is said about calibration data that looks wrong."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgec.compiler import pipeline
from edgec.compiler.calibration_lint import fingerprint, lint
from edgec.compiler.lowering.program import Array
from edgec.compiler.options import CompileOptions
from edgec.compiler.stages import Profiled
from tests.small import cnn, cnn_samples

HOST = CompileOptions(target="host")


def seen(images: Array) -> Profiled:
    begun = pipeline.load_source(cnn(), HOST)
    feeds = [{"image": image[None]} for image in images]
    samples = pipeline.open_samples(begun, feeds, HOST)
    canonical = pipeline.canonicalise(begun, feeds[:1])
    return pipeline.profile(canonical, samples, HOST, synthetic_data=False)


def test_good_data_is_not_complained_about() -> None:
    assert lint(seen(cnn_samples(32))) == []


def test_repeated_and_few_samples() -> None:
    repeated, few = lint(seen(np.tile(cnn_samples(4), (3, 1, 1, 1))))
    assert repeated.startswith("8 of 12 calibration samples equal an earlier one")
    assert few.startswith("4 calibration samples are few")


def test_an_input_that_never_varies() -> None:
    found = lint(seen(np.full((20, 2, 8, 8), 0.5, np.float32)))
    assert any(text.startswith("input 'image' is 0.5 everywhere") for text in found)


def test_halves_that_disagree() -> None:
    data = cnn_samples(32)
    data[4] *= 50  # one corrupt sample
    (text,) = lint(seen(data))
    assert "two halves of the calibration samples disagree" in text and "'image' " in text


def test_synthetic_samples_have_their_own_warning() -> None:
    assert lint(dataclasses.replace(seen(cnn_samples(2)), synthetic=True)) == []


def test_fingerprints_tell_samples_apart() -> None:
    a = {"x": np.zeros(4, np.float32), "y": np.zeros(2, np.int64)}
    assert fingerprint(a) == fingerprint(dict(reversed(a.items())))
    assert fingerprint(a) != fingerprint({**a, "x": np.zeros((2, 2), np.float32)})
    assert fingerprint(a) != fingerprint({**a, "x": np.zeros(4, np.int32)})
