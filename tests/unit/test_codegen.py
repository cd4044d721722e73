"""What the generated C of the kernels must be: integer, free of TVM, tidy, the same every time."""

from __future__ import annotations

import re

import pytest

from edgec.compiler.lowering.codegen import c_functions
from edgec.compiler.lowering.kernels import discover
from edgec.compiler.lowering.kernels._access import Access, dense
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.table import Table
from edgec.compiler.lowering.program import Case

# float islands are made of these, and of nothing else.
FLOAT = {"dequantise", "float_op", "quantise"}
CASES: dict[str, Case] = {
    f"{k.name}_{i}": c for k in discover() if k.name not in FLOAT for i, c in enumerate(k.cases())
}
KERNELS = {name: case.kernel for name, case in CASES.items()}
ISAS = ["generic", "dsp", "mve", "dot"]
FUNCTION = re.compile(r"^EDGEC_KERNEL void (\w+)\(([^)]*)\)\n\{\n(.*?)^\}", re.S | re.M)
LONGEST_LINE = 400


@pytest.fixture(scope="module", params=ISAS)
def text(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, c_functions(KERNELS, request.param)


def functions(text: str) -> dict[str, tuple[str, str]]:
    return {name: (signature, body) for name, signature, body in FUNCTION.findall(text)}


def test_no_floating_point_anywhere(text: tuple[str, str]) -> None:
    assert not re.search(r"\b(float|double)\b", text[1])
    assert not re.search(r"\b\d+\.\d*|\b\d+[eE][-+]?\d+", text[1])


def test_nothing_of_tvm_is_left(text: tuple[str, str]) -> None:
    assert not re.search(r"tvm|TVM|DLTensor|dlpack|_packed|#include|restrict_", text[1])


def test_one_static_function_per_kernel_in_order(text: tuple[str, str]) -> None:
    assert list(functions(text[1])) == list(KERNELS)


def test_every_parameter_is_used_or_marked(text: tuple[str, str]) -> None:
    isa, source = text
    for name, (signature, body) in functions(source).items():
        params = KERNELS[name].params(isa)
        assert [p.split("*")[1] for p in signature.split(", ")] == [p.name for p in params]
        for param in params:
            assert re.search(rf"\b{param.name}\b", body), f"{name}: {param.name}"


def test_inputs_and_constants_are_const_and_results_are_not(text: tuple[str, str]) -> None:
    isa, source = text
    for name, (signature, _) in functions(source).items():
        for param, declared in zip(KERNELS[name].params(isa), signature.split(", "), strict=True):
            assert declared.startswith("const ") == (param.role in ("input", "constant"))
            assert f"{param.dtype}_t *" in declared


def test_no_large_temporary_on_the_stack(text: tuple[str, str]) -> None:
    assert not re.search(r"^\s+(?:u?int\d+_t) \w+\[\d+\]", text[1], re.M)


def test_text_is_tidy(text: tuple[str, str]) -> None:
    for line in text[1].splitlines():
        assert line == line.rstrip() and "\t" not in line and len(line) < LONGEST_LINE
        assert (len(line) - len(line.lstrip(" "))) % 4 == 0
    assert "&(" not in text[1], "addresses are written as pointer plus offset"


@pytest.mark.parametrize("isa", ISAS)
def test_text_is_the_same_every_time_and_in_every_company(isa: str) -> None:
    few = {n: k for n, k in KERNELS.items() if n.startswith(("conv2d", "matmul", "add"))}
    first, second = c_functions(few, isa), c_functions(few, isa)
    assert first == second
    together, alone = functions(c_functions(KERNELS, isa)), functions(first)
    assert {n: together[n] for n in alone} == alone


def test_code_calls_the_blocks_of_its_own_isa(text: tuple[str, str]) -> None:
    isa, source = text
    body = functions(source)["conv2d_0"][1]
    for other in ("dsp", "mve"):
        assert (f"__{other}" in body) == (isa == other)


def test_loops_over_nothing_but_one_element_are_gone() -> None:
    kernel = Table.of((1, 1), dense((1, 1)))
    assert "for" not in c_functions({"one": kernel}, "generic")


def test_an_idle_parameter_is_marked() -> None:
    # Every loop is empty, so TVM leaves nothing that reads x.
    kernel = Copy((Part((0,), Access(4, (1,)), Access(3, (1,))),), 3, fill=7)
    source = c_functions({"idle": kernel}, "generic")
    assert "(void)x0;" in source
