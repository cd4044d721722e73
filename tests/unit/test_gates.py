"""Limits: whose they are, which hold, what a refusal blames and what it recommends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import edgec
from edgec.compiler.core.artifact import load_manifest
from edgec.compiler.core.errors import GateError, OptionError
from edgec.compiler.core.graph import model_from_text
from edgec.compiler.core.units import capacity_text
from edgec.compiler.gates import all_pass, limits, static_gates
from edgec.compiler.metrics import noise_share
from edgec.compiler.options import CompileOptions
from edgec.targets import find_target
from tests.pairs import normal
from tests.small import cnn, cnn_samples


def refuse(out: Path, model: ir.Model | None = None, **options: Any) -> GateError:
    """Compile the small network and demand that a limit is broken."""
    with pytest.raises(GateError) as caught:
        edgec.compile(
            model or cnn(), options.pop("target", "host"), out,
            options.pop("calibration", {"image": cnn_samples()}), **options,
        )  # fmt: skip
    return caught.value


def test_options_come_before_the_board() -> None:
    spec, _ = find_target("stm32f446")
    own = limits(CompileOptions(target=spec.name), spec)
    assert (own.max_flash_bytes, own.max_ram_bytes) == (512 << 10, 128 << 10)
    asked = limits(CompileOptions(target=spec.name, max_flash_bytes=1 << 20), spec)
    assert (asked.max_flash_bytes, asked.max_ram_bytes) == (1 << 20, 128 << 10)
    bare = limits(CompileOptions(target="host"), find_target("host")[0])
    assert bare.max_flash_bytes is None and bare.max_ram_bytes is None


def test_flash_is_blamed_on_the_largest_constants(tmp_path: Path) -> None:
    error = refuse(tmp_path / "out", max_flash_bytes=1024)
    (line,) = error.problems
    manifest = load_manifest(error.folder)
    flash = manifest.memory.flash_bytes
    assert flash is not None
    assert f"{flash:,} bytes, {flash - 1024:,} more than the 1,024 that --max-flash allows" in line
    assert re.search(
        r"most of all Gemm '\w+' \d+ B; Conv '\w+' \d+ B\.", line
    )  # 320 weights before 72
    assert f"--max-flash {-(-flash // 1024)}K" in line
    assert not (tmp_path / "out").exists() and error.folder == tmp_path / "out.failed"
    assert not all_pass(static_gates(manifest)) and error.exit_code == 1


def test_ram_is_blamed_on_what_is_alive_at_once(tmp_path: Path) -> None:
    (line,) = refuse(tmp_path / "out", max_ram_bytes=64).problems
    assert "fullest at" in line and "alive at once" in line
    assert re.search(r"'(c|r)'.* 256 B", line)  # the result of the convolution, 4 x 64
    assert "--max-ram 1K" in line


@pytest.mark.qemu_cortex_m
def test_a_board_that_is_too_small_names_one_that_is_not(tmp_path: Path) -> None:
    wide = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> wide
        (float[1, 1, 256, 512] x) => (float[1, 1, 256, 512] y) {
          a = Sigmoid(x)
          b = Tanh(a)
          y = Add(a, b)
        }"""
    )
    error = refuse(
        tmp_path / "out", wide, target="stm32f446",
        calibration={"x": normal(2, 1, 256, 512, seed=1)},
    )  # fmt: skip
    (line,) = error.problems
    assert "FAILED stm32f446" in line and "the 131,072 that stm32f446 has" in line
    # Input and output, 128 KiB each, and a little: all between them works in the output.
    assert "smallest board it would fit is stm32f746 (1 MiB of flash, 320 KiB of RAM)" in line


@pytest.mark.qemu_cortex_m
def test_what_no_emulator_holds_is_refused_all_the_same(tmp_path: Path) -> None:
    heavy = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> heavy
        (float[1, 1024] x) => (float[1, 5120] y) { y = MatMul(x, w) }""",
        w=normal(1024, 5120, seed=1),
    )
    error = refuse(
        tmp_path / "out", heavy, target="nrf52840", calibration={"x": normal(2, 1024, seed=2)}
    )
    (line,) = error.problems
    assert "flash is at least 5,2" in line and "No board known of this family" in line
    assert load_manifest(error.folder).memory.flash_bytes is None


def test_wide_activations_are_measured_as_a_way_out(tmp_path: Path) -> None:
    gated = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> gated
        (float[1, 4, 16] x) => (float[1, 4, 16] y) {
          a = MatMul(x, u)
          g = MatMul(x, v)
          s = Sigmoid(g)
          h = Mul(g, s)
          m = Mul(a, h)
          y = MatMul(m, w)
        }""",
        u=normal(16, 16, seed=1), v=normal(16, 16, seed=2), w=normal(16, 16, seed=3),
    )  # fmt: skip
    options = {"calibration": {"x": normal(16, 4, 16, seed=4)}}
    (line,) = refuse(
        tmp_path / "a", gated, **options, max_ram_bytes=64, wide_activations="always"
    ).problems
    narrow = refuse(tmp_path / "b", gated, **options, max_ram_bytes=64, wide_activations="never")
    ram = load_manifest(narrow.folder).memory.ram_bytes
    assert f"--wide-activations never takes {ram:,} bytes and would not be enough" in line
    (line,) = refuse(
        tmp_path / "c", gated, **options, max_drop=0.0, drop_measure="noise",
        wide_activations="never",
    ).problems  # fmt: skip
    found = re.search(r"--wide-activations always loses ([\d.e-]+) and would not be enough", line)
    own = re.search(r"power is ([\d.]+)%", line)
    assert found and own and 0 < float(found[1]) < float(own[1]) / 100


def test_loss_is_blamed_on_the_layer_that_adds_most(tmp_path: Path) -> None:
    error = refuse(tmp_path / "out", max_drop=0.0, drop_measure="noise")
    (line,) = error.problems
    manifest = load_manifest(error.folder)
    assert manifest.drop is not None and manifest.gates.drop_measure == "noise"
    assert f"the error's share of the outputs' power is {manifest.drop:.2%}" in line
    assert re.search(r"Most is lost at \S+ .*rises from", line)
    least = re.search(r"--max-drop ([\d.]+)%", line)
    assert least is not None
    again = edgec.compile(
        cnn(), "host", tmp_path / "out", {"image": cnn_samples()},
        max_drop=float(least[1]) / 100, drop_measure="noise",
    )  # fmt: skip
    assert again.check().passed and not error.folder.exists()


def test_task_metric_on_labelled_data(tmp_path: Path) -> None:
    images = cnn_samples(40, seed=3)
    host = edgec.compile(cnn(), "host", tmp_path / "host", {"image": cnn_samples()})
    loaded = edgec.load(host.path)
    labels = [int(loaded.run(image=x[None])["scores"].argmax()) for x in images]
    data = tmp_path / "labelled.npz"
    np.savez(data, allow_pickle=False, image=images, labels=np.array(labels))
    made = edgec.compile(
        cnn(), "host", tmp_path / "out", {"image": cnn_samples()},
        max_drop=0.05, drop_measure="accuracy", evaluation=data,
    )  # fmt: skip
    # Labels are the artifact's own answers: nothing the float model gets right more often.
    assert made.manifest.drop is not None and made.manifest.drop <= 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_drop": 0.1, "calibration": None}, "means nothing on random data"),
        ({"max_drop": 0.1, "drop_measure": "nois"}, "did you mean noise"),
        ({"max_drop": 0.1, "drop_measure": "accuracy"}, "needs labelled data"),
        ({"evaluation": Path("x.npz")}, "add --max-drop"),
    ],
    ids=str,
)
def test_a_limit_that_cannot_be_judged(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    given = {"calibration": {"image": cnn_samples()}} | options
    with pytest.raises(OptionError, match=sentence):
        edgec.compile(cnn(), "host", tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []


def test_agreement_of_single_values_says_nothing(tmp_path: Path) -> None:
    sine = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> sine
        (float[1, 1] x) => (float[1, 1] y) { y = Sin(x) }"""
    )
    with pytest.raises(OptionError, match="choose --drop-measure noise"):
        edgec.compile(sine, "host", tmp_path / "out", {"x": normal(8, 1, seed=1)}, max_drop=0.1)


def test_foreign_folder_of_the_failed_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.failed").mkdir()
    with pytest.raises(OptionError, match=r"out\.failed' exists and is not an edgec artifact"):
        edgec.compile(cnn(), "host", tmp_path / "out", {"image": cnn_samples()})


def test_noise_is_a_share() -> None:
    signal = np.array([3.0, 4.0])
    assert noise_share(signal, signal * 0.9) == pytest.approx(0.01)
    assert noise_share(signal, -signal) == 1.0


def test_capacities_are_round() -> None:
    sizes = (None, 520 << 10, 1 << 20, 3 << 30, 1000)
    assert list(map(capacity_text, sizes)) == ["-", "520 KiB", "1 MiB", "3 GiB", "1000 B"]
