"""`check --layers`, `bench` and `compare`: what is measured, and which layer is found to differ."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.compiler.core.artifact import MANIFEST_NAME, hash_files, load_manifest
from edgec.compiler.core.graph import model_from_text
from edgec.targets import find_target
from tests.pairs import normal
from tests.small import RESIDUAL, cnn_samples, edgec, good, good_json, qoperator, save, write_cnn

M4 = pytest.param("cortex-m4", marks=pytest.mark.qemu_cortex_m)
EMULATED = [M4, pytest.param("aarch64", marks=pytest.mark.qemu_aarch64)]
FUNCTIONS = ["copy_1", "conv2d_1", "max_pool_1", "copy_2", "gemm_1"]

Compiled = Callable[[str], Path]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """compiled(target) -> artifact of the small network, made once each."""
    folder = tmp_path_factory.mktemp("measure")
    model, data = write_cnn(folder)

    def get(target: str) -> Path:
        out = folder / target
        if not out.exists():
            good("compile", model, "--target", target, "-o", out, "--calibration", data)
        return out

    return get


def with_fault(artifact: Path, folder: Path, symbol: str) -> Path:
    """Return a copy whose library has another first number in the constant `symbol`."""
    shutil.copytree(artifact, folder)
    manifest = load_manifest(folder)
    weights = folder / "src" / f"{manifest.name}_weights.c"
    text, count = re.subn(
        rf"({symbol}\[\d+\][^{{]*\{{\s*)(-?\d+)",
        lambda m: f"{m[1]}{-90 if int(m[2]) > 0 else 90}",
        weights.read_text(),
    )
    assert count == 1
    weights.write_text(text)
    spec, backend = find_target(manifest.target)
    backend.compile_library(spec, folder, manifest.name, folder)
    backend.link_check(spec, folder, manifest.name, manifest.inputs, manifest.outputs)
    manifest = manifest.model_copy(update={"files": hash_files(folder)})
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return folder


def layers_of(verdict: Any) -> list[Any]:
    return verdict["layers"]["layers"]


@pytest.mark.parametrize("target", ["host", *EMULATED])
def test_every_layer_has_the_bits_of_numpy(target: str, compiled: Compiled) -> None:
    verdict = good_json("check", compiled(target), "--layers")
    assert [layer["same_bits"] for layer in layers_of(verdict)] == [True] * 5
    assert verdict["layers"]["first_difference"] is None
    gate = verdict["gates"][-1]
    assert gate["name"] == "layers_differ_from_reference" and gate["passed"]


@pytest.mark.parametrize(
    ("target", "symbol", "wrong"),
    [
        ("host", "cnn_data_1_w", 1),
        pytest.param("cortex-m4", "cnn_data_4_w", 4, marks=pytest.mark.qemu_cortex_m),
    ],
)
def test_the_first_layer_that_differs_is_named(
    target: str, symbol: str, wrong: int, compiled: Compiled, tmp_path: Path
) -> None:
    broken = with_fault(compiled(target), tmp_path / "broken", symbol)
    result = edgec("check", broken, "--layers", "--json")
    assert result.exit_code == 1, result.output
    verdict = json.loads(result.stdout)
    found = [layer["same_bits"] for layer in layers_of(verdict)]
    assert all(found[:wrong]) and found[wrong] is False
    first = verdict["layers"]["first_difference"]
    assert first["call"] == wrong and first["function"] == layers_of(verdict)[wrong]["function"]
    # One weight of one output channel: of four in the convolution, of five in the last layer.
    assert 0 < first["share"] <= {1: 1 / 4, 4: 1 / 5}[wrong] and first["max_steps"] > 0


def test_layers_of_a_network_with_joined_sums(tmp_path: Path) -> None:
    """Its calls are those of the compiled C: residual sums are computed by the layer before."""
    text = RESIDUAL.replace("SUM", "Add(d, h)")
    model = save(
        model_from_text(text, w=normal(4, 4, 3, 3, seed=1, scale=0.3)), tmp_path / "m.onnx"
    )
    good("compile", model, "--target", "host", "-o", tmp_path / "out")
    found = good_json("check", tmp_path / "out", "--layers")["layers"]["layers"]
    assert any(layer["function"].startswith("linear_add") for layer in found)
    assert all(layer["same_bits"] for layer in found)


def test_layers_of_the_float32_recipe(tmp_path: Path) -> None:
    """Its program keeps int64, where quantised ones store indices in int32."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> words (int64[1,4] t) => (float[1,4,3] Y)'
        " { E = Gather (W, t) Y = Relu (E) }"
    )
    table = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    model = save(model_from_text(text, W=table), tmp_path / "words.onnx")
    good("compile", model, "--target", "host", "--recipe", "float32", "-o", tmp_path / "out")
    layers = layers_of(good_json("check", tmp_path / "out", "--layers"))
    assert layers and not any(layer["same_bits"] is False for layer in layers)


def test_the_first_difference_is_printed(compiled: Compiled, tmp_path: Path) -> None:
    broken = with_fault(compiled("host"), tmp_path / "broken", "cnn_data_1_w")
    text = edgec("check", broken, "--layers").stdout
    assert "layer 1, conv2d_1 for Conv" in text and "DIFFERENT bits" in text


def test_other_last_digits_of_a_float_island_are_no_difference(tmp_path: Path) -> None:
    """Cosh in C and in NumPy may round differently; the layers around it are still compared."""
    head = '<ir_version: 8, opset_import: ["" : 17]> island (float[3,50] X) => (float[3,50] Y)'
    model = save(model_from_text(f"{head} {{ C = Cosh (X) Y = Relu (C) }}"), tmp_path / "i.onnx")
    np.savez(tmp_path / "d.npz", X=np.linspace(-2, 2, 600).reshape(4, 3, 50).astype(np.float32))
    out = tmp_path / "out"
    good("compile", model, "--target", "host", "-o", out, "--calibration", tmp_path / "d.npz")
    layers = layers_of(good_json("check", out, "--layers"))
    assert {layer["function"] for layer in layers} >= {"dequantise_1", "float_op_1", "quantise_1"}
    assert not any(layer["same_bits"] is False for layer in layers)
    assert all(x["same_bits"] for x in layers if x["function"] != "float_op_1")


@pytest.mark.parametrize("target", EMULATED)
def test_bench_counts_every_layer(target: str, compiled: Compiled) -> None:
    (bench,) = good_json("bench", compiled(target))["artifacts"]
    layers = bench["layers"]
    assert [layer["function"] for layer in layers] == FUNCTIONS
    assert bench["time"] is None and all(layer["time_s"] is None for layer in layers)
    counts = [layer["instructions"] for layer in layers]
    # Stopping between layers moves a few instructions; the layers are what there is to count.
    assert sum(counts) == pytest.approx(bench["instructions"], rel=0.05)
    macs = [layer["macs"] for layer in layers]
    assert macs == [0, 4 * 64 * 18, 0, 0, 5 * 64]
    assert all(count > mac / 16 for count, mac in zip(counts, macs, strict=True))
    assert bench["ram_bytes"] > 0 and bench["flash_bytes"] > 0


def test_bench_times_the_host(compiled: Compiled) -> None:
    (bench,) = good_json("bench", compiled("host"), "--repeat", 5)["artifacts"]
    time = bench["time"]
    assert bench["instructions"] is None and time["runs"] == 8 * 5
    assert 0 < time["fastest_s"] <= time["median_s"] <= time["slowest_s"]
    times = [layer["time_s"] for layer in bench["layers"]]
    assert times[1] > 0 and sum(times) < time["slowest_s"] + 1e-3


@pytest.mark.qemu_cortex_m
def test_bench_prints_artifacts_then_layers(compiled: Compiled) -> None:
    text = good("bench", compiled("host"), compiled("cortex-m4"), "--repeat", 2).stdout
    assert text.index("this machine") < text.index("mps2-an386") < text.index("conv2d_1")
    short = good("bench", compiled("host"), "--no-layers", "--repeat", 2).stdout
    assert "conv2d_1" not in short


@pytest.mark.qemu_cortex_m
def test_compare_two_artifacts(compiled: Compiled) -> None:
    found = good_json("compare", compiled("cortex-m4"), compiled("cortex-m4"))
    (out,) = found["outputs"]
    assert out["same"] and out["name"] == "scores" and found["unit"] == "instructions"
    assert found["first"]["instructions"] == found["second"]["instructions"]
    assert all(pair["first"] == pair["second"] > 0 for pair in found["layers"])
    assert len(found["layers"]) == len(FUNCTIONS)


@pytest.mark.qemu_cortex_m
def test_layers_of_different_measures_are_not_compared(compiled: Compiled) -> None:
    found = good_json("compare", compiled("host"), compiled("cortex-m4"))
    assert found["layers"] == [] and found["outputs"][0]["same"]
    assert found["first"]["time_s"] and found["second"]["instructions"]
    assert found["first"]["sqnr_db"] == found["second"]["sqnr_db"] > 25


def test_compare_a_model_with_its_artifact(compiled: Compiled) -> None:
    artifact = compiled("host")
    model = artifact.parent / "cnn.onnx"
    found = good_json("compare", model, artifact, "--samples", 4)
    (out,) = found["outputs"]
    assert not out["same"] and 25 < out["sqnr_db"] < 60
    assert found["first"]["kind"] == "model" and found["first"]["flash_bytes"] is None
    assert found["samples"] == 4 and "reference inputs" in found["inputs"]
    text = good("compare", model, artifact).stdout
    assert "SQNR" in text and "flash" in text


def test_compare_a_coded_model_with_its_artifact(tmp_path: Path) -> None:
    """Its inputs and outputs are uint8 codes: both sides are compared as real values."""
    model = save(qoperator(), tmp_path / "q.onnx")
    good("compile", model, "--target", "host", "-o", tmp_path / "q")
    (out,) = good_json("compare", model, tmp_path / "q")["outputs"]
    assert out["sqnr_db"] > 40 and out["cosine"] > 0.999


def test_compare_two_models_on_data(compiled: Compiled, tmp_path: Path) -> None:
    artifact = compiled("host")
    np.savez(tmp_path / "new.npz", image=cnn_samples(5, seed=3))
    pair = (artifact.parent / "cnn.onnx", artifact / "model.quant.onnx")
    found = good_json("compare", *pair, "--data", tmp_path / "new.npz")
    assert found["samples"] == 5 and 20 < found["outputs"][0]["sqnr_db"] < 60
    synthetic = good_json("compare", *pair)
    assert synthetic["inputs"] == "8 seeded synthetic samples"


def test_refusals(compiled: Compiled, tmp_path: Path) -> None:
    model = save(qoperator(), tmp_path / "q.onnx")
    refused = edgec("compare", compiled("host"), model)
    assert refused.exit_code == 2
    assert "takes image 1x2x8x8 float" in refused.stderr and "codes 1x2x8x8 uint8" in refused.stderr
    absent = edgec("bench", tmp_path / "nothing")
    assert absent.exit_code == 2 and "not an artifact folder" in absent.stderr


def test_an_artifact_with_other_layers_is_refused(compiled: Compiled, tmp_path: Path) -> None:
    folder = tmp_path / "older"
    shutil.copytree(compiled("host"), folder)
    source = folder / "src" / "cnn.c"
    source.write_text(source.read_text().replace("    max_pool_1(", "    other_pool(", 1))
    manifest = load_manifest(folder).model_copy(update={"files": hash_files(folder)})
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    refused = edgec("check", folder, "--layers")
    assert refused.exit_code == 2 and "compile the model again" in refused.stderr
