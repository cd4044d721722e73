"""The files that docs/extending.md shows, put into a copy of the project, hold every contract."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = dict(
    re.findall(
        r"```python\n# (\S+)\n(.*?)```", (ROOT / "docs/extending.md").read_text("utf-8"), re.DOTALL
    )
)
COPIED = ("compiler", "passes", "runtime", "targets", "tests", "tools", "edgec", "docs")
ON_THE_DEVICE = """
import sys, numpy as np
from edgec import compile
from edgec.compiler.core.artifact import load_manifest
from edgec.runtime.devices.local import Local
from edgec.runtime.devices.pinned import Pinned
from tests.small import cnn

artifact = compile(cnn(), "host", "out").path
manifest = load_manifest(artifact)
(port,) = manifest.inputs
inputs = {port.name: np.arange(port.elements).astype(np.int8).reshape(1, *port.shape)}
wanted, found = (d.run(artifact, manifest, inputs).outputs for d in (Local(), Pinned(0)))
assert all(np.array_equal(wanted[name], found[name]) for name in wanted) and wanted
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of the page in it."""
    folder = tmp_path_factory.mktemp("extended") / "project"
    folder.mkdir()
    for name in COPIED:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, text in BLOCKS.items():
        assert not (folder / name).exists()
        (folder / name).write_text(text)
    return folder


def run(project: Path, *arguments: str) -> str:
    """Run Python in the copy, demand that it ends well and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contract(project: Path, kind: str, name: str) -> int:
    """Run the contract tests of the file called name; return how many there were."""
    said = run(project, "-m", "pytest", "-q", f"tests/contract/test_{kind}.py", "-k", name)
    (passed,) = re.findall(r"(\d+) passed", said)
    return int(passed)


def test_the_page_shows_one_of_each() -> None:
    assert set(BLOCKS) == {
        "passes/drop_negations.py", "compiler/lowering/kernels/mirror.py", "targets/own.py",
        "runtime/devices/pinned.py",
    }  # fmt: skip


def test_pass(project: Path) -> None:
    assert contract(project, "passes", "drop_negations") >= 8


def test_kernel(project: Path) -> None:
    assert contract(project, "kernels", "mirror") >= 6


@pytest.mark.qemu_cortex_m
def test_target(project: Path) -> None:
    assert contract(project, "targets", "cortex-m4-small") >= 4
    assert "sensor-v2" in run(project, "-m", "edgec.compiler.cli", "targets")


def test_device(project: Path) -> None:
    run(project, "-c", ON_THE_DEVICE)
