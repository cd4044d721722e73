"""The command line from a model to checked artifacts on every family of devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.small import cnn_samples, edgec, good, good_json, qdq_cnn, qoperator, save, write_cnn

M = pytest.mark.qemu_cortex_m
DEVICES = [
    pytest.param("aarch64", marks=pytest.mark.qemu_aarch64),
    *(pytest.param(f"cortex-{core}", marks=M) for core in ("m4", "m7", "m33", "m55")),
]
GPUS = [
    pytest.param("cuda-sm80", marks=pytest.mark.cuda),
    pytest.param("jetson-orin", marks=[pytest.mark.cuda, pytest.mark.qemu_aarch64]),
]
ALL = [pytest.param("host"), *DEVICES, *GPUS]

Compiled = Callable[[str], Path]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """compiled(target) -> artifact of the small network, made once each by the command line."""
    folder = tmp_path_factory.mktemp("compiled")
    model, data = write_cnn(folder)
    made: dict[str, Path] = {}

    def get(target: str) -> Path:
        if target not in made:
            out = folder / target
            good("compile", model, "--target", target, "-o", out, "--calibration", data)
            made[target] = out
        return made[target]

    return get


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that calibration has not seen, in a file; labels beside them."""
    path = tmp_path_factory.mktemp("inputs") / "new.npz"
    labels = np.arange(6) % 5
    np.savez(path, allow_pickle=False, image=cnn_samples(6, seed=9) * 1.3, labels=labels)
    return path


@pytest.mark.parametrize("target", ALL)
def test_check_passes(target: str, compiled: Compiled) -> None:
    verdict = good_json("check", compiled(target))
    assert verdict["passed"] and verdict["target"] == target
    assert verdict["quantised"]["max_steps"] <= 1 and verdict["quantised"]["same_bits"]
    assert verdict["quantised"]["max_steps_double"] == 0
    assert verdict["float"]["sqnr_db"] > 25
    assert set(verdict) >= {
        "passed", "target", "device", "quantised", "float", "task", "memory", "instructions",
        "time_s", "gates",
    }  # fmt: skip


@pytest.mark.parametrize("target", DEVICES)
def test_check_measures_the_device(target: str, compiled: Compiled) -> None:
    verdict = good_json("check", compiled(target), "--profile")
    memory = verdict["memory"]
    assert memory["ram_bytes"] >= memory["arena_bytes"] + memory["stack_bytes"] > 0
    assert memory["flash_bytes"] > 72 + 320  # the int8 weights alone
    assert verdict["instructions"] > 4 * 64 * 18 / 16  # sixteen multiply-accumulates at best
    assert verdict["profile"] and sum(verdict["profile"].values()) > 0


@pytest.mark.parametrize("target", [*DEVICES, *GPUS])
def test_same_bits_as_the_host(
    target: str, compiled: Compiled, inputs: Path, tmp_path: Path
) -> None:
    answers: list[np.ndarray] = []
    for name in ("host", target):
        saved = tmp_path / f"{name}.npz"
        good("run", compiled(name), "--input", inputs, "-o", saved)
        with np.load(saved) as stored:
            answers.append(stored["scores"])
    host, device = answers
    assert host.shape == (6, 1, 5) and np.ptp(host) > 0
    np.testing.assert_array_equal(host, device)


def test_task_metric_and_its_gate(compiled: Compiled, inputs: Path) -> None:
    task = good_json("check", compiled("host"), "--data", inputs, "--samples", 4)["task"]
    assert task["metric"] == "accuracy" and 0 <= task["value"] <= 1
    assert task["float_value"] in (0, 0.25, 0.5, 0.75, 1)


def test_check_prints_a_table(compiled: Compiled) -> None:
    text = good("check", compiled("host")).stdout
    for words in ("PASSED", "same bits", "SQNR", "gate bits_differ_from_reference"):
        assert words in text


def test_profile_on_the_host_says_that_there_is_none(compiled: Compiled) -> None:
    answer = good("check", compiled("host"), "--profile")
    assert "no profile: this machine counts no instructions" in answer.stderr


def test_two_compilations_give_the_same_bytes(compiled: Compiled, tmp_path: Path) -> None:
    model, data = write_cnn(tmp_path)
    first, second = compiled("host"), tmp_path / "again"
    good("compile", model, "--target", "host", "-o", second, "--calibration", data)
    # Other tests check the first: its verdicts are not what compile wrote.
    names, again = (
        sorted(
            p.relative_to(out)
            for p in out.rglob("*")
            if p.is_file() and p.parent.name != "verdicts"
        )
        for out in (first, second)
    )
    assert names == again
    timed = ("manifest", "report")
    differ = [
        str(n) for n in names
        if n.stem not in timed and (first / n).read_bytes() != (second / n).read_bytes()
    ]  # fmt: skip
    assert differ == []


def test_qdq_model(tmp_path: Path) -> None:
    model = save(qdq_cnn(), tmp_path / "qdq.onnx")
    summary = good_json("compile", model, "--target", "host", "-o", tmp_path / "out")
    assert "already quantised" in summary["calibration"]
    assert summary["warnings"] == []
    verdict = good_json("check", tmp_path / "out")
    assert verdict["passed"] and verdict["float"] is None
    assert verdict["quantised"]["share_within_1"] == 1.0


def test_qoperator_model(tmp_path: Path) -> None:
    model, out = save(qoperator(), tmp_path / "qop.onnx"), tmp_path / "out"
    good("compile", model, "--target", "host", "-o", out)
    verdict = good_json("check", out)
    assert verdict["passed"] and verdict["quantised"]["max_steps"] <= 1
    codes = np.random.default_rng(1).integers(0, 256, (2, 2, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "codes.npz", allow_pickle=False, codes=codes)
    real = (codes.astype(np.float32) - 128) * np.float32(0.02)
    np.savez(tmp_path / "real.npz", allow_pickle=False, codes=real)
    by_codes = good_json("run", out, "--input", tmp_path / "codes.npz")
    assert by_codes == good_json("run", out, "--input", tmp_path / "real.npz") | {
        "time_s": by_codes["time_s"]
    }


def test_default_folder_warning_and_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cnn(tmp_path)
    first = good("compile", "cnn.onnx", "--target", "host")
    assert (tmp_path / "cnn-host" / "manifest.json").is_file()
    assert "WARNING" in first.stderr and "synthetic" in first.stderr
    assert "SQNR" in first.stdout and "edgec check cnn-host" in first.stdout
    before = (tmp_path / "cnn-host" / "manifest.json").read_bytes()
    again = edgec("compile", "cnn.onnx", "--target", "host")
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert (tmp_path / "cnn-host" / "manifest.json").read_bytes() == before
    quiet = good("compile", "cnn.onnx", "--target", "host", "--overwrite", "-q", "--seed", 1)
    assert quiet.stdout == "" and "WARNING" in quiet.stderr
    assert (tmp_path / "cnn-host" / "manifest.json").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cnn-host", "cnn.onnx", "data.npz"]


def test_what_breaks_a_limit_is_kept_beside(tmp_path: Path) -> None:
    model, data = write_cnn(tmp_path)
    out = tmp_path / "out"
    options = ("--max-flash", "1K", "--max-ram", "1M", "--calibration", data)
    result = edgec("compile", model, "--target", "host", "-o", out, *options, "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    flash = summary["memory"]["flash_bytes"]
    assert flash > 1024 and f"{flash - 1024:,} more than" in result.stderr
    assert not out.exists() and summary["artifact"] == str(tmp_path / "out.failed")
    verdicts = {g["name"]: g["passed"] for g in summary["gates"]}
    assert verdicts == {"flash_bytes": False, "ram_bytes": True}
    checked = edgec("check", tmp_path / "out.failed", "--json")
    assert checked.exit_code == 1 and not json.loads(checked.stdout)["passed"]
    good("compile", model, "--target", "host", "-o", out, "--calibration", data)
    before = (out / "manifest.json").read_bytes()
    assert not (tmp_path / "out.failed").exists()
    again = edgec("compile", model, "--target", "host", "-o", out, *options, "--overwrite")
    assert again.exit_code == 1 and (out / "manifest.json").read_bytes() == before


def test_options_reach_the_artifact(tmp_path: Path) -> None:
    model, data = write_cnn(tmp_path)
    summary = good_json(
        "compile", model, "--target", "host", "-o", tmp_path / "out", "--calibration", data,
        "--calibration-method", "percentile:99", "--samples", 5, "--name", "net",
        "--shape", "image=1,2,8,8", "--no-pass", "cross-layer-equalisation", "--max-drop", "50%",
    )  # fmt: skip
    assert summary["name"] == "net" and summary["calibration"].startswith("5 samples")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["gates"]["max_drop"] == 0.5
    assert (tmp_path / "out" / "include" / "net.h").is_file()
    passes = json.loads((tmp_path / "out" / "report.json").read_text())["passes"]
    assert "cross_layer_equalisation" not in {p["name"] for p in passes}


def test_inspect(tmp_path: Path) -> None:
    model, _ = write_cnn(tmp_path)
    found = good_json("inspect", model)
    assert found["opset"] == 17 and found["compiles"] and found["problems"] == []
    assert found["inputs"] == [{"name": "image", "shape": [1, 2, 8, 8], "dtype": "float"}]
    assert found["operators"]["Conv"] == 1
    assert found["parameters"] == 4 * 2 * 9 + 4 + 5 * 64 + 5
    assert found["macs"] == {"total": 4 * 64 * 18 + 320, "Conv": 4 * 64 * 18, "Gemm": 320}
    # The Conv's result and its input are the most at once; Relu works in place.
    assert found["peak_activation_bytes"] == 2 * 64 + 4 * 64
    assert found["kernels"].items() >= {"conv2d": 1, "gemm": 1, "max_pool": 1}.items()
    assert found["float_islands"] == []
    assert "yes, wholly on integers" in good("inspect", model).stdout


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {c["tool"] for c in _doctor(0)["checks"]} >= {"python", "gcc", "onnxruntime"}
    monkeypatch.setenv("PATH", str(tmp_path))
    broken = _doctor(3)
    assert not broken["passed"]
    assert "apt-get install" in edgec("doctor").stdout


def _doctor(code: int) -> dict[str, list[dict[str, str]]]:
    result = edgec("doctor", "--json")
    assert result.exit_code == code
    return json.loads(result.stdout)


def test_lists_and_version() -> None:
    found = {t["name"]: t for t in good_json("targets")["targets"]}
    assert set(found) >= {"host", "aarch64", "cortex-m4", "cortex-m55"}
    assert found["cortex-m4"]["flash_bytes"] is None
    board = found["stm32f446"]
    assert (board["core"], board["flash_bytes"], board["ram_bytes"]) == (
        "cortex-m4", 512 << 10, 128 << 10,
    )  # fmt: skip
    passes = {p["name"]: p for p in good_json("passes")["passes"]}
    assert passes["cross_layer_equalisation"]["runs"] == "optional"
    assert passes["assign_encodings"]["kind"] == "decision"
    assert all(p["summary"] for p in passes.values())
    recipes = {r["name"]: r for r in good_json("recipes")["recipes"]}
    assert recipes["w4a8-rotated"]["passes"] == ["quarot", "online_hadamard"]
    assert recipes["float32"]["weight_bits"] is None
    for verb in ("targets", "passes", "recipes"):
        assert good(verb).stdout
    assert good("--version").stdout.startswith("edgec 0.")
    assert edgec().exit_code == 2


HEAVY = ("tvm", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "numpy", "rich", "pydantic")


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edgec.compiler.cli import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    )
    seconds: list[float] = []
    done = None
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        )  # fmt: skip
        seconds.append(time.perf_counter() - start)
    assert done is not None and "HEAVY []" in done.stdout and "compile" in done.stdout
    assert min(seconds) < 0.5
