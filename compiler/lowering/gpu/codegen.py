"""Kernels -> CUDA C: the C of codegen.py with its outer loops dealt out to the threads of a GPU.

A kernel for "cuda" is written as the others are, but its outermost loops are opened by `parallel`.
Each of them becomes one GPU function, launched in their order; a kernel whose outermost loops are
not known to be independent is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.errors import ModelError
from ..codegen import c_text, signature
from ..kernels._tir import OUTSIDE, PARALLEL, SERIAL, THREAD
from ..program import Kernel, Param

ISA = "cuda"
_INDENT = "    "
_LOOP = re.compile(r"    for \(int32_t (\w+) = 0; \1 < (\d+); \+\+\1\) \{")
_DECLARATION = re.compile(r"    (?:const )?\w+ \w+ = [^;]*;")


@dataclass(frozen=True, slots=True)
class Launch:
    """One GPU function of a kernel and how many threads have work in it."""

    function: str
    threads: int


@dataclass(frozen=True, slots=True)
class CudaKernels:
    """The CUDA C of all functions, and which of them run one kernel, in order."""

    text: str
    launches: Mapping[str, tuple[Launch, ...]]


def cuda_functions(kernels: Mapping[str, Kernel]) -> CudaKernels:
    """Return the GPU functions of every kernel, by the name it has in the program.

    Raises ModelError naming each kernel that has no form for GPUs.
    """
    functions = {name: kernel.build(ISA) for name, kernel in kernels.items()}
    params = {name: kernel.params(ISA) for name, kernel in kernels.items()}
    texts: list[str] = []
    launches: dict[str, tuple[Launch, ...]] = {}
    problems: list[str] = []
    for name, body in c_text(functions, params).items():
        parts = _phases(body, _outside(functions[name]))
        if parts is None:
            problems.append(
                f"kernel '{kernels[name].name}' has no form for NVIDIA GPUs (its outer loops are "
                "not independent); compile for another target"
            )
            continue
        names = [name] if len(parts) == 1 else [f"{name}_part{i + 1}" for i in range(len(parts))]
        found = [_function(n, params[name], *part) for n, part in zip(names, parts, strict=True)]
        texts += found
        launches[name] = tuple(Launch(n, p[0]) for n, p in zip(names, parts, strict=True))
    if problems:
        raise ModelError(list(dict.fromkeys(problems)))
    return CudaKernels("\n".join(texts), launches)


def have_gpu_form(kernels: Iterable[Kernel]) -> bool:
    """Return whether all of kernels can be compiled for GPUs."""
    try:
        cuda_functions({f"kernel_{i}": kernel for i, kernel in enumerate(kernels)})
    except ModelError:
        return False
    return True


def _outside(function: Any) -> str | None:
    """Return what the kernel says of its outer loops; None if these are named `thread`."""
    attrs: Any = function.attrs
    return str(attrs[OUTSIDE]) if attrs is not None and OUTSIDE in attrs else None


def _phases(body: str, outside: str | None) -> list[tuple[int, str]] | None:
    """Return (threads, text) of every launch; None when an outer loop may not be dealt out."""
    if outside == SERIAL:
        return [(1, _single(body))]
    declared, found = "", list[tuple[int, str]]()
    for statement in _statements(body):
        loop = _LOOP.match(statement)
        if loop is None and statement.startswith(f"{_INDENT}for"):
            return None
        if loop is not None:
            name, extent = loop.group(1), int(loop.group(2))
            if outside != PARALLEL and not re.fullmatch(rf"{THREAD}(_\d+)?", name):
                return None
            dealt = (
                f"{_INDENT}for (int32_t {name} = edgec_thread(); {name} < {extent}; "
                f"{name} += edgec_threads()) {{"
            )
            found.append((extent, declared + dealt + statement[loop.end() :]))
        elif _DECLARATION.fullmatch(statement.rstrip()):
            declared += statement
        else:
            found.append((1, declared + _single(statement)))
    return found


def _statements(body: str) -> Iterator[str]:
    """Yield the outermost statements of a function's body, each with its closing brace."""
    pending = ""
    for line in body.splitlines(keepends=True):
        pending += line
        if line.startswith(_INDENT) and not line.startswith(_INDENT + " "):
            opens = line.rstrip().endswith("{")
            if not opens:
                yield pending
                pending = ""
    if pending:
        yield pending


def _single(statements: str) -> str:
    """Return statements that only the first thread executes."""
    inner = "".join(f"{_INDENT}{line}" for line in statements.splitlines(keepends=True))
    return f"{_INDENT}if (edgec_thread() == 0) {{\n{inner}{_INDENT}}}\n"


def _function(name: str, params: Sequence[Param], threads: int, body: str) -> str:
    unused = [p.name for p in params if not re.search(rf"\b{p.name}\b", body)]
    idle = "".join(f"{_INDENT}(void){name};\n" for name in unused)
    return f"EDGEC_CUDA_KERNEL {name}({signature(params)})\n{{\n{idle}{body}}}\n"
