"""Wheel and sdist hold everything they need; every verb works in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from edgec.compiler.cli import cli

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
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, so that building touches nothing here."""
    folder = tmp_path_factory.mktemp("checkout")
    names = (*SOURCES, "edgec", "pyproject.toml", "README.md", "LICENSE")
    call("cp", "-R", *(ROOT / n for n in names), folder, cwd=folder)
    return folder


def build(kind: str, source: Path, into: Path) -> Path:
    """Build the "sdist" or the "wheel" of a source tree."""
    call(sys.executable, "-m", "build", f"--{kind}", "--outdir", into, source, cwd=into)
    (built,) = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


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


def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_sdist_builds_the_same_wheel(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    sdist = build("sdist", checkout, tmp_path)
    assert sdist.name == f"edgec-{wheel.name.split('-')[1]}.tar.gz"
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path)
    assert again.name == wheel.name
    assert files(again) == files(wheel)


def test_every_verb_works_in_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    model, data = DIGITS / "digits.onnx", ("--calibration", DIGITS / "calibration.npz")
    test = ("--data", DIGITS / "test.npz")
    verbs: dict[str, tuple[str | Path, ...]] = {
        "doctor": (),
        "targets": (),
        "passes": (),
        "recipes": (),
        "inspect": (model,),
        "plan": (model, "--target", "cortex-m4", *data),
        "compile": (model, "--target", "host", *data, "-o", "digits"),
        "check": ("digits", *test),
        "run": ("digits", "--input", DIGITS / "test.npz", "-o", "answers.npz"),
        "bench": ("digits",),
        "compare": (model, "digits", *test, "--samples", "8"),
        "report": ("digits", "-o", "page.html"),
    }
    assert set(verbs) == set(cli.commands)
    for verb, arguments in verbs.items():
        assert call(installed / "edgec", verb, *arguments, cwd=tmp_path).strip()
    made = {"lib/libdigits.so", "report.html", "manifest.json"}
    assert all((tmp_path / "digits" / name).is_file() for name in made)
    assert (tmp_path / "answers.npz").is_file() and (tmp_path / "page.html").is_file()
