"""What the LSTM and GRU kernels share: gates, their functions, states in and out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import I64, Requantiser, TensorEncoding
from ..program import Array, Case, Param
from ._base import KernelBase
from ._gates import (
    CELL_BITS,
    CELL_LIMIT,
    GATE_LIMIT,
    HIDDEN_BITS,
    INTERVALS,
    MULTIPLIER,
    gate_constants,
    output_constants,
    state_constants,
    tanh_table,
)
from ._shared import (
    HIGH,
    INPUT_ZERO,
    LOW,
    PLAIN,
    Q_SIZE,
    SHIFT,
    Epilogue,
    exact_sum,
    pack_rows,
    random_codes,
    requantise,
    round_up,
    width_flag,
)
from ._tir import at, call, loop, parallel, prim_func, steps

# Words between the pairs of a column that no other shares.
ALONE = 2


@dataclass(frozen=True, slots=True)
class Recurrent(KernelBase):
    """`steps` x batch x inputs codes of type `x`, with batch x hidden units.

    `states`: types of the initial states in order, "" for zeros; `outputs`: epilogues of all
    steps' hidden values, then of the last states, None for what nobody reads. `bits`: fractional
    bits of the hidden state; `reverse`: the last step comes first.
    """

    steps: int
    batch: int
    inputs: int
    hidden: int
    states: tuple[str, ...]
    outputs: tuple[Epilogue | None, ...]
    x: str = "int8"
    bits: int = HIDDEN_BITS
    reverse: bool = False

    GATES: ClassVar[int]
    # Rows that are read together, as counts of gates: each block is packed by itself.
    BLOCKS: ClassVar[tuple[int, ...]]
    STATES: ClassVar[tuple[str, ...]]
    OUTPUTS: ClassVar[tuple[str, ...]]

    @property
    def parts(self) -> int:
        """Pre-activations per unit."""
        return self.GATES

    @property
    def rows(self) -> int:
        """Rows of the weights."""
        return self.GATES * self.hidden

    def _width(self, isa: str, k: int) -> int:
        return round_up(k, 4) if isa == "dsp" else k

    def _packed_rows(self, isa: str, gates: int) -> int:
        """Return where the block that begins with a gate starts, or all of them end."""
        step, rows = 4 if isa == "dsp" else 1, 0
        for block in self.BLOCKS:
            if gates >= block:
                gates -= block
                rows += round_up(block * self.hidden, step)
        return rows

    def params(self, isa: str) -> tuple[Param, ...]:
        """Inputs, gates, table, rules of states and outputs, outputs, scratch."""
        rows = self._packed_rows(isa, self.GATES)
        named = [
            *(n for n, d in zip(self.STATES, self.states, strict=True) if d),
            *(n for n, e in zip(self.OUTPUTS, self.outputs, strict=True) if e is not None),
        ]
        rules = [Param(f"{n}_q", Q_SIZE + 1, "int32", "constant") for n in named]
        return (
            Param("x", self.steps * self.batch * self.inputs, self.x, "input"),
            *self._state_params(),
            Param("w", rows * self._width(isa, self.inputs), "int8", "constant"),
            Param("r", rows * self._width(isa, self.hidden), "int8", "constant"),
            Param("gates", (2 * self.GATES + self.parts) * self.hidden + 1, "int32", "constant"),
            Param("table", INTERVALS + 1, "int16", "constant"),
            *rules,
            *self._output_params(),
            *self._scratch(isa),
        )  # fmt: skip

    def _state_params(self) -> Iterator[Param]:
        for name, dtype in zip(self.STATES, self.states, strict=True):
            if dtype:
                yield Param(name, self.batch * self.hidden, dtype, "input")

    def _output_params(self) -> Iterator[Param]:
        size = self.batch * self.hidden
        for index, (name, epilogue) in enumerate(zip(self.OUTPUTS, self.outputs, strict=True)):
            if epilogue is not None:
                count = size if index else self.steps * size
                yield Param(name, count, epilogue.dtype, "output")

    def _alive(self, isa: str) -> int:
        """Return how many samples are in work at a time."""
        return self.batch if isa == "cuda" else 1

    def _scratch(self, isa: str) -> Iterator[Param]:
        samples = self._alive(isa)
        yield Param("pre", samples * self.parts * self.hidden, "int32", "scratch")
        yield Param("h", samples * self._width(isa, self.hidden), "int16", "scratch")
        if isa == "dsp":
            yield Param("x_column", self._width(isa, self.inputs) // 2, "int32", "scratch")
            yield Param("h_column", self._width(isa, self.hidden) // 2, "int32", "scratch")
            if self.inputs % 4:
                yield Param("tail", self._width(isa, self.inputs), self.x, "scratch")

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Lay the weights out for the inner block of isa."""
        if isa != "dsp":
            return tuple(constants)
        w, r, *rest = constants
        return (self._pack(w, self.inputs), self._pack(r, self.hidden), *rest)

    def _pack(self, weight: Array, k: int) -> Array:
        ends = np.cumsum(self.BLOCKS)[:-1] * self.hidden
        return np.concatenate([pack_rows(b, 4) for b in np.split(weight.reshape(-1, k), ends)])

    # ------------------------------------------------------------ code

    def build(self, isa: str) -> Any:
        """Return the PrimFunc."""
        body = self._cuda if isa == "cuda" else self.write
        return prim_func(self.name, self.params(isa), body, isa)

    def write(self, *buffers: Any) -> None:
        """Emit the loops over samples and steps."""
        # Called with the buffers of params(isa); only dsp has columns.
        isa = "dsp" if len(buffers) == len(self.params("dsp")) else "generic"
        names = [p.name for p in self.params(isa)]
        b = dict(zip(names, buffers, strict=True))
        with loop("sample", self.batch) as sample:
            self._begin(b, sample)
            with loop("step", self.steps) as step:
                row = (self.steps - 1 - step if self.reverse else step) * self.batch + sample
                source = at(b["x"], row * self.inputs)
                if isa == "dsp":
                    self._expand_input(b, source)
                    source = at(b["x_column"], 0)
                self._step(b, isa, source)
                self._emit(b, 0, "hidden", "h", row)
            for index, name in enumerate(("h", "c")[: len(self.STATES)], 1):
                self._emit(b, index, "hidden" if name == "h" else "cell", name, sample)

    def _begin(self, b: dict[str, Any], sample: Any) -> None:
        for name, dtype, kind in zip(self.STATES, self.states, ("hidden", "cell"), strict=False):
            held = name[0]
            width = self._width("dsp" if "h_column" in b else "generic", self.hidden)
            if held == "h" and (not dtype or width != self.hidden):
                call("edgec_clear", at(b["h"], 0), 2 * width)
            elif not dtype:
                call("edgec_clear", at(b["c"], 0), 4 * self.hidden)
            if dtype:
                call(f"edgec_{kind}_of", at(b[name], sample * self.hidden), self.hidden,
                     at(b[f"{name}_q"], 0), width_flag(dtype), at(b[held], 0))  # fmt: skip

    def _expand_input(self, b: dict[str, Any], source: Any) -> None:
        padded, width = round_up(self.inputs, 4), np.dtype(self.x).itemsize
        if "tail" in b:
            call("edgec_pad", source, self.inputs * width, padded * width, at(b["tail"], 0))
            source = at(b["tail"], 0)
        expand = f"edgec_expand_{'s16' if self.x == 'int16' else 's8_s16'}__dsp"
        call(expand, source, padded, ALONE, at(b["x_column"], 0))

    def _gates(
        self, b: dict[str, Any], isa: str, first: int, count: int, target: int,
        x: Any = None, h: str | None = None,
    ) -> None:  # fmt: skip
        """Pre-activations of gates first .. first + count at part `target`, from x and h."""
        row, kx, kh = first * self.hidden, self.inputs, self.hidden
        packed = self._packed_rows(isa, first)
        column = None if h is None else at(b[h], 0)
        if isa == "dsp" and h is not None:
            call("edgec_expand_s16__dsp", column, round_up(kh, 4), ALONE, at(b["h_column"], 0))
            column = at(b["h_column"], 0)
        kx, kh = (self._width(isa, k) for k in (kx, kh))
        nothing = at(b["x_column"], 0) if isa == "dsp" else at(b["h"], 0)
        flags = [] if isa == "dsp" else [width_flag(self.x)]
        call(
            f"edgec_gates__{isa}", nothing if x is None else x, 0 if x is None else kx,
            nothing if column is None else column, 0 if column is None else kh,
            at(b["w"], packed * kx), at(b["r"], packed * kh), at(b["gates"], row),
            at(b["gates"], self.rows + row), at(b["gates"], 2 * self.rows + target * self.hidden),
            at(b["gates"], 2 * self.rows + self.parts * self.hidden), count * self.hidden, *flags,
            at(b["pre"], target * self.hidden),
        )  # fmt: skip

    def _step(self, b: dict[str, Any], isa: str, x: Any) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------ code for GPUs

    def _cuda(self, *buffers: Any) -> None:
        """Emit a thread per gate, then one per unit; steps follow one another."""
        names = [p.name for p in self.params("cuda")]
        b = dict(zip(names, buffers, strict=True))
        with self._units() as (_, __, place):
            for name, dtype, kind in zip(
                self.STATES, self.states, ("hidden", "cell"), strict=False
            ):
                held, width = at(b[name[0]], place), 2 if kind == "hidden" else 4
                if dtype:
                    call(f"edgec_{kind}_of", at(b[name], place), 1, at(b[f"{name}_q"], 0),
                         width_flag(dtype), held)  # fmt: skip
                else:
                    call("edgec_clear", held, width)
        with steps(self.steps) as step:
            row = (self.steps - 1 - step if self.reverse else step) * self.batch
            self._cuda_step(b, row)
        if any(epilogue is not None for epilogue in self.outputs[1:]):
            with self._units() as (_, __, place):
                self._cuda_emit(b, 1, "hidden", place, place)
                if len(self.STATES) > 1:
                    self._cuda_emit(b, 2, "cell", place, place)

    def _cuda_step(self, b: dict[str, Any], row: Any) -> None:
        raise NotImplementedError

    @contextmanager
    def _units(self) -> Generator[tuple[Any, Any, Any]]:
        """Open the loop over all units; yield sample, unit and the place of both."""
        with parallel(("sample", "unit"), (self.batch, self.hidden)) as (sample, unit):
            yield sample, unit, sample * self.hidden + unit

    def _cuda_gate(
        self, b: dict[str, Any], gate: Any, target: Any, sample: Any, unit: Any, x: Any = None,
        h: str | None = None,
    ) -> None:  # fmt: skip
        """One pre-activation at part `target`; those of a unit lie together."""
        row, kx, kh = gate * self.hidden + unit, self.inputs, self.hidden
        nothing = at(b["h"], 0)
        call(
            "edgec_gates__generic", nothing if x is None else x, 0 if x is None else kx,
            nothing if h is None else at(b[h], sample * kh), 0 if h is None else kh,
            at(b["w"], row * kx), at(b["r"], row * kh), at(b["gates"], row),
            at(b["gates"], self.rows + row),
            at(b["gates"], 2 * self.rows + target * self.hidden + unit),
            at(b["gates"], 2 * self.rows + self.parts * self.hidden), 1, width_flag(self.x),
            at(b["pre"], (sample * self.hidden + unit) * self.parts + target),
        )  # fmt: skip

    def _cuda_emit(self, b: dict[str, Any], index: int, kind: str, place: Any, out: Any) -> None:
        epilogue, name = self.outputs[index], self.OUTPUTS[index]
        if epilogue is not None:
            held = at(b["h" if kind == "hidden" else "c"], place)
            call(f"edgec_{kind}_codes", held, 1, at(b[f"{name}_q"], 0), epilogue.flags,
                 at(b[name], out))  # fmt: skip

    def _emit(self, b: dict[str, Any], index: int, kind: str, held: str, row: Any) -> None:
        epilogue, name = self.outputs[index], self.OUTPUTS[index]
        if epilogue is not None:
            call(f"edgec_{kind}_codes", at(b[held], 0), self.hidden, at(b[f"{name}_q"], 0),
                 epilogue.flags, at(b[name], row * self.hidden))  # fmt: skip

    # ------------------------------------------------------------ reference

    def _named(self, arrays: Sequence[Array]) -> dict[str, Array]:
        names = [p.name for p in self.params("generic") if p.role in ("input", "constant")]
        return dict(zip(names, arrays, strict=True))

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        a = self._named(arrays)
        x = a["x"].reshape(self.steps, self.batch, self.inputs)
        h = self._initial(a, 0, HIDDEN_BITS)
        state = [h, *(self._initial(a, i, CELL_BITS) for i in range(1, len(self.STATES)))]
        every: list[I64] = [h] * self.steps
        order = range(self.steps)
        for step in reversed(order) if self.reverse else order:
            state = self._advance(a, x[step], state)
            every[step] = state[0]
        found: list[Array] = []
        for i, (name, epilogue) in enumerate(zip(self.OUTPUTS, self.outputs, strict=True)):
            if epilogue is not None:
                value = np.stack(every) if i == 0 else state[i - 1]
                q = a[f"{name}_q"]
                codes = requantise(value.reshape(-1, 1), q[MULTIPLIER], q, epilogue.dtype)
                found.append(codes.reshape(-1))
        return tuple(found)

    def _initial(self, a: dict[str, Array], index: int, bits: int) -> I64:
        name, shape = self.STATES[index], (self.batch, self.hidden)
        if not self.states[index]:
            return np.zeros(shape, np.int64)
        q = a[f"{name}_q"]
        rule = Requantiser((int(q[MULTIPLIER]),), int(q[SHIFT]))
        codes = a[name].reshape(shape).astype(np.int64) - int(q[INPUT_ZERO])
        limits = (int(q[LOW]), int(q[HIGH])) if index == 0 else (-CELL_LIMIT, CELL_LIMIT)
        return rule.apply(codes, 0, *limits)

    def _pre(
        self, a: dict[str, Array], first: int, count: int, target: int,
        x: Array | None = None, h: I64 | None = None,
    ) -> I64:  # fmt: skip
        """Return [batch, count * hidden] pre-activations."""
        rows = slice(first * self.hidden, (first + count) * self.hidden)
        start = target * self.hidden
        total: I64 = np.zeros((self.batch, count * self.hidden), np.int64)
        of_x, of_h, biases = np.split(a["gates"].astype(np.int64), [self.rows, 2 * self.rows])
        for values, weight, multipliers in ((x, "w", of_x), (h, "r", of_h)):
            if values is not None:
                matrix = a[weight].reshape(self.rows, -1)[rows]
                total = total + exact_sum(values, matrix) * multipliers[rows]
        shift, bias = int(biases[-1]), biases[start : start + count * self.hidden]
        return np.clip(((total + (1 << (shift - 1))) >> shift) + bias, -GATE_LIMIT, GATE_LIMIT)

    def _advance(self, a: dict[str, Array], x: Array, state: list[I64]) -> list[I64]:
        raise NotImplementedError

    @staticmethod
    def cases() -> Iterable[Case]:
        """Yield the tests of an operator."""
        raise NotImplementedError

    def macs(self) -> int:
        """Every weight, once a step and sample."""
        return self.steps * self.batch * self.rows * (self.inputs + self.hidden)


def random_case(kernel: Recurrent, rng: np.random.Generator) -> Case:
    """Return a seeded case of kernel, whose epilogues say no more than the widths of outputs."""
    bits = {"int8": 8, "int16": 16}
    x = random_codes(rng, kernel.steps * kernel.batch * kernel.inputs, kernel.x)
    encoding = TensorEncoding(bits[kernel.x], (1 / (np.iinfo(kernel.x).max >> 4),), (7,))
    w, r = (rng.integers(-127, 128, (kernel.rows, k)).astype(np.int8)
            for k in (kernel.inputs, kernel.hidden))  # fmt: skip
    scales = [rng.uniform(0.2, 1, kernel.rows) / 64 / np.sqrt(m.shape[1]) for m in (w, r)]
    bias = rng.normal(0, 1, kernel.parts * kernel.hidden)
    gates = gate_constants((w, r), (scales[0], scales[1]), bias, encoding, kernel.bits)
    codes: list[Array] = []
    rules: list[Array] = []
    for index, dtype in enumerate(kernel.states):
        if dtype:
            codes.append(random_codes(rng, kernel.batch * kernel.hidden, dtype))
            encoding = TensorEncoding(
                bits[dtype], (1 / {"int8": 100, "int16": 2000}[dtype],), (-5,)
            )
            rules.append(state_constants(encoding, CELL_BITS if index else kernel.bits))
    outputs: list[Epilogue | None] = []
    for index, asked in enumerate(kernel.outputs):
        outputs.append(None)
        if asked is not None:
            scale = 1 / {"int8": 110, "int16": 20000}[asked.dtype]
            encoding = TensorEncoding(bits[asked.dtype], (scale,), (3,))
            fraction = CELL_BITS if index == 2 else kernel.bits
            rules.append(output_constants(encoding, fraction, *encoding.limits))
            outputs[-1] = Epilogue.of(rules[-1], asked.dtype)
    whole = replace(kernel, outputs=tuple(outputs))
    weights = w.reshape(-1), r.reshape(-1)
    return Case(whole, (x, *codes, *weights, gates, tanh_table(), *rules))


EPILOGUES = (PLAIN, Epilogue(dtype="int16"))
