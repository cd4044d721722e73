"""Every core: builds a small C model, runs it right, repeatably, and is weighed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.artifact import hash_files, load_manifest, verify_files
from edgec.compiler.core.elf import read_elf
from edgec.compiler.core.tools import CLANG
from edgec.runtime.devices import device_for
from edgec.targets import cores, find_target
from edgec.targets.memory import measure_static
from edgec.targets.toolchain import compile_with

MARKS = {
    "host": (),
    "aarch64": pytest.mark.qemu_aarch64,
    "cortex_m": pytest.mark.qemu_cortex_m,
}
# GPUs take another form of model: test_cuda.py.
EVERY = [
    pytest.param(name, marks=MARKS[spec.family])
    for name, (spec, _) in cores().items()
    if spec.family != "cuda"
]
EMULATED = [param for param in EVERY if param.marks]


@pytest.fixture
def samples(rng: np.random.Generator) -> NDArray[np.int8]:
    return rng.integers(-128, 128, (4, 4, 5)).astype(np.int8)


@pytest.mark.parametrize("target", EVERY)
def test_outputs_are_right(build_tiny: Any, target: str, samples: Any) -> None:
    folder, manifest = build_tiny(target)
    verify_files(folder, load_manifest(folder))
    result = device_for(find_target(target)[0]).run(folder, manifest, {"x:0": samples})
    wide = samples.astype(np.int32)
    assert np.array_equal(result.outputs["y"], np.minimum(wide + 1, 127))
    expected = (wide.reshape(4, 20) * (np.arange(20) - 10)).sum(axis=1)
    assert np.array_equal(result.outputs["sum"].reshape(-1), expected)


@pytest.mark.parametrize("target", EMULATED)
def test_instructions_are_plausible_and_repeat(build_tiny: Any, target: str, samples: Any) -> None:
    folder, manifest = build_tiny(target)
    device = device_for(find_target(target)[0])
    first, second = (device.run(folder, manifest, {"x:0": samples}) for _ in range(2))
    assert first.instructions == second.instructions
    assert first.stack_bytes == second.stack_bytes
    # Forty steps; at best sixteen lanes at a time, at worst about a dozen instructions each.
    assert first.instructions is not None
    assert all(20 <= count <= 600 for count in first.instructions)


@pytest.mark.parametrize("target", EVERY)
def test_memory_is_the_model_alone(build_tiny: Any, target: str) -> None:
    folder, manifest = build_tiny(target)
    spec, _ = find_target(target)
    memory = measure_static(folder, spec, manifest)
    # 20 bytes of weights and a few hundred of code; a harness or libc left in adds kilobytes.
    assert 20 < memory.flash_bytes < 1000
    assert 64 <= memory.static_ram_bytes <= 96
    assert memory.io_bytes == 20 + 20 + 4
    assert memory.ram_bytes(100) == memory.static_ram_bytes + 144


@pytest.mark.parametrize("target", EVERY)
def test_same_source_gives_the_same_bytes(build_tiny: Any, target: str, tmp_path: Path) -> None:
    folder, manifest = build_tiny(target)
    copy = tmp_path / "elsewhere"
    for part in ("src", "include"):
        shutil.copytree(folder / part, copy / part)
    spec, backend = find_target(target)
    backend.compile_library(spec, copy, "tiny", copy)
    backend.link_check(spec, copy, "tiny", manifest.inputs, manifest.outputs)
    assert hash_files(copy) == hash_files(folder)
    assert str(tmp_path).encode() not in (copy / "firmware" / "check.elf").read_bytes()


@pytest.mark.skipif(CLANG.find() is None, reason="not installed: clang")
@pytest.mark.parametrize("target", EVERY)
def test_clang_compiles_it_to_the_same_results(
    build_tiny: Any, target: str, tmp_path: Path, samples: Any
) -> None:
    folder, manifest = build_tiny(target)
    for part in ("src", "include"):
        shutil.copytree(folder / part, tmp_path / part)
    spec, backend = find_target(target)
    backend.compile_library(compile_with(spec, "clang"), tmp_path, "tiny", tmp_path)
    backend.link_check(spec, tmp_path, "tiny", manifest.inputs, manifest.outputs)
    device = device_for(spec)
    ours = device.run(folder, manifest, {"x:0": samples})
    theirs = device.run(tmp_path, manifest, {"x:0": samples})
    assert all(np.array_equal(theirs.outputs[name], ours.outputs[name]) for name in ours.outputs)


@pytest.mark.parametrize("target", EVERY)
def test_check_program_is_for_the_target(build_tiny: Any, target: str) -> None:
    folder, _ = build_tiny(target)
    elf = read_elf(folder / "firmware" / "check.elf")
    assert elf.address("port_window_begin") != elf.address("port_window_end")
    heap = {"malloc", "_malloc_r", "_sbrk"} & {s.name for s in elf.symbols}
    assert not heap or find_target(target)[0].family != "cortex_m"
