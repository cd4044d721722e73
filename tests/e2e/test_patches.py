"""A residual network in patches: the bits of whole images on every kind of core, RAM as planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import edgec
from edgec.compiler.core.graph import model_from_text
from tests.pairs import normal
from tests.small import edgec as run
from tests.small import good, save

TARGETS = [
    "host",
    pytest.param("aarch64", marks=pytest.mark.qemu_aarch64),
    pytest.param("cortex-m4", marks=pytest.mark.qemu_cortex_m),
    pytest.param("cortex-m7", marks=pytest.mark.qemu_cortex_m),
    pytest.param("cortex-m55", marks=pytest.mark.qemu_cortex_m),
]
_BLOCK = """<ir_version: 8, opset_import: ["" : 17]> block
    (float[1, 3, 22, 26] image) => (float[1, 5] scores) {
    c = Conv<pads = [1, 1, 1, 1]>(image, w1)
    r = Relu(c)
    e = Conv(r, w2)
    f = Relu(e)
    d = Conv<pads = [1, 1, 1, 1], group = 12>(f, w3)
    g = Relu(d)
    p = Conv(g, w4)
    s = Add(p, r)
    m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(s)
    t = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(m, w5)
    a = GlobalAveragePool(t)
    h = Flatten(a)
    scores = Gemm<transB = 1>(h, w6)
}"""


def block() -> ir.Model:
    """Return an inverted residual block between convolutions, pooling and a classifier."""
    shapes = ((6, 3, 3, 3), (12, 6, 1, 1), (12, 1, 3, 3), (6, 12, 1, 1), (8, 6, 3, 3), (5, 8))
    weights = {
        f"w{i + 1}": normal(*shape, seed=i, scale=1.5 / np.sqrt(np.prod(shape[1:])))
        for i, shape in enumerate(shapes)
    }
    return model_from_text(_BLOCK, **weights)


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    return [{"image": normal(1, 3, 22, 26, seed=50 + i)} for i in range(8)]


@pytest.mark.parametrize("target", TARGETS)
def test_the_bits_of_whole_images(
    target: str, samples: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    whole = edgec.compile(block(), target, tmp_path / "whole", samples)
    tiles = edgec.compile(block(), target, tmp_path / "tiles", samples, patches="always")
    assert whole.report["patches"] is None and whole.manifest.patches is None
    facts, info = tiles.report["patches"], tiles.manifest.patches
    assert info is not None and facts["tiles"][0] * facts["tiles"][1] > 1
    assert facts["arena_bytes"] == tiles.manifest.memory.arena_bytes
    assert facts["arena_bytes_before"] == whole.manifest.memory.arena_bytes
    assert facts["arena_bytes"] < 0.6 * facts["arena_bytes_before"]
    assert (facts["macs"], facts["macs_before"]) == (tiles.manifest.macs, whole.manifest.macs)
    assert f"Patches: {facts['text']}" in (tiles.path / "report.txt").read_text()
    stored = [np.load(a.path / "reference.npz") for a in (whole, tiles)]
    np.testing.assert_array_equal(*[s["expected/scores"] for s in stored])
    verdict = tiles.check()
    assert verdict.quantised.same_bits
    if verdict.memory is not None and verdict.memory.ram_bytes is not None:
        used = verdict.memory.ram_bytes - verdict.memory.stack_bytes
        assert used == tiles.manifest.memory.ram_bytes


@pytest.mark.qemu_cortex_m
def test_a_limit_of_ram_is_met_by_patches(
    samples: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    whole = edgec.compile(block(), "cortex-m4", tmp_path / "whole", samples)
    needed = whole.manifest.memory.ram_bytes
    assert needed is not None
    fitted = edgec.compile(block(), "cortex-m4", tmp_path / "o", samples, max_ram_bytes=needed - 1)
    assert fitted.manifest.patches is not None
    verdict = fitted.check(layers=True)
    assert verdict.quantised.same_bits and verdict.passed
    assert verdict.layers is not None and verdict.layers.first_difference is None
    assert verdict.memory is not None and verdict.memory.ram_bytes < needed
    with pytest.raises(edgec.GateError, match="--patches auto would try"):
        edgec.compile(
            block(), "cortex-m4", tmp_path / "n", samples, max_ram_bytes=needed - 1,
            patches="never",
        )  # fmt: skip
    with pytest.raises(edgec.GateError, match="Patches: none, for no split and tiles"):
        edgec.compile(block(), "cortex-m4", tmp_path / "n", samples, max_ram_bytes=2048)


def test_the_command_line_asks_for_them(tmp_path: Path) -> None:
    path, out = save(block(), tmp_path / "block.onnx"), tmp_path / "out"
    shown = good("compile", path, "--target", "host", "-o", out, "--patches", "always")
    assert "% more multiply-accumulates" in " ".join(shown.stdout.split())
    refused = run("compile", path, "--target", "cuda-sm80", "--patches", "always")
    assert refused.exit_code == 2 and "leave --patches out for a GPU" in refused.stderr
