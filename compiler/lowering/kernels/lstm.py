"""LSTM over a sequence, gates i, o, f, c in ONNX's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import I64
from ..program import Array, Case, Param
from ._gates import CELL_LIMIT, gate_sigmoid, gate_tanh, hidden
from ._recurrent import EPILOGUES, Recurrent, random_case
from ._tir import at, call, parallel


@dataclass(frozen=True, slots=True)
class Lstm(Recurrent):
    """LSTM with int16 hidden and int32 cell state inside; int8 or int16 codes outside."""

    name: ClassVar[str] = "lstm"
    GATES: ClassVar[int] = 4
    BLOCKS: ClassVar[tuple[int, ...]] = (4,)
    STATES: ClassVar[tuple[str, ...]] = ("h0", "c0")
    OUTPUTS: ClassVar[tuple[str, ...]] = ("y", "y_h", "y_c")

    def _scratch(self, isa: str) -> Iterator[Param]:
        yield from Recurrent._scratch(self, isa)
        yield Param("c", self._alive(isa) * self.hidden, "int32", "scratch")

    def _step(self, b: dict[str, Any], isa: str, x: Any) -> None:
        self._gates(b, isa, 0, 4, 0, x, "h")
        call("edgec_lstm_step", at(b["pre"], 0), self.hidden, at(b["table"], 0), self.bits,
             at(b["c"], 0), at(b["h"], 0))  # fmt: skip

    def _cuda_step(self, b: dict[str, Any], row: Any) -> None:
        extents = (self.batch, self.GATES, self.hidden)
        with parallel(("sample", "gate", "unit"), extents) as (sample, gate, unit):
            source = at(b["x"], (row + sample) * self.inputs)
            self._cuda_gate(b, gate, gate, sample, unit, source, "h")
        with self._units() as (_, __, place):
            call("edgec_lstm_step", at(b["pre"], place * self.GATES), 1, at(b["table"], 0),
                 self.bits, at(b["c"], place), at(b["h"], place))  # fmt: skip
            self._cuda_emit(b, 0, "hidden", place, row * self.hidden + place)

    def _advance(self, a: dict[str, Array], x: Array, state: list[I64]) -> list[I64]:
        h, c = state
        table = a["table"]
        i, o, f, g = np.split(self._pre(a, 0, 4, 0, x, h), 4, axis=1)
        kept = gate_sigmoid(f, table) * c
        added = gate_sigmoid(i, table) * gate_tanh(g, table) * 32
        c = np.clip((kept + added + (1 << 14)) >> 15, -CELL_LIMIT, CELL_LIMIT)
        out = gate_sigmoid(o, table) * gate_tanh((c + 8) >> 4, table)
        return [hidden(out, self.bits), c]

    @staticmethod
    def cases() -> Iterable[Case]:
        """Sizes on and off multiples of 4, all states and none, both widths, both directions."""
        rng = np.random.default_rng(31)
        narrow, wide = EPILOGUES
        for kernel in (
            Lstm(3, 1, 8, 4, ("", ""), (narrow, None, None)),
            Lstm(1, 2, 7, 5, ("int16", "int16"), (None, wide, wide)),
            Lstm(4, 2, 5, 6, ("int8", "int8"), (wide, narrow, narrow), "int16", 15, True),
            Lstm(2, 1, 33, 17, ("int16", ""), (narrow, wide, None), "int8", 11),
            Lstm(2, 1, 3, 1, ("", "int16"), (narrow, None, wide), "int16"),
        ):
            yield random_case(kernel, rng)
