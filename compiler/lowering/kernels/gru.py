"""GRU over a sequence, gates z, r, h in ONNX's order, in both of its forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import I64
from ..program import Array, Case, Param
from ._gates import HIDDEN_BITS, ONE, gate_sigmoid, gate_tanh, hidden
from ._recurrent import EPILOGUES, Recurrent, random_case
from ._tir import at, call, parallel


@dataclass(frozen=True, slots=True)
class Gru(Recurrent):
    """GRU with int16 hidden state inside; `linear`: the reset gate acts behind the weights."""

    linear: bool = False

    name: ClassVar[str] = "gru"
    GATES: ClassVar[int] = 3
    BLOCKS: ClassVar[tuple[int, ...]] = (2, 1)
    STATES: ClassVar[tuple[str, ...]] = ("h0",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("y", "y_h")

    @property
    def parts(self) -> int:
        """Gates, and the recurrent part of the candidate where it is kept apart."""
        return 4 if self.linear else 3

    def _scratch(self, isa: str) -> Iterator[Param]:
        yield from Recurrent._scratch(self, isa)
        if not self.linear:
            size = self._alive(isa) * self._width(isa, self.hidden)
            yield Param("reset", size, "int16", "scratch")

    def _step(self, b: dict[str, Any], isa: str, x: Any) -> None:
        table, pre = at(b["table"], 0), at(b["pre"], 0)
        self._gates(b, isa, 0, 2, 0, x, "h")
        if self.linear:
            self._gates(b, isa, 2, 1, 2, x=x)
            self._gates(b, isa, 2, 1, 3, h="h")
        else:
            call("edgec_gru_reset", pre, self.hidden, table, at(b["h"], 0), at(b["reset"], 0))
            self._gates(b, isa, 2, 1, 2, x, "reset")
        call("edgec_gru_step", pre, self.hidden, int(self.linear), table, self.bits, at(b["h"], 0))

    def _cuda_step(self, b: dict[str, Any], row: Any) -> None:
        def source(sample: Any) -> Any:
            return at(b["x"], (row + sample) * self.inputs)

        with parallel(("sample", "gate", "unit"), (self.batch, 2, self.hidden)) as (s, gate, unit):
            self._cuda_gate(b, gate, gate, s, unit, source(s), "h")
        table = at(b["table"], 0)
        if not self.linear:
            with self._units() as (_, __, place):
                call("edgec_gru_reset", at(b["pre"], place * self.parts), 1, table,
                     at(b["h"], place), at(b["reset"], place))  # fmt: skip
        with self._units() as (sample, unit, _):
            if self.linear:
                self._cuda_gate(b, 2, 2, sample, unit, x=source(sample))
                self._cuda_gate(b, 2, 3, sample, unit, h="h")
            else:
                self._cuda_gate(b, 2, 2, sample, unit, source(sample), "reset")
        with self._units() as (_, __, place):
            call("edgec_gru_step", at(b["pre"], place * self.parts), 1, int(self.linear), table,
                 self.bits, at(b["h"], place))  # fmt: skip
            self._cuda_emit(b, 0, "hidden", place, row * self.hidden + place)

    def _advance(self, a: dict[str, Array], x: Array, state: list[I64]) -> list[I64]:
        (h,), table = state, a["table"]
        z, r = (gate_sigmoid(p, table) for p in np.split(self._pre(a, 0, 2, 0, x, h), 2, axis=1))
        if self.linear:
            recurrent = self._pre(a, 2, 1, 3, h=h)
            candidate = self._pre(a, 2, 1, 2, x=x) + ((r * recurrent + (1 << 14)) >> 15)
        else:
            candidate = self._pre(a, 2, 1, 2, x, (r * h + (1 << 14)) >> 15)
        fresh = (ONE - z) * gate_tanh(candidate, table)
        return [hidden(fresh + z * (h << (HIDDEN_BITS - self.bits)), self.bits)]

    @staticmethod
    def cases() -> Iterable[Case]:
        """Both forms, odd sizes, both widths, with and without an initial state."""
        rng = np.random.default_rng(32)
        narrow, wide = EPILOGUES
        for kernel in (
            Gru(3, 1, 8, 4, ("",), (narrow, None)),
            Gru(2, 2, 7, 5, ("int16",), (wide, wide), linear=True),
            Gru(3, 1, 6, 7, ("int8",), (None, narrow), "int16", 15, True),
            Gru(2, 1, 33, 17, ("",), (narrow, wide), "int8", 11, linear=True),
            Gru(2, 1, 9, 3, ("int16",), (narrow, None), "int8", 12),
        ):
            yield random_case(kernel, rng)
