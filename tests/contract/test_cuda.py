"""Targets with NVIDIA GPUs: GPU code really compiled, with integer dot products in it.

That every kernel gives the reference's bits is tested in test_kernels.py, under emulation.
"""

from __future__ import annotations

import ctypes
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgec.compiler.core.artifact import Manifest, hash_files
from edgec.compiler.core.elf import read_elf
from edgec.compiler.core.errors import DeviceError
from edgec.compiler.lowering.gpu.emit import emit_cuda
from edgec.compiler.lowering.kernels._shared import Epilogue, random_linear, random_s8
from edgec.compiler.lowering.kernels._window import Window
from edgec.compiler.lowering.kernels.conv2d import Conv2d
from edgec.compiler.lowering.kernels.gemm import Gemm
from edgec.compiler.lowering.program import Buffer, Call, Port, Program
from edgec.compiler.package import C_RUNTIME, port_info
from edgec.runtime.devices import device_for
from edgec.runtime.devices.cuda import Gpu, find_gpu
from edgec.runtime.native import NativeModel
from edgec.targets import find_target, targets
from edgec.targets.memory import measure_static
from edgec.targets.nvdisasm import opcodes
from tests.conftest import tiny_manifest

pytestmark = pytest.mark.cuda
GPUS = [
    pytest.param(name, marks=pytest.mark.qemu_aarch64 if spec.machine else ())
    for name, (spec, _) in targets().items()
    if spec.family == "cuda"
]
WINDOW = Window(6, 5, 8, (3, 3), pads=(1, 1, 1, 1))


def network() -> Program:
    """Return a convolution and a fully connected layer with seeded weights."""
    rng = np.random.default_rng(41)
    w, bias, multiplier, q = random_linear(rng, 12, 72)
    v, offset, factor, last = random_linear(rng, 10, 360)
    conv = Conv2d(1, WINDOW, 12, 1, Epilogue.of(q))
    gemm = Gemm(1, 360, 10, Epilogue.of(last))
    sizes = {"x": WINDOW.input_size, "h": 360, "y": 10}
    return Program(
        (Port("x", (1, 6, 5, 8), "x", "int8", None),),
        (Port("y", (1, 10), "y", "int8", None),),
        {name: Buffer(name, size, "int8") for name, size in sizes.items()},
        {},
        (
            Call(conv, ("x",), (w.reshape(-1), bias, multiplier, q), ("h",), ("Conv 'a'",)),
            Call(gemm, ("h",), (v.reshape(-1), offset, factor, last), ("y",), ("Gemm 'b'",)),
        ),
    )


def write(folder: Path) -> Manifest:
    """Write the files of the network to folder; returns a manifest that fits any GPU."""
    model = emit_cuda(network(), "tiny", "cuda", "test")
    for path, text in model.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for header in C_RUNTIME.glob("*.h"):
        shutil.copy(header, folder / "src")
    memory = {"arena_bytes": model.arena.size_bytes, "weights_bytes": model.weights_bytes}
    ports = {
        "inputs": tuple(map(port_info, model.inputs)),
        "outputs": tuple(map(port_info, model.outputs)),
    }
    found = tiny_manifest("cuda-sm80", {})
    return found.model_copy(update={**ports, "memory": found.memory.model_copy(update=memory)})


def build(folder: Path, target: str) -> Manifest:
    """Write and compile the network for target."""
    manifest = write(folder).model_copy(update={"target": target})
    spec, backend = find_target(target)
    backend.compile_library(spec, folder, "tiny", folder)
    backend.link_check(spec, folder, "tiny", manifest.inputs, manifest.outputs)
    return manifest


@pytest.mark.parametrize("target", GPUS)
def test_every_target_is_compiled_and_gives_the_bits(target: str, tmp_path: Path) -> None:
    manifest = build(tmp_path, target)
    spec, _ = find_target(target)
    x = random_s8(np.random.default_rng(5), 4 * WINDOW.input_size).reshape(4, 1, 6, 5, 8)
    got = device_for(spec).run(tmp_path, manifest, {"x": x}).outputs["y"]
    program = network()
    for sample, answer in zip(x, got, strict=True):
        np.testing.assert_array_equal(answer, program.interpret({"x": sample})["y"])
    found = opcodes((tmp_path / "lib" / "tiny.cubin").read_bytes())
    assert set(found) == {"conv2d_1", "gemm_1"}
    for name, instructions in found.items():
        assert dots(instructions), f"{name} holds no integer dot product: {instructions}"
        assert not [op for op in instructions if op.startswith(("FFMA", "FMUL", "FADD", "LDL"))]


def dots(instructions: Counter[str]) -> int:
    """Return how many of the instructions are integer dot products or matrix products."""
    return sum(n for op, n in instructions.items() if op.startswith(("IDP", "IMMA")))


def test_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        build(tmp_path / name, "cuda-sm80")
    assert hash_files(tmp_path / "first") == hash_files(tmp_path / "second")
    program = (tmp_path / "first" / "firmware" / "check.elf").read_bytes()
    assert str(tmp_path).encode() not in program


def test_memory_counts_kernels_weights_and_what_lies_on_the_gpu(tmp_path: Path) -> None:
    manifest = build(tmp_path, "cuda-sm80")
    memory = measure_static(tmp_path, find_target("cuda-sm80")[0], manifest)
    cubin = (tmp_path / "lib" / "tiny.cubin").stat().st_size
    weights = manifest.memory.weights_bytes
    assert weights > 12 * 72 + 360 * 10
    assert cubin + weights < memory.flash_bytes < cubin + weights + 16000
    assert memory.io_bytes == 240 + 10
    on_gpu = weights + manifest.memory.arena_bytes + memory.io_bytes
    assert on_gpu <= memory.static_ram_bytes < on_gpu + 2000


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_without_a_driver_the_library_says_so(tmp_path: Path) -> None:
    manifest = build(tmp_path, "cuda-sm80")
    model = NativeModel(tmp_path, manifest)
    with pytest.raises(DeviceError, match=r"'tiny' \(cuda-sm80\): there is no NVIDIA driver"):
        model.call([np.zeros((1, 6, 5, 8), np.int8)])
    library = ctypes.CDLL(str(tmp_path / "lib" / "libtiny.so"))
    assert library.tiny_open(0) == -1
    library.tiny_close()  # nothing is open, nothing happens


def test_library_needs_nothing_of_nvidia(tmp_path: Path) -> None:
    build(tmp_path, "cuda-sm80")
    names = {symbol.name for symbol in read_elf(tmp_path / "lib" / "libtiny.so").symbols}
    assert "tiny_run" in names
    assert not [name for name in names if name.startswith(("cu", "nv"))]


def test_gpu_runs_code_of_its_own_major_version() -> None:
    a10 = Gpu("A10", 8, 6)
    assert [a for a in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90") if a10.runs(a)] == [
        "sm_80",
        "sm_86",
    ]
