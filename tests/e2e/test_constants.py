"""Constants that the library holds are those that the artifact's C defines, byte for byte."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import edgec
from edgec.targets import find_target
from edgec.targets.toolchain import Toolchain
from tests.small import write_cnn

TARGETS = [
    "host",
    pytest.param("aarch64-cortex-a76", marks=pytest.mark.qemu_aarch64),
    pytest.param("cortex-m4", marks=pytest.mark.qemu_cortex_m),
    pytest.param("cortex-m55", marks=pytest.mark.qemu_cortex_m),
]


def constants(prefix: str, library: Path) -> dict[str, tuple[str, str]]:
    """Return alignment and content of every constant section of the object of weights."""
    listed = subprocess.run(
        [f"{prefix}objdump", "-hsw", str(library)], capture_output=True, text=True, check=True
    ).stdout
    (weights,) = (part for part in listed.split("\n\n\n") if "_weights.o:" in part)
    heads = re.findall(r"^ +\d+ (\.rodata\S+) .* (2\*\*\d+) ", weights, re.M)
    bodies = re.findall(r"^Contents of section (\.rodata\S+):\n((?: .*\n?)+)", weights, re.M)
    found = dict(bodies)
    return {name: (alignment, found[name]) for name, alignment in heads}


@pytest.mark.parametrize("target", TARGETS)
def test_assembled_constants_are_those_of_the_c(target: str, tmp_path: Path) -> None:
    model, data = write_cnn(tmp_path)
    artifact = edgec.compile(model, target, tmp_path / "out", data, shapes={"image": (1, 2, 8, 8)})
    spec, backend = find_target(target)
    assert isinstance(backend, Toolchain)
    for part in ("src", "include"):
        shutil.copytree(artifact.path / part, tmp_path / "again" / part)
    backend.compile_library(spec, tmp_path / "again", "cnn", tmp_path / "again")
    assembled, compiled = (
        constants(backend.prefix, folder / "lib" / "libcnn.a")
        for folder in (artifact.path, tmp_path / "again")
    )
    assert len(assembled) >= 6
    assert assembled == compiled
