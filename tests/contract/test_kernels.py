"""Every kernel file is held to one contract; a new kernel is tested by existing.

Reference: NumPy integers. Device: the generated C, compiled and run here.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.compiler.lowering.codegen import c_functions
from edgec.compiler.lowering.kernels import discover
from edgec.compiler.lowering.program import Case, Kernel

INCLUDE = Path(__file__).resolve().parents[2] / "runtime" / "c" / "include"
KERNELS = list(discover())
CASES = {f"{k.name}_{i}": c for k in KERNELS for i, c in enumerate(k.cases())}
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared"]


def library(folder: Path, compiler: str = "gcc") -> Any:
    text = c_functions({name: case.kernel for name, case in CASES.items()}, "generic")
    source = folder / "kernels.c"
    source.write_text('#include "edgec_kernels.h"\n' + text.replace("static void", "void"))
    output = folder / f"{compiler}.so"
    warn = "-Wno-missing-prototypes"
    subprocess.run(
        [compiler, *FLAGS, warn, f"-I{INCLUDE}", str(source), "-o", str(output)], check=True
    )
    return ctypes.CDLL(str(output))


@pytest.fixture(scope="module", params=["gcc", "clang"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return library(tmp_path_factory.mktemp("kernels"), request.param)


def run(function: Any, case: Case) -> list[np.ndarray[Any, Any]]:
    params = case.kernel.params("generic")
    given = iter(case.arrays)
    arrays = [
        np.ascontiguousarray(next(given))
        if p.role in ("input", "constant")
        else np.full(p.size, 77, p.dtype)
        for p in params
    ]
    function(*[a.ctypes.data_as(ctypes.c_void_p) for a in arrays])
    return [a for a, p in zip(arrays, params, strict=True) if p.role == "output"]


@pytest.mark.parametrize("name", CASES)
def test_device_equals_reference(name: str, compiled: Any) -> None:
    case = CASES[name]
    for got, want in zip(
        run(getattr(compiled, name), case), case.kernel.reference(*case.arrays), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", CASES)
def test_reference_matches_declared_parameters(name: str) -> None:
    case = CASES[name]
    params = case.kernel.params("generic")
    given = [p for p in params if p.role in ("input", "constant")]
    assert [(p.size, p.dtype) for p in given] == [(a.size, str(a.dtype)) for a in case.arrays]
    outputs = [p for p in params if p.role == "output"]
    for param, value in zip(outputs, case.kernel.reference(*case.arrays), strict=True):
        assert (param.size, param.dtype) == (value.size, str(value.dtype))


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_not_trivial(name: str) -> None:
    case = CASES[name]
    (value,) = case.kernel.reference(*case.arrays)
    assert np.unique(value).size > 1 or value.size == 1


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_file_is_name_and_has_cases(kernel: type[Kernel]) -> None:
    assert kernel.__module__.rsplit(".", 1)[1] == kernel.name
    assert kernel.__doc__
    assert list(kernel.cases())


@pytest.mark.parametrize("isa", ["generic", "dsp"])
@pytest.mark.parametrize("name", CASES)
def test_packed_constants_fit_the_parameters(name: str, isa: str) -> None:
    case = CASES[name]
    params = case.kernel.params(isa)
    inputs = sum(p.role == "input" for p in params)
    constants = [p for p in params if p.role == "constant"]
    packed = case.kernel.pack(isa, case.arrays[inputs:])
    assert [(p.size, p.dtype) for p in constants] == [(a.size, str(a.dtype)) for a in packed]
