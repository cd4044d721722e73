"""Kernels -> CUDA C: the C of codegen.py with its outer loops dealt out to the threads of a GPU.

A kernel for "cuda" is written as the others are, but its outermost loops are opened by `parallel`.
Each of them becomes one GPU function, launched in their order; those in a loop opened by `steps`
are launched once per step. A kernel whose outermost loops are not known to be independent is
refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ...core.errors import ModelError
from ..codegen import c_text, signature
from ..kernels._tir import OUTSIDE, PARALLEL, SERIAL, STEP, THREAD
from ..program import Kernel, Param

ISA = "cuda"
_INDENT = "    "
_LOOP = re.compile(r"    for \(int32_t (\w+) = 0; \1 < (\d+); \+\+\1\) \{")
_DECLARATION = re.compile(r"    (?:const )?\w+ \w+ = [^;]*;")


@dataclass(frozen=True, slots=True)
class Launch:
    """One GPU function of a kernel, how many threads have work in it, and its step, if any."""

    function: str
    threads: int
    step: int | None = None


@dataclass(frozen=True, slots=True)
class _Phase:
    """What one GPU function does; `step`: the name of the step it is told, `steps`: of how many."""

    threads: int
    text: str
    step: str = ""
    steps: int = 1


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
        pairs = list(zip(names, parts, strict=True))
        texts += [_function(function, params[name], part) for function, part in pairs]
        launches[name] = tuple(_launches(pairs))
    if problems:
        raise ModelError(list(dict.fromkeys(problems)))
    return CudaKernels("\n".join(texts), launches)


def _launches(parts: Sequence[tuple[str, _Phase]]) -> Iterator[Launch]:
    """Yield the launches of one kernel: functions of one loop over steps take turns."""
    for step, group in groupby(parts, key=lambda pair: pair[1].step):
        members = list(group)
        for index in range(members[0][1].steps):
            for function, part in members:
                yield Launch(function, part.threads, index if step else None)


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


def _phases(body: str, outside: str | None) -> list[_Phase] | None:
    """Return what is launched in order; None when an outer loop may not be dealt out."""
    if outside == SERIAL:
        return [_Phase(1, _single(body))]
    declared, found = list[str](), list[_Phase]()
    for statement in _statements(body):
        loop = _LOOP.match(statement)
        if loop is not None and re.fullmatch(rf"{STEP}(_\d+)?", loop.group(1)):
            inner = _phases(_inside(statement), outside)
            if inner is None or any(phase.step for phase in inner):
                return None
            name, count = loop.group(1), int(loop.group(2))
            found += [_Phase(p.threads, _with(declared, p.text), name, count) for p in inner]
            continue
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
            found.append(_Phase(extent, _with(declared, dealt + statement[loop.end() :])))
        elif _DECLARATION.fullmatch(statement.rstrip()):
            declared.append(statement)
        else:
            found.append(_Phase(1, _with(declared, _single(statement))))
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


def _with(declared: Sequence[str], text: str) -> str:
    """Return text behind those of the declarations before it that it needs."""
    for statement in reversed(declared):
        (name,) = re.findall(r"(\w+) =", statement.splitlines()[-1])[:1]
        if re.search(rf"\b{name}\b", text):
            text = statement + text
    return text


def _inside(loop: str) -> str:
    """Return the statements of a loop, one level further out."""
    return "".join(line.removeprefix(_INDENT) for line in loop.splitlines(keepends=True)[1:-1])


def _single(statements: str) -> str:
    """Return statements that only the first thread executes."""
    inner = "".join(f"{_INDENT}{line}" for line in statements.splitlines(keepends=True))
    return f"{_INDENT}if (edgec_thread() == 0) {{\n{inner}{_INDENT}}}\n"


def _function(name: str, params: Sequence[Param], phase: _Phase) -> str:
    names = [p.name for p in params] + ([phase.step] if phase.step else [])
    unused = [n for n in names if not re.search(rf"\b{n}\b", phase.text)]
    idle = "".join(f"{_INDENT}(void){n};\n" for n in unused)
    told = f", const int32_t {phase.step}" if phase.step else ""
    return f"EDGEC_CUDA_KERNEL {name}({signature(params)}{told})\n{{\n{idle}{phase.text}}}\n"
