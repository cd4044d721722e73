"""Kernels that become one where a tensor between them need not exist."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import onnx_ir as ir

from .kernels.add import Add
from .kernels.conv2d import Conv2d
from .kernels.gemm import Gemm
from .kernels.linear_add import LinearAdd
from .lower import lower
from .memory import plan_arena
from .program import Call, Program


def lower_fused(model: ir.Model, recipe: str) -> Program:
    """Return the program of a quantised model, or with recipe float32 of a float one.

    Raises ModelError naming every node for which there is no kernel.
    """
    return fuse_residuals(lower(model, exact=recipe == "float32"))


def fuse_residuals(program: Program) -> Program:
    """Return program with sums computed by the convolution or gemm that makes an operand.

    Same bits; the sum overwrites its other operand. The program as it is where its arena would
    not become smaller, because an input of the linear kernel must live longer.
    """
    fused = join_sums(program)
    smaller = plan_arena(fused, "generic").size_bytes < plan_arena(program, "generic").size_bytes
    return fused if smaller else program


def join_sums(program: Program) -> Program:
    """Return program with every sum joined that can be, whatever that does to its arena."""
    while (found := _fusible(program)) is not None:
        program = _fuse(program, *found)
    return program


def _fusible(program: Program) -> tuple[int, int, int] | None:
    """Return (call of a linear kernel, call of the sum, operand it makes) of the first sum."""
    made = {c.outputs[0]: i for i, c in enumerate(program.calls)}
    reads = Counter(name for c in program.calls for name in c.inputs)
    reads.update(p.buffer for p in program.outputs)
    for at, call in enumerate(program.calls):
        if not (isinstance(call.kernel, Add) and call.kernel.is_row):
            continue
        operands = [(made[n], i) for i, n in enumerate(call.inputs) if n in made and reads[n] == 1]
        # The later one leaves fewer buffers alive longer.
        for linear, operand in sorted(operands, reverse=True):
            if _makes_rows(program.calls[linear]):
                return linear, at, operand
    return None


def _makes_rows(call: Call) -> bool:
    kernel = call.kernel
    if not isinstance(kernel, Conv2d | Gemm) or kernel.epilogue.dtype != "int8":
        return False
    return isinstance(kernel, Gemm) or kernel.groups == 1


def _fuse(program: Program, linear: int, at: int, operand: int) -> Program:
    first, total = program.calls[linear], program.calls[at]
    assert isinstance(first.kernel, Conv2d | Gemm) and isinstance(total.kernel, Add)
    kernel = LinearAdd(first.kernel, total.kernel, swapped=operand == 1)
    gone = first.outputs[0]
    call = Call(
        kernel, (first.inputs[0], total.inputs[1 - operand]),
        (*first.constants, *total.constants), total.outputs, (*first.nodes, *total.nodes),
    )  # fmt: skip
    calls = [call if i == at else c for i, c in enumerate(program.calls) if i != linear]
    return replace(
        program, calls=tuple(calls),
        buffers={n: b for n, b in program.buffers.items() if n != gone},
        origins={n: o for n, o in program.origins.items() if n != gone},
    )  # fmt: skip
