"""Constants in a file of their own: same bits as in the C, on the host and under qemu-aarch64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.compiler.core.errors import OptionError
from tests.small import cnn, cnn_samples, good_json, write_cnn


def compiled(folder: Path, target: str, weights_file: bool) -> edgec.Artifact:
    feeds = [{"image": x[None]} for x in cnn_samples()]
    out = folder / f"{target}-{weights_file}"
    shapes = {"image": (1, 2, 8, 8)}
    return edgec.compile(cnn(), target, out, feeds, weights_file=weights_file, shapes=shapes)


def test_the_host_answers_the_same_bits(tmp_path: Path) -> None:
    inside, beside = (compiled(tmp_path, "host", kind) for kind in (False, True))
    assert beside.check().passed
    weights = beside.path / str(beside.manifest.weights_file)
    assert weights.stat().st_size == beside.manifest.weights_file_bytes > 700
    assert not list((beside.path / "src").glob("*_weights.*"))
    one, other = (edgec.load(a.path) for a in (inside, beside))
    for sample in cnn_samples(4, seed=3):
        answers = [model.run(image=sample[None])["scores"] for model in (one, other)]
        np.testing.assert_array_equal(*answers)


@pytest.mark.qemu_aarch64
def test_the_check_program_maps_the_file(tmp_path: Path) -> None:
    artifact = compiled(tmp_path, "aarch64", True)
    verdict = artifact.check()
    assert verdict.passed and verdict.quantised.same_bits
    memory = artifact.manifest.memory
    assert memory.flash_bytes is not None and memory.code_bytes is not None
    assert memory.flash_bytes == memory.code_bytes + artifact.manifest.weights_file_bytes


def test_layers_are_compared_as_well(tmp_path: Path) -> None:
    model, data = write_cnn(tmp_path)
    out = tmp_path / "out"
    good_json(
        "compile", model, "--target", "host", "-o", out, "--calibration", data, "--weights-file"
    )
    assert good_json("check", out, "--layers")["passed"]


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    artifact = compiled(tmp_path, "host", True)
    weights = artifact.path / str(artifact.manifest.weights_file)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(OptionError, match="not the file of constants that was compiled"):
        edgec.load(artifact.path)


def test_a_microcontroller_has_no_files(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cortex-m4 has no files to map"):
        compiled(tmp_path, "cortex-m4", True)
