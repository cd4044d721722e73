"""A Program -> the files of a model for NVIDIA GPUs: CUDA C, its host program, its emulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..codegen import signature
from ..emit import CModel, Constants, CPort, c_ports, header_context, render
from ..emit import function_names as names_of
from ..memory import Arena, plan_arena, scratch_name
from ..program import Call, Param, Program
from .codegen import ISA, cuda_functions

RUNTIME = Path(__file__).resolve().parents[3] / "runtime" / "c" / "cuda"
# As cuMemAlloc aligns whole blocks: every tensor begins on a line of the caches.
ALIGNMENT = 256
# As edgec_cuda_driver.h.
MOST_ARGUMENTS = 32


@dataclass(frozen=True, slots=True)
class _Memory:
    """Offsets into the model's one block of GPU memory."""

    buffers: Mapping[str, int]
    constants: Mapping[str, int]
    arena: int
    size_bytes: int


def emit_cuda(program: Program, name: str, isa: str, version: str) -> CModel:
    """Return the files of program as model `name`; isa is "cuda".

    Raises ModelError naming the kernels that have no form for GPUs.
    """
    assert isa == ISA
    arena = plan_arena(program, isa)
    inputs, outputs = c_ports(program, name)
    functions, called = names_of(program)
    kernels = cuda_functions({n: k for k, n in functions.items()})
    constants, packed, by_call = _pack(program, name)
    memory = _memory(program, (*inputs, *outputs), arena, constants)
    launches: list[dict[str, Any]] = []
    arguments: list[int] = []
    for index, (call, function) in enumerate(zip(program.calls, called, strict=True)):
        offsets = list(_offsets(call, index, packed[index], memory, arena))
        assert len(offsets) <= MOST_ARGUMENTS, f"{function} takes {len(offsets)} pointers"
        comment = ", ".join(call.nodes) or f"layout of {call.outputs[0]}"
        launches += [
            {"function": part.function, "threads": part.threads, "first": len(arguments),
             "count": len(offsets), "step": part.step or 0, "comment": comment}
            for part in kernels.launches[function]
        ]  # fmt: skip
        arguments += offsets
    emulated = [
        {"name": part.function, "params": _casts(kernel.params(isa), part.step is not None)}
        for kernel, n in functions.items()
        for part in {p.function: p for p in kernels.launches[n]}.values()
    ]
    known = header_context(program, name, version, arena, constants, inputs, outputs)
    context: dict[str, Any] = known | {
        "gpu": True, "kernels": kernels.text, "launches": launches, "emulated": emulated,
        "arguments": [arguments[i : i + 12] for i in range(0, len(arguments), 12)],
        "places": memory.constants, "memory_bytes": memory.size_bytes,
        "inputs": _placed(program.inputs, inputs, memory),
        "outputs": _placed(program.outputs, outputs, memory),
    }  # fmt: skip
    files = {
        f"include/{name}.h": render("model.h.j2", context),
        f"src/{name}.cu": render("cuda_kernels.cu.j2", context),
        f"src/{name}.c": render("cuda_model.c.j2", context),
        f"src/{name}_weights.h": render("weights.h.j2", context),
        f"src/{name}_weights.c": render("weights.c.j2", context),
        f"emulator/{name}_emulated.c": render("cuda_emulated.c.j2", context),
        **_runtime(),
    }
    weights = context["weights_bytes"]
    given = tuple(constants.items)
    return CModel(files, inputs, outputs, arena, weights, tuple(by_call), called, given)


def _runtime() -> dict[str, str]:
    """Return the runtime's files by where they lie in an artifact."""
    folders = {"edgec_cuda_emulator": "emulator"}
    found = sorted(path for path in RUNTIME.iterdir() if path.suffix in (".c", ".h"))
    return {
        f"{folders.get(path.stem, 'src')}/{path.name}": path.read_text(encoding="utf-8")
        for path in found
    }


def _pack(program: Program, name: str) -> tuple[Constants, list[tuple[str, ...]], list[int]]:
    """Return all constants, the symbols of every call's own, and the bytes each call added."""
    constants, own, by_call = Constants(name), list[tuple[str, ...]](), list[int]()
    for buffer, data in program.constants.items():
        constants.symbol(buffer, data)
    for index, call in enumerate(program.calls):
        before = sum(c.size_bytes for c in constants.items)
        params = (p for p in call.kernel.params(ISA) if p.role == "constant")
        pairs = zip(params, call.kernel.pack(ISA, call.constants), strict=True)
        own.append(tuple(constants.symbol(f"{index}_{p.name}", data) for p, data in pairs))
        by_call.append(sum(c.size_bytes for c in constants.items) - before)
    return constants, own, by_call


def _memory(
    program: Program, ports: Sequence[CPort], arena: Arena, constants: Constants
) -> _Memory:
    """Lay out constants, then inputs and outputs, then working memory."""
    end = 0

    def place(size_bytes: int) -> int:
        nonlocal end
        start, end = end, -(-(end + size_bytes) // ALIGNMENT) * ALIGNMENT
        return start

    symbols = {item.symbol: place(item.size_bytes) for item in constants.items}
    buffers = {n: symbols[constants.symbol(n, d)] for n, d in program.constants.items()}
    for port in (*program.inputs, *program.outputs):
        buffers[port.buffer] = place(program.buffers[port.buffer].size_bytes)
    start = place(arena.size_bytes)
    for name, offset in arena.offsets.items():
        buffers.setdefault(name, start + offset)
    return _Memory(buffers, symbols, start, end)


def _offsets(
    call: Call, index: int, symbols: Sequence[str], memory: _Memory, arena: Arena
) -> Iterator[int]:
    """Yield where every pointer of a call points, in parameter order."""
    inputs, outputs, own = iter(call.inputs), iter(call.outputs), iter(symbols)
    for param in call.kernel.params(ISA):
        if param.role == "constant":
            yield memory.constants[next(own)]
        elif param.role == "scratch":
            yield memory.arena + arena.offsets[scratch_name(index, param.name)]
        else:
            yield memory.buffers[next(inputs if param.role == "input" else outputs)]


def _casts(params: Sequence[Param], stepped: bool) -> list[str]:
    """Return the C type of every parameter."""
    pointers = [signature([p]).removesuffix(p.name).rstrip() for p in params]
    return [*pointers, "const int32_t "] if stepped else pointers


def _placed(ports: Sequence[Any], c: Sequence[CPort], memory: _Memory) -> list[dict[str, Any]]:
    return [
        {"c_name": port.c_name, "offset": memory.buffers[own.buffer], "bytes": port.size_bytes}
        for own, port in zip(ports, c, strict=True)
    ]
