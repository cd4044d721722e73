"""A Program and its arena -> the C files of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..core.encoding import TensorEncoding
from .builder import c_identifier
from .codegen import c_functions, c_type
from .memory import Arena, plan_arena, scratch_name
from .program import Array, Call, Kernel, Port, Program

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
VALUES_PER_LINE = {
    "int8": 18, "uint8": 18, "int16": 16, "uint16": 16, "int32": 10, "uint32": 10, "int64": 6,
    "uint64": 6, "float32": 8, "float64": 5,
}  # fmt: skip
# What follows an integer literal of a type, and its least value, which C has no literal for.
SUFFIXES = {"uint32": "U", "int64": "LL", "uint64": "ULL"}
LEAST = {"int32": ("-2147483648", "INT32_MIN"), "int64": ("-9223372036854775808LL", "INT64_MIN")}

# Lower-case words that no parameter may be called: C11 and C++ (which includes the header).
_WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const "
    "constexpr const_cast continue decltype default delete do double dynamic_cast else enum "
    "explicit export extern false float for friend goto if inline int int16_t int32_t int64_t "
    "int8_t long mutable namespace new noexcept not not_eq nullptr operator or or_eq private "
    "protected public register reinterpret_cast restrict return short signed sizeof static "
    "static_assert static_cast struct switch template this thread_local throw true try typedef "
    "typeid typename uint16_t uint32_t uint64_t uint8_t union unsigned using virtual void volatile "
    "wchar_t while xor xor_eq"
)
RESERVED = frozenset({"arena", "memory", "weights", "constants", *_WORDS.split()})
# Constants in a file of their own start at multiples of this, a cache line.
FILE_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class CPort:
    """A public parameter of the generated function."""

    name: str
    c_name: str
    direction: str
    shape: tuple[int, ...]
    dtype: str
    encoding: TensorEncoding | None

    @property
    def elements(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole array."""
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def declaration(self) -> str:
        """The C parameter."""
        const = "const " if self.direction == "input" else ""
        return f"{const}{c_type(self.dtype)} *{self.c_name}"


@dataclass(frozen=True, slots=True)
class CConstant:
    """One array in flash."""

    symbol: str
    c_type: str
    size: int
    alignment: int
    values: str
    size_bytes: int
    content: bytes


@dataclass(frozen=True, slots=True)
class CModel:
    """The generated text per file name, and what it needs.

    `constants`: all that is in NAME_weights.c; `weights`: they, where they are a file instead.
    """

    files: Mapping[str, str]
    inputs: tuple[CPort, ...]
    outputs: tuple[CPort, ...]
    arena: Arena
    weights_bytes: int
    weights_bytes_by_call: tuple[int, ...]
    functions: tuple[str, ...]
    constants: tuple[CConstant, ...] = ()
    weights: bytes | None = None


def c_ports(program: Program, model: str) -> tuple[tuple[CPort, ...], tuple[CPort, ...]]:
    """Return the public parameters; no C name repeats or hides another name of the files."""
    taken = {*RESERVED, *function_names(program)[1]}

    def port(item: Port, direction: str) -> CPort:
        base = name = c_identifier(item.name)
        if base.startswith(f"{model}_"):  # as functions and constants of the model do
            base = name = f"port_{base}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        return CPort(item.name, name, direction, item.shape, item.dtype, item.encoding)

    inputs = tuple(port(p, "input") for p in program.inputs)
    return inputs, tuple(port(p, "output") for p in program.outputs)


class Constants:
    """Arrays in flash, each stored once."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._symbols: dict[tuple[str, bytes], str] = {}
        self.items: list[CConstant] = []

    def symbol(self, hint: str, data: Array) -> str:
        """Return the C symbol of data, adding it if it is new."""
        key = (str(data.dtype), data.tobytes())
        if key not in self._symbols:
            symbol = f"{self._model}_data_{hint}"
            self._symbols[key] = symbol
            self.items.append(_constant(symbol, data, key[1]))
        return self._symbols[key]


class FileConstants(Constants):
    """Arrays in a file of their own, each stored once, found from where it lies in memory."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._content = bytearray()

    def symbol(self, hint: str, data: Array) -> str:
        """Return the C expression of data, adding it if it is new."""
        key = (str(data.dtype), data.tobytes())
        if key not in self._symbols:
            self._content += bytes(-len(self._content) % FILE_ALIGNMENT)
            place, kind = f"constants + {len(self._content)}", c_type(key[0])
            self._symbols[key] = f"(const {kind} *)(const void *)({place})"
            self._content += key[1]
            self.items.append(
                CConstant(hint, kind, data.size, FILE_ALIGNMENT, "", data.nbytes, b"")
            )
        return self._symbols[key]

    @property
    def content(self) -> bytes:
        """The file."""
        return bytes(self._content)


def _constant(symbol: str, data: Array, content: bytes) -> CConstant:
    alignment = 16 if data.nbytes >= 64 else max(4, data.itemsize)
    values = _bytes_text(data) if data.itemsize == 1 and data.dtype.kind in "iu" else _text(data)
    return CConstant(
        symbol, c_type(str(data.dtype)), data.size, alignment, values, data.nbytes, content
    )


def _bytes_text(data: Array) -> str:
    """Return the integers of 8 bits as C initialisers in columns: models have millions of them."""
    least = int(np.iinfo(data.dtype).min)
    cells = np.array([f"{v:4d}," for v in range(least, least + 256)], "S5")
    chosen = cells[data.reshape(-1).astype(np.int16) - least]
    step = VALUES_PER_LINE[str(data.dtype)]
    full = chosen.size // step * step
    rows = chosen[:full].view(np.uint8).reshape(-1, step * cells.itemsize)
    frame = np.full((len(rows), 1), b"\n"[0], np.uint8)
    text = np.hstack([frame, rows]).tobytes() + b"\n" * (full < chosen.size)
    return (text + chosen[full:].tobytes()).decode("ascii").strip("\n").removesuffix(",")


def _text(data: Array) -> str:
    """Return numbers as C initialisers."""
    dtype = str(data.dtype)
    if data.dtype.kind == "f":
        texts = [c_float(v) for v in data.reshape(-1)]
    else:
        texts = [f"{v}{SUFFIXES.get(dtype, '')}" for v in data.reshape(-1).tolist()]
    least, word = LEAST.get(dtype, ("", ""))
    texts = [word if t == least else t for t in texts]
    step = VALUES_PER_LINE[dtype]
    lines = [", ".join(texts[i : i + step]) for i in range(0, len(texts), step)]
    return "    " + ",\n    ".join(lines)


def function_names(program: Program) -> tuple[dict[Kernel, str], tuple[str, ...]]:
    """Return one C function name per distinct kernel, and the name of every call."""
    names: dict[Kernel, str] = {}
    counts: dict[str, int] = {}
    for call in program.calls:
        if call.kernel not in names:
            counts[call.kernel.name] = counts.get(call.kernel.name, 0) + 1
            names[call.kernel] = f"{call.kernel.name}_{counts[call.kernel.name]}"
    return names, tuple(names[call.kernel] for call in program.calls)


def emit_c(
    program: Program, name: str, isa: str, version: str, weights_file: bool = False
) -> CModel:
    """Return the C of program as model `name` for the inner loops of isa.

    `weights_file`: constants are no C but bytes, to which the caller passes a pointer.
    """
    arena = plan_arena(program, isa)
    inputs, outputs = c_ports(program, name)
    functions, called = function_names(program)
    constants = FileConstants(name) if weights_file else Constants(name)
    places = _places(program, (*inputs, *outputs), arena, constants)
    calls: list[dict[str, Any]] = []
    by_call: list[int] = []
    for index, (call, function) in enumerate(zip(program.calls, called, strict=True)):
        before = sum(c.size_bytes for c in constants.items)
        arguments = list(_arguments(call, index, isa, places, arena, constants))
        by_call.append(sum(c.size_bytes for c in constants.items) - before)
        comment = ", ".join(call.nodes) or f"layout of {call.outputs[0]}"
        calls.append({"function": function, "arguments": arguments, "comment": comment})
    read = {name for call in program.calls for name in call.inputs}
    idle = [c for p, c in zip(program.inputs, inputs, strict=True) if p.buffer not in read]
    known = header_context(program, name, version, arena, constants, inputs, outputs)
    context: dict[str, Any] = known | {
        "gpu": False, "idle": idle, "calls": calls, "uses_arena": arena.size_bytes > 0,
        "kernels": c_functions({n: k for k, n in functions.items()}, isa),
    }  # fmt: skip
    files = {
        f"include/{name}.h": render("model.h.j2", context),
        f"src/{name}.c": render("model.c.j2", context),
    }
    content = constants.content if isinstance(constants, FileConstants) else None
    if content is None:
        files[f"src/{name}_weights.h"] = render("weights.h.j2", context)
        files[f"src/{name}_weights.c"] = render("weights.c.j2", context)
    given = tuple(constants.items) if content is None else ()
    return CModel(
        files, inputs, outputs, arena, context["weights_bytes"], tuple(by_call), called, given,
        content,
    )  # fmt: skip


def header_context(
    program: Program, name: str, version: str, arena: Arena, constants: Constants,
    inputs: Sequence[CPort], outputs: Sequence[CPort],
) -> dict[str, Any]:  # fmt: skip
    """Return what the templates of every kind of device know of a model."""
    in_file = isinstance(constants, FileConstants)
    return {
        "weights_file_bytes": len(constants.content) if in_file else None,
        "name": name, "macro": name.upper(), "version": version,
        "macs": sum(c.kernel.macs() for c in program.calls),
        "weights_bytes": sum(c.size_bytes for c in constants.items),
        "states": _states(program, inputs, outputs), "arena_bytes": arena.size_bytes,
        "ports": (*inputs, *outputs),
        "prototype": _prototype(name, (*inputs, *outputs), in_file),
        "encoded_inputs": any(p.encoding and p.encoding.bits == 8 for p in inputs),
        "wide_inputs": any(p.encoding and p.encoding.bits > 8 for p in inputs),
        "constants": constants.items, "uses_math": uses_math(program),
        "not_finite": any("N" in c.values for c in constants.items if "INT" not in c.values),
    }  # fmt: skip


def _states(
    program: Program, inputs: Sequence[CPort], outputs: Sequence[CPort]
) -> list[tuple[CPort, CPort]]:
    """Return the input and the output of every state."""
    ports = {p.name: p for p in (*inputs, *outputs)}
    return [(ports[source], ports[target]) for source, target in program.states.items()]


def uses_math(program: Program) -> bool:
    """Return whether the code calls the C math library."""
    return any(call.kernel.name == "float_op" for call in program.calls)


def _prototype(name: str, ports: Sequence[CPort], weights_file: bool) -> str:
    last = "void *arena, const void *weights" if weights_file else "void *arena"
    return f"int32_t {name}_run({', '.join(p.declaration for p in ports)}, {last})"


def _places(
    program: Program, ports: Sequence[CPort], arena: Arena, constants: Constants
) -> dict[str, str]:
    """Return the C expression of every buffer."""
    places: dict[str, str] = {}
    for buffer, port in zip((*program.inputs, *program.outputs), ports, strict=True):
        places[buffer.buffer] = port.c_name
    for buffer_name, data in program.constants.items():
        places[buffer_name] = constants.symbol(buffer_name, data)
    for buffer_name, buffer in program.buffers.items():
        if buffer_name in arena.offsets and buffer_name not in places:
            places[buffer_name] = _in_arena(buffer.dtype, arena.offsets[buffer_name])
    for buffer_name, buffer in program.buffers.items():
        if buffer.part_of and buffer_name not in places:
            start = f" + {buffer.start}" if buffer.start else ""
            places[buffer_name] = f"{places[buffer.part_of]}{start}"
    return places


def _in_arena(dtype: str, offset: int) -> str:
    place = f"memory + {offset}" if offset else "memory"
    return f"({c_type(dtype)} *)(void *)({place})"


def _arguments(
    call: Call, index: int, isa: str, places: Mapping[str, str], arena: Arena,
    constants: Constants,
) -> Iterator[str]:  # fmt: skip
    """Yield the C arguments of a call in parameter order."""
    inputs, outputs = iter(call.inputs), iter(call.outputs)
    packed = iter(call.kernel.pack(isa, call.constants))
    for param in call.kernel.params(isa):
        if param.role == "input":
            yield places[next(inputs)]
        elif param.role == "constant":
            yield constants.symbol(f"{index}_{param.name}", next(packed))
        elif param.role == "output":
            yield places[next(outputs)]
        else:
            yield _in_arena(param.dtype, arena.offsets[scratch_name(index, param.name)])


def c_comment(text: str) -> str:
    """Return text without anything that would end or nest a C comment."""
    return re.sub(r"\*/|/\*", "_", text.replace("\n", " "))


def c_float(value: float | np.floating[Any]) -> str:
    """Return the shortest literal that reads back as the same float64, else float32."""
    number, suffix = (value, "") if isinstance(value, np.float64) else (np.float32(value), "F")
    if not np.isfinite(number):
        return "NAN" if np.isnan(number) else "INFINITY" if number > 0 else "-INFINITY"
    text = str(number)
    return text + (suffix if "." in text or "e" in text else f".0{suffix}")


@cache
def _environment() -> Any:
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["c_comment"] = c_comment
    environment.filters["c_float"] = c_float
    return environment


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return the text of a template."""
    text: str = _environment().get_template(template).render(**context)
    return text
