"""A board behind a serial line: QEMU's boards, whose UART is a pty, checked as real ones are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.compiler.core.errors import DeviceError
from edgec.runtime.devices import SerialBoard
from edgec.targets import find_target
from edgec.targets.harness import write_serial
from tests.serial_firmware import board, build_firmware
from tests.small import cnn_samples, edgec, good, good_json, write_cnn

pytestmark = pytest.mark.qemu_cortex_m

X = np.arange(60, dtype=np.int8).reshape(3, 4, 5)
Tiny = Callable[..., tuple[Path, Any]]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network for Cortex-M4."""
    folder = tmp_path_factory.mktemp("serial")
    model, data = write_cnn(folder)
    good("compile", model, "--target", "cortex-m4", "-o", folder / "m4", "--calibration", data)
    return folder / "m4"


@pytest.fixture(scope="module")
def pty(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The serial line of a board that runs the artifact."""
    firmware = build_firmware(artifact, tmp_path_factory.mktemp("firmware"))
    with board(firmware, "mps2-an386") as line:
        yield line


def tiny_board(
    build_tiny: Tiny, target: str, behaviour: str, folder: Path
) -> tuple[Path, Any, Path]:
    """Return artifact, manifest and firmware of the hand-written model."""
    made, manifest = build_tiny(target, behaviour)
    artifact = folder / "tiny"
    shutil.copytree(made, artifact)
    write_serial(find_target(target)[0], artifact, "tiny", manifest.inputs, manifest.outputs)
    return artifact, manifest, build_firmware(artifact, folder)


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"])
def test_every_core_answers(target: str, build_tiny: Tiny, tmp_path: Path) -> None:
    artifact, manifest, firmware = tiny_board(build_tiny, target, "good", tmp_path)
    with board(firmware, find_target(target)[0].machine) as line:
        result = SerialBoard(line, timeout_s=30).run(artifact, manifest, {"x:0": X}, repeat=2)
    assert np.array_equal(result.outputs["y"], X + 1)
    expected = (X.astype(np.int32).reshape(3, 20) * (np.arange(20) - 10)).sum(axis=1)
    assert np.array_equal(result.outputs["sum"].reshape(-1), expected)
    assert result.stack_bytes is not None and result.stack_bytes < 100
    assert result.instructions is None and result.times_s is None


@pytest.mark.parametrize(("behaviour", "said"), [("overruns", "'y'"), ("fails", "status 7")])
def test_misbehaviour_is_reported(
    behaviour: str, said: str, build_tiny: Tiny, tmp_path: Path
) -> None:
    artifact, manifest, firmware = tiny_board(build_tiny, "cortex-m4", behaviour, tmp_path)
    with board(firmware, "mps2-an386") as line, pytest.raises(DeviceError, match=said):
        SerialBoard(line, timeout_s=30).run(artifact, manifest, {"x:0": X})


def test_check_over_the_line(artifact: Path, pty: str) -> None:
    verdict = good_json("check", artifact, "--device", f"serial:{pty}")
    emulated = good_json("check", artifact)
    assert verdict["passed"] and verdict["quantised"] == emulated["quantised"]
    assert verdict["device"] == f"board on {pty}" and verdict["instructions"] is None
    assert verdict["memory"]["flash_bytes"] == emulated["memory"]["flash_bytes"]
    assert verdict["memory"]["stack_bytes"] > 0


def test_run_and_bench_over_the_line(artifact: Path, pty: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", image=cnn_samples(3, seed=5))
    answers: list[Any] = []
    for device in ("auto", f"serial:{pty}@9600"):
        saved = tmp_path / "out.npz"
        good("run", artifact, "--input", tmp_path / "new.npz", "-o", saved, "--device", device)
        with np.load(saved) as stored:
            answers.append(stored["scores"])
    assert np.array_equal(*answers)
    (bench,) = good_json("bench", artifact, "--device", f"serial:{pty}", "--repeat", 2)["artifacts"]
    assert bench["layers"] == [] and bench["time"] is None and bench["ram_bytes"] > 0


def test_layers_of_a_board_come_from_a_build_that_is_flashed(
    artifact: Path, tmp_path: Path
) -> None:
    keep = tmp_path / "layered"
    refused = edgec("check", artifact, "--layers", "--device", "serial:/dev/null")
    assert refused.exit_code == 2 and "--keep" in refused.stderr
    good("check", artifact, "--layers", "--keep", keep)
    with board(build_firmware(keep, tmp_path), "mps2-an386") as line:
        flags = ("--layers", "--keep", keep, "--device", f"serial:{line}")
        verdict = good_json("check", artifact, *flags)
        assert [layer["same_bits"] for layer in verdict["layers"]["layers"]] == [True] * 5
        assert verdict["passed"] and verdict["quantised"]["same_bits"]
        shipped = edgec("check", artifact, "--device", f"serial:{line}", "--json")
        assert shipped.exit_code == 1
        assert "runs another program ('cnn'" in json.loads(shipped.stdout)["errors"][0]


def test_what_cannot_be_reached_is_said(artifact: Path, tmp_path: Path) -> None:
    absent = edgec("check", artifact, "--device", f"serial:{tmp_path}/tty")
    assert absent.exit_code == 2 and "cannot open serial port" in absent.stderr
    for text in ("serial:", "serial:@9600", "serial:/dev/x@fast", "telepathy", "local:1"):
        wrong = edgec("check", artifact, "--device", text)
        assert wrong.exit_code == 2 and "write" in wrong.stderr, text
