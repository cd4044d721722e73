"""Collects buffers, constants and calls while lowering walks the graph."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .kernels._access import dense
from .kernels.copy import Copy, Part
from .program import Array, Buffer, Call, Kernel, Origin, Port, Program
from .views import View


def c_identifier(text: str) -> str:
    """Return text as a C identifier in lower case."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower() or "value"
    return f"v{name}" if name[0].isdigit() else name


class ProgramBuilder:
    """A Program under construction."""

    def __init__(self) -> None:
        self.buffers: dict[str, Buffer] = {}
        self.constants: dict[str, Array] = {}
        self.calls: list[Call] = []
        self.origins: dict[str, Origin] = {}
        self._copies: dict[tuple[object, ...], str] = {}

    def buffer(self, hint: str, size: int, dtype: str = "int8") -> str:
        """Declare a buffer under a fresh name and return it."""
        name = base = c_identifier(hint)
        count = 1
        while name in self.buffers:
            count += 1
            name = f"{base}_{count}"
        self.buffers[name] = Buffer(name, size, dtype)
        return name

    def constant(self, hint: str, data: Array) -> View:
        """Place data in flash and return the view of it."""
        flat = np.ascontiguousarray(data).reshape(-1)
        for name, known in self.constants.items():
            if known.dtype == flat.dtype and np.array_equal(known, flat):
                return View.whole(name, data.shape)
        name = self.buffer(hint, flat.size, str(flat.dtype))
        self.constants[name] = flat
        return View.whole(name, data.shape)

    def emit(
        self,
        kernel: Kernel,
        inputs: Sequence[str],
        constants: Sequence[Array],
        hint: str,
        nodes: Sequence[str],
    ) -> str:
        """Append a call with one output and return the output's buffer."""
        (name,) = self.emit_all(kernel, inputs, constants, [hint], nodes)
        return name

    def emit_all(
        self,
        kernel: Kernel,
        inputs: Sequence[str],
        constants: Sequence[Array],
        hints: Sequence[str],
        nodes: Sequence[str],
    ) -> tuple[str, ...]:
        """Append a call and return the buffers of its outputs, one hint each."""
        outputs = [p for p in kernel.params("generic") if p.role == "output"]
        names = tuple(self.buffer(h, p.size, p.dtype) for h, p in zip(hints, outputs, strict=True))
        flat = tuple(np.ascontiguousarray(c).reshape(-1) for c in constants)
        self.calls.append(Call(kernel, tuple(inputs), flat, names, tuple(nodes)))
        return names

    def dense(self, view: View, hint: str, nodes: Sequence[str]) -> str:
        """Return a buffer holding exactly view in row-major order; copies only if it must."""
        if view.is_whole:
            return view.buffer
        key = (view.buffer, view.shape, view.access)
        if key not in self._copies:
            part = Part.of(view.shape, view.access, dense(view.shape))
            kernel = Copy((part,), int(np.prod(view.shape)), self.buffers[view.buffer].dtype)
            self._copies[key] = self.emit(kernel, [view.buffer], [], f"{hint}_dense", nodes)
        return self._copies[key]

    def copied(self, buffer: str, hint: str) -> str:
        """Return a new buffer with the content of another."""
        held = self.buffers[buffer]
        part = Part.of((held.size,), dense((held.size,)), dense((held.size,)))
        return self.emit(Copy((part,), held.size, held.dtype), [buffer], [], hint, ())

    def program(
        self, inputs: Sequence[Port], outputs: Sequence[Port], notes: Sequence[str]
    ) -> Program:
        """Return the finished program without calls and buffers that no output needs."""
        needed = {p.buffer for p in outputs}
        kept: list[Call] = []
        for call in reversed(self.calls):
            if needed & set(call.outputs):
                kept.insert(0, call)
                needed |= set(call.inputs)
        needed |= {p.buffer for p in inputs}
        buffers = {n: b for n, b in self.buffers.items() if n in needed}
        constants = {n: c for n, c in self.constants.items() if n in needed}
        origins = {n: o for n, o in self.origins.items() if n in needed}
        return Program(
            tuple(inputs), tuple(outputs), buffers, constants, tuple(kept), origins, tuple(notes)
        )
