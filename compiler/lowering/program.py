"""The integer program: kernel calls on flat buffers. Pure data plus a NumPy interpreter.

A Program is what lowering makes of a quantised ONNX model. It is interpreted in NumPy (the scalar
reference that defines every bit), and turned into TIR, C and an arena plan for a device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.encoding import TensorEncoding

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Buffer:
    """A flat, contiguous piece of memory holding `size` elements of `dtype`.

    `part_of`: the buffer of the same type inside which it lies, from element `start` on.
    """

    name: str
    size: int
    dtype: str
    part_of: str = ""
    start: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes the buffer occupies."""
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def start_bytes(self) -> int:
        """Bytes of the whole buffer before this part."""
        return self.start * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Param:
    """One pointer parameter of a kernel; role is input, constant, output or scratch."""

    name: str
    size: int
    dtype: str
    role: str

    @property
    def size_bytes(self) -> int:
        """Bytes the parameter points to."""
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a kernel: the kernel and its inputs and constants in parameter order."""

    kernel: Kernel
    arrays: tuple[Array, ...]


class Kernel(Protocol):
    """One specialised integer kernel: a frozen dataclass of shapes; numbers travel as constants.

    Two equal kernels are one C function. `isa` names the inner loops of the target
    ("generic": int8 columns, plain loops; "dsp": int16 columns for smlad; "mve": Helium).
    """

    name: ClassVar[str]

    def params(self, isa: str) -> tuple[Param, ...]:
        """Return the pointer parameters: inputs, constants, outputs, then scratch."""
        ...

    def build(self, isa: str) -> Any:
        """Return the kernel as a tvm.tirx.PrimFunc over flat buffers in parameter order."""
        ...

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs and constants (flat arrays, parameter order) in NumPy."""
        ...

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Return the constants as the code for isa reads them."""
        ...

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Return output index -> input index pairs that may begin at the same address."""
        ...

    def behind(self, isa: str) -> Mapping[int, tuple[int, int]]:
        """Return output index -> (input index, bytes): the output may overlap that input.

        It must begin at least so many bytes before it; fewer than none: it may begin after it.
        """
        ...

    def macs(self) -> int:
        """Return the multiply-accumulates of one call."""
        ...

    @staticmethod
    def cases() -> Iterable[Case]:
        """Yield seeded tests that cover the kernel's variants."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One kernel applied to buffers; `nodes` names the ONNX nodes it stands for."""

    kernel: Kernel
    inputs: tuple[str, ...]
    constants: tuple[Array, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """A public input or output: ONNX name, shape in ONNX order, its buffer and its encoding.

    `encoding` is None for plain integers (token ids) and booleans.
    """

    name: str
    shape: tuple[int, ...]
    buffer: str
    dtype: str
    encoding: TensorEncoding | None


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Which ONNX value a buffer holds: element (i, j, ...) of it sits at positions[i, j, ...]."""

    value: str
    encoding: TensorEncoding
    positions: Array

    def read(self, content: Array) -> Array:
        """Return the value's codes in ONNX order from the buffer's content."""
        return content[self.positions]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Kernel calls in execution order over named buffers; `constants` are buffers in flash.

    `notes` says what does not run on integers, and why; `states`: input name -> the output that
    the caller passes as that input to the next run.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    buffers: Mapping[str, Buffer]
    constants: Mapping[str, Array]
    calls: Sequence[Call]
    origins: Mapping[str, Origin] = field(default_factory=dict[str, Origin])
    notes: Sequence[str] = ()
    states: Mapping[str, str] = field(default_factory=dict[str, str])

    def whole(self, name: str) -> str:
        """Return the buffer inside which a buffer lies, else itself."""
        return self.buffers[name].part_of or name

    def interpret(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the program in NumPy: integer arrays per input name -> per output name."""
        memory = self.trace(feeds)
        return {p.name: memory[p.buffer].reshape(p.shape) for p in self.outputs}

    def trace(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the program in NumPy and return the content of every buffer when it was written."""
        memory: dict[str, Array] = dict(self.constants)
        for port in self.inputs:
            memory[port.buffer] = np.ascontiguousarray(feeds[port.name], port.dtype).reshape(-1)
        for call in self.calls:
            arrays = [self._held(memory, name) for name in call.inputs]
            for name, data in zip(
                call.outputs, call.kernel.reference(*arrays, *call.constants), strict=True
            ):
                codes = np.asarray(data, self.buffers[name].dtype).reshape(-1)
                memory[name] = codes
                if self.buffers[name].part_of:
                    self._held(memory, name)[:] = codes
        return memory

    def _held(self, memory: dict[str, Array], name: str) -> Array:
        """Return what a buffer holds; of a part, the place inside the whole."""
        buffer = self.buffers[name]
        if not buffer.part_of:
            return memory[name]
        whole = self.buffers[buffer.part_of]
        within = memory.setdefault(whole.name, np.zeros(whole.size, whole.dtype))
        return within[buffer.start : buffer.start + buffer.size]
