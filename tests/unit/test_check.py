"""What a check compares, which gates it sets, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.compiler.api import Artifact
from edgec.compiler.check import dequantised
from edgec.compiler.core.artifact import MANIFEST_NAME, load_manifest
from edgec.compiler.core.errors import DataError, OptionError
from edgec.compiler.execute import run_artifact
from edgec.compiler.gates import static_gates
from edgec.runtime.devices import Local
from edgec.runtime.devices.base import RunResult
from tests.pairs import Array
from tests.small import cnn, cnn_samples


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small network for the host, with limits it keeps."""
    out = tmp_path_factory.mktemp("check") / "out"
    limits = {"max_flash_bytes": 1 << 20, "max_ram_bytes": 1 << 20, "max_drop": 0.5}
    return edgec.compile(cnn(), "host", out, {"image": cnn_samples()}, **limits)


def disturb(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the device answer `steps` off in the first output value."""
    honest = Local.run

    def run(
        self: Local, artifact: Path, manifest: Any, inputs: Mapping[str, Array],
        profile: bool = False, repeat: int = 1,
    ) -> RunResult:  # fmt: skip
        result = honest(self, artifact, manifest, inputs, profile, repeat)
        scores = result.outputs["scores"].copy()
        scores.reshape(-1)[0] += np.int8(-steps if scores.reshape(-1)[0] > 0 else steps)
        return replace(result, outputs={**result.outputs, "scores": scores})

    monkeypatch.setattr(Local, "run", run)


def test_gates(artifact: Artifact) -> None:
    verdict = artifact.check()
    assert verdict.passed and verdict.quantised.same_bits
    assert [g.name for g in verdict.gates] == [
        "bits_differ_from_reference", "flash_bytes", "ram_bytes", "drop",
    ]  # fmt: skip
    assert verdict.samples == 8 and verdict.memory is None and verdict.time_s


@pytest.mark.parametrize("steps", [1, 9])
def test_one_wrong_value_fails(
    steps: int, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = artifact.check().quantised
    disturb(monkeypatch, steps)
    verdict = artifact.check()
    assert not verdict.passed and verdict.quantised.same_bits is False
    assert {g.name for g in verdict.gates if not g.passed} == {"bits_differ_from_reference"}
    assert abs(verdict.quantised.max_steps - steps) <= before.max_steps
    if steps > 2:
        assert verdict.quantised.share_within_1 == pytest.approx(1 - 1 / 40)


def relimited(artifact: Artifact, folder: Path, **limits: float) -> Path:
    """Return a copy of the artifact with other limits."""
    import shutil

    shutil.copytree(artifact.path, folder)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["gates"].update(limits)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    return folder


def test_limits_that_do_not_hold(artifact: Artifact, tmp_path: Path) -> None:
    tight = relimited(artifact, tmp_path / "tight", max_flash_bytes=100, max_ram_bytes=100)
    verdict = edgec.check(tight)
    assert {g.name for g in verdict.gates if not g.passed} == {"flash_bytes", "ram_bytes"}
    manifest = load_manifest(tight)
    memory = [g for g in static_gates(manifest) if g.name != "drop"]
    assert [g.value for g in memory] == [
        manifest.memory.flash_bytes, manifest.memory.ram_bytes,
    ]  # fmt: skip
    assert not any(g.passed for g in memory)


def data(folder: Path, **arrays: Array) -> Path:
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return folder / "data.npz"


def test_task_on_labels_the_float_model_gives(artifact: Artifact, tmp_path: Path) -> None:
    images = cnn_samples(12, seed=4)
    real = run_artifact(artifact.path, data(tmp_path, image=images)).outputs["scores"]
    labels = real[:, 0].argmax(axis=-1)
    verdict = artifact.check(data=data(tmp_path, image=images, labels=labels))
    assert verdict.task is not None and verdict.task.value == 1.0
    wrong = artifact.check(data=data(tmp_path, image=images, labels=(labels + 1) % 5))
    assert wrong.task is not None and wrong.task.value == 0.0
    few = artifact.check(data=data(tmp_path, image=images, labels=labels), samples=5)
    assert few.task is not None and few.task.value == 1.0


def test_the_drop_gate_counts_what_was_lost(artifact: Artifact, tmp_path: Path) -> None:
    strict = relimited(artifact, tmp_path / "strict", max_drop=0.0)
    images = cnn_samples(4)
    file = data(tmp_path, image=images, labels=np.zeros(4, np.int64))
    verdict = edgec.check(strict, data=file)
    assert verdict.task is not None
    (gate,) = [g for g in verdict.gates if g.name == "drop"]
    assert gate.value == verdict.task.float_value - verdict.task.value


def test_metrics_with_other_labels(artifact: Artifact, tmp_path: Path) -> None:
    images = cnn_samples(6)
    target = run_artifact(artifact.path, data(tmp_path, image=images)).outputs["scores"][:, 0]
    file = data(tmp_path, image=images, wanted=target)
    verdict = artifact.check(data=file, metric="sqnr_db", labels="wanted")
    assert verdict.task is not None and verdict.task.value == 200.0
    assert 20 < verdict.task.float_value < 200


def test_refusals(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean accuracy"):
        artifact.check(metric="acuracy")
    file = data(tmp_path, image=cnn_samples(3), labels=np.zeros(2, np.int64))
    with pytest.raises(DataError, match="3 samples but 2 labels"):
        artifact.check(data=file)
    file = data(tmp_path, image=cnn_samples(3), labels=np.zeros((3, 7)))
    with pytest.raises(DataError, match="metric sqnr_db cannot compare"):
        artifact.check(data=file, metric="sqnr_db")
    with pytest.raises(DataError, match="no array 'classes'"):
        artifact.check(data=file, metric="spearman", labels="classes")


def test_run_means_the_same_by_npz_npy_and_loader(artifact: Artifact, tmp_path: Path) -> None:
    images = cnn_samples(3, seed=7)
    np.save(tmp_path / "images.npy", images)
    first = run_artifact(artifact.path, data(tmp_path, image=images, labels=np.arange(3)))
    second = run_artifact(artifact.path, tmp_path / "images.npy")
    assert first.samples == 3
    np.testing.assert_array_equal(first.outputs["scores"], second.outputs["scores"])
    loaded = edgec.load(artifact.path)
    for index in range(3):
        one = loaded.run(image=images[index : index + 1])["scores"]
        np.testing.assert_array_equal(one, first.outputs["scores"][index])


def test_dequantised_uses_the_port(artifact: Artifact) -> None:
    port = artifact.manifest.outputs[0]
    codes = np.full((1, *port.shape), port.zero_point, np.int8)
    assert not dequantised(artifact.manifest, {"scores": codes})["scores"].any()
