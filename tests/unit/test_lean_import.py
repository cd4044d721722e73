"""Importing edgec, its command line or its targets stays cheap; each heavy package has its wall."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "pydantic", "rich", "tvm"}


def loaded_by(statement: str) -> set[str]:
    """Return the heavy packages that a fresh Python has loaded after statement."""
    code = f"import sys\n{statement}\nprint(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import edgec; edgec.__version__", set[str]()),
        ("import edgec.compiler.cli", set[str]()),
        ("import edgec.compiler.terminal", set[str]()),
        ("from edgec.targets import targets; targets()", {"numpy", "pydantic"}),
        ("import edgec.runtime.loader", {"numpy", "pydantic"}),
        ("import edgec; edgec.compile", HEAVY - {"tvm", "onnxruntime", "rich"}),
    ],
)
def test_imports(statement: str, allowed: set[str]) -> None:
    assert loaded_by(statement) <= allowed


def test_the_measure_sees_what_is_loaded() -> None:
    assert loaded_by("import numpy, rich") >= {"numpy", "rich"}


def test_unknown_name_of_the_package() -> None:
    import edgec

    assert set(edgec.__all__) >= {"compile", "check", "load"}
    with pytest.raises(AttributeError, match="compil"):
        edgec.compil  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
