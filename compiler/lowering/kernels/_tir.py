"""The few words every kernel's TIR is written in: functions over flat buffers, loops, calls.

TVM is imported when a kernel is built, never when it is described.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

from ..program import Param

# The loop over the threads of a GPU; the code generator of "cuda" deals it out by this name.
THREAD = "thread"
# The loop over steps that need one another; on a GPU every step is launched by itself.
STEP = "step"
# Attribute of functions that are not written here: what their outer loops are.
OUTSIDE, PARALLEL, SERIAL = "edgec.outside", "parallel", "serial"
_isa: ContextVar[str] = ContextVar("isa", default="generic")


def tir() -> Any:
    """Return TVM's TIR builder namespace."""
    from tvm.script.ir_builder import tirx

    return tirx


def prim_func(
    name: str, params: Sequence[Param], body: Callable[..., None], isa: str = "generic"
) -> Any:
    """Return a PrimFunc called name over one flat buffer per parameter; body writes its text."""
    from tvm.script.ir_builder import IRBuilder

    t, token = tir(), _isa.set(isa)
    try:
        with IRBuilder() as builder, t.prim_func():
            t.func_name(name)
            body(*[t.arg(p.name, t.buffer((p.size,), p.dtype)) for p in params])
        return builder.get()
    finally:
        _isa.reset(token)


def current_isa() -> str:
    """Return the inner loops that the kernel being written is for."""
    return _isa.get()


@contextmanager
def loop(name: str, extent: int) -> Generator[Any]:
    """Open a serial loop; a loop of one iteration is no loop at all and yields 0."""
    if extent == 1:
        yield 0
        return
    from tvm.script.ir_builder import IRBuilder

    with tir().serial(0, extent) as variable:
        IRBuilder.name(name, variable)
        yield variable


@contextmanager
def loops(names: Sequence[str], extents: Sequence[int]) -> Generator[list[Any]]:
    """Open nested serial loops, outermost first."""
    if not extents:
        yield []
        return
    with loop(names[0], extents[0]) as first, loops(names[1:], extents[1:]) as rest:
        yield [first, *rest]


@contextmanager
def parallel(names: Sequence[str], extents: Sequence[int]) -> Generator[list[Any]]:
    """Open nested loops whose iterations may run in any order or at once.

    On "cuda" they are one loop over threads, which a kernel opens outside of all other loops;
    two of them, one after the other, are two launches.
    """
    if current_isa() != "cuda":
        with loops(names, extents) as variables:
            yield variables
        return
    with loop(THREAD, prod(extents)) as thread:
        variables, inner = list[Any](), prod(extents)
        for extent in extents:
            index = thread if inner == prod(extents) else thread % inner
            inner //= extent
            variables.append(0 if extent == 1 else index // inner)
        yield variables


@contextmanager
def steps(extent: int) -> Generator[Any]:
    """Open a serial loop over steps; on "cuda" it is outside of all others, `parallel` inside."""
    with loop(STEP, extent) as step:
        yield step


def in_turns(total: int, together: int, some: Callable[[Any, int], None]) -> None:
    """Emit some(first, count) for `total` pixels, `together` at a time and the rest at the end."""
    if total >= together:
        with loop("turn", total // together) as turn:
            some(turn * together, together)
    if rest := total % together:
        some(total - rest, rest)


def call(function: str, *args: Any) -> None:
    """Emit a call of a C function of runtime/c."""
    t = tir()
    t.evaluate(t.call_extern("void", function, *args))


def at(buffer: Any, index: Any) -> Any:
    """Return the address of buffer[index]."""
    return tir().address_of(buffer[index])


def store(buffer: Any, index: Any, value: Any) -> None:
    """Emit buffer[index] = value."""
    tir().buffer_store(buffer, value, [index])
