"""Writing a tile into an image: some values of each of some rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._base import KernelBase
from ._shared import random_s8
from ._tir import at, call, current_isa, parallel, store, tir


@dataclass(frozen=True, slots=True)
class Paste(KernelBase):
    """rows x width int8 values into `old`, in which a row begins every `pitch` values.

    `old` ends with the last value that is written; the rest of it stays as it is.
    """

    rows: int
    width: int
    pitch: int

    name: ClassVar[str] = "paste"

    @property
    def _size(self) -> int:
        return (self.rows - 1) * self.pitch + self.width

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, old, y; old and y may be the same memory."""
        return (
            Param("x", self.rows * self.width, "int8", "input"),
            Param("old", self._size, "int8", "input"),
            Param("y", self._size, "int8", "output"),
        )

    def write(self, x: Any, old: Any, y: Any) -> None:
        """Emit one call, on GPUs a thread per value."""
        if current_isa() != "cuda":
            call("edgec_paste_s8", at(x, 0), at(old, 0), self.rows, self.width, self.pitch,
                 at(y, 0))  # fmt: skip
            return
        with parallel(["i"], [self._size]) as (i,):
            row, column = i // self.pitch, i % self.pitch
            inside = column < self.width
            taken = tir().Select(inside, row * self.width + column, 0)
            store(y, i, tir().Select(inside, x[taken], old[i]))

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact copy in NumPy."""
        x, old = arrays
        y = old.copy()
        rows = np.arange(self.rows)[:, None] * self.pitch
        y[rows + np.arange(self.width)] = x.reshape(self.rows, self.width)
        return (y,)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Over the image."""
        return {0: 1}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Gaps between rows, none, a single row."""
        rng = np.random.default_rng(19)
        for rows, width, pitch in ((4, 6, 11), (3, 5, 5), (1, 7, 20)):
            kernel = Paste(rows, width, pitch)
            x, old, _ = kernel.params("generic")
            yield Case(kernel, (random_s8(rng, x.size), random_s8(rng, old.size)))
