"""The wheel holds everything it needs and works in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
SOURCES = ("compiler", "passes", "runtime", "targets")

pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed, away from the checkout; returns stdout."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built in a copy so that nothing here is touched."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    checkout.mkdir()
    names = (*SOURCES, "edgec", "pyproject.toml", "README.md", "LICENSE")
    call("cp", "-R", *(ROOT / n for n in names), checkout, cwd=folder)
    command = ("-m", "pip", "wheel", "--no-deps", "--disable-pip-version-check", "-q", "-w")
    call(sys.executable, *command, folder, checkout, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment with the wheel and, by a .pth file, this one's dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=folder)
    site = Path(
        call(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    )
    (site / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = call(python, "-c", "import edgec; print(edgec.__file__)", cwd=folder).strip()
    assert Path(where).is_relative_to(site)
    return folder / "env" / "bin"


def test_wheel_holds_every_source_file(wheel: Path) -> None:
    wanted = {
        f"edgec/{p.relative_to(ROOT).as_posix()}"
        for folder in SOURCES
        for p in (ROOT / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wanted | {"edgec/__init__.py", "edgec/py.typed"} == {
        n for n in names if n.startswith("edgec/")
    }
    (info,) = {n.split("/")[0] for n in names if not n.startswith("edgec/")}
    assert info.endswith(".dist-info")
    assert f"{info}/licenses/LICENSE" in names


def test_wheel_is_the_same_project(wheel: Path, installed: Path, tmp_path: Path) -> None:
    version = call(installed / "edgec", "--version", cwd=tmp_path)
    assert wheel.name.split("-")[1] in version
    assert "cortex-m4" in call(installed / "edgec", "targets", cwd=tmp_path)


def test_installed_wheel_compiles_and_checks(installed: Path, tmp_path: Path) -> None:
    data = ("--calibration", DIGITS / "calibration.npz")
    out = tmp_path / "digits"
    call(
        installed / "edgec", "compile", DIGITS / "digits.onnx", "--target", "host", *data,
        "-o", out, cwd=tmp_path,
    )  # fmt: skip
    assert (out / "lib" / "libdigits.so").is_file()
    call(installed / "edgec", "check", out, "--data", DIGITS / "test.npz", cwd=tmp_path)
