"""The project's own rules: sizes, what pyright sees, packaging lists, set-up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgec.compiler.core import tools as known_tools
from edgec.compiler.core.tools import Tool
from tools import dev, sizes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CODE = ("compiler", "passes", "runtime", "targets")


def test_files_and_functions_stay_below_the_caps() -> None:
    files = sizes.source_files()
    assert len(files) > 100
    assert sizes.over(sizes.file_sizes(files), sizes.FILE_CAP) == []
    assert sizes.over(sizes.function_sizes(files), sizes.FUNCTION_CAP) == []


def test_sizes_counts_lines_and_finds_what_is_over(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1\n\n\ndef f():\n    def g():\n        pass\n    return g\n")
    assert sizes.file_sizes([file], tmp_path) == [sizes.Size("a.py", 7)]
    found = list(sizes.function_sizes([file], tmp_path))
    assert found == [sizes.Size("a.py:4 f", 4), sizes.Size("a.py:5 g", 2)]
    assert sizes.over(found, 3) == [sizes.Size("a.py:4 f", 4)]


def pyright_output(files: int, *findings: str) -> dict[str, Any]:
    place = {"file": "a.py", "severity": "error", "range": {"start": {"line": 4}}}
    return {
        "summary": {"filesAnalyzed": files},
        "generalDiagnostics": [{**place, "message": text} for text in findings],
    }


def test_pyright_must_see_the_project() -> None:
    assert dev.PYRIGHT_LEAST_FILES >= 80
    assert dev.pyright_problems(pyright_output(80)) == []
    (problem,) = dev.pyright_problems(pyright_output(79))
    assert "analysed 79 files" in problem
    assert dev.pyright_problems(pyright_output(99, "wrong")) == ["a.py:5: error: wrong"]


def test_pyright_is_pointed_at_folders_and_not_at_links() -> None:
    options = PROJECT["tool"]["pyright"]
    assert options["typeCheckingMode"] == "strict" and "edgec" in options["exclude"]
    folders = [ROOT / name for name in options["include"]]
    assert not any(folder.is_symlink() for folder in folders)
    assert sum(len(list(f.rglob("*.py"))) for f in folders) >= dev.PYRIGHT_LEAST_FILES


def test_every_package_is_listed_for_the_wheel() -> None:
    found = {
        ".".join(("edgec", *init.parent.relative_to(ROOT).parts))
        for folder in CODE
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert found | {"edgec"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_import_links_lead_to_the_code() -> None:
    for name in CODE:
        link = ROOT / "edgec" / name
        assert link.is_symlink() and link.resolve() == ROOT / name


def test_ci_runs_the_local_command_and_lets_nothing_be_skipped() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    (command,) = path.read_text(encoding="utf-8").splitlines()[1:]
    assert command.endswith("exec make test")
    assert "EDGEC_REQUIRE=qemu_cortex_m,qemu_aarch64" in command


def test_set_up_knows_every_package_that_the_compiler_asks_for() -> None:
    text = (ROOT / "tools" / "setup.sh").read_text(encoding="utf-8")
    tools = [t for t in vars(known_tools).values() if isinstance(t, Tool)]
    assert len(tools) >= 10
    debian = [t.debian_package for t in tools if t.distribution is None]
    assert [package for package in debian if package not in text] == []


def test_python_tools_are_pinned_as_the_extras_are() -> None:
    tools = [t for t in vars(known_tools).values() if isinstance(t, Tool)]
    pinned = [t.distribution for t in tools if t.distribution is not None]
    extras = PROJECT["project"]["optional-dependencies"]
    assert len(pinned) == 2
    assert set(pinned) <= set(extras["dev"])
    assert set(extras["cuda"]) < set(pinned)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout on a machine with a shell, no compilers, and a user who is not root."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "dirname", "cut", "sha256sum", "rm", "cat", "mkdir", "cp"):
        real = shutil.which(name)
        assert real is not None
        (tmp_path / "bin" / name).symlink_to(real)
    write_program(tmp_path / "bin" / "id", "echo 1000")
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def set_up(checkout: Path, python: str = "python3") -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(checkout / "bin"), "PYTHON": python}
    command = [str(checkout / "tools" / "setup.sh")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_set_up_without_rights_says_what_to_install_and_goes_on(bare: Path) -> None:
    environment = 'mkdir -p .venv/bin && cp "$0" .venv/bin/python'
    write_program(bare / "bin" / "python3", f'[ "$1 $2" != "-m venv" ] || {{ {environment}; }}')
    done = set_up(bare)
    assert done.returncode == 0, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "sudo apt-get install" in text]
    assert {"gcc-arm-none-eabi", "qemu-system-arm", "clang", "cmake"} <= set(line.split())
    assert "python3-venv" not in line
    assert "ready" in done.stdout
    again = set_up(bare)
    assert again.returncode == 0 and "installing" not in again.stdout


def test_set_up_without_python_says_so(bare: Path) -> None:
    done = set_up(bare, "python9")
    assert done.returncode == 3
    assert "'python9' is missing or older than 3.10" in done.stderr


def test_set_up_names_the_package_of_venv_and_leaves_nothing_half_made(bare: Path) -> None:
    fails = "mkdir -p .venv/bin && cp /bin/false .venv/bin/python; exit 1"
    write_program(
        bare / "bin" / "python3",
        f'case "$1 $2" in "-m venv") {fails};; "-c import ensurepip") exit 1;; esac',
    )
    done = set_up(bare)
    assert done.returncode == 3
    assert done.stderr.count("python3-venv") == 2
    assert not (bare / ".venv").exists()


def test_set_up_leaves_an_environment_of_others_alone(bare: Path) -> None:
    (bare / ".venv").mkdir()
    (bare / ".venv" / "mine").write_text("precious")
    write_program(bare / "bin" / "python3", "exit 0")
    done = set_up(bare)
    assert done.returncode == 3 and ".venv has no pip" in done.stderr
    assert (bare / ".venv" / "mine").read_text() == "precious"
