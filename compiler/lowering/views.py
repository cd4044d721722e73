"""Strided views of flat buffers: how movement operators cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .kernels._access import Access, dense
from .program import Array


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A logical tensor inside a buffer.

    `ghost` is a NumPy view, one byte an element, over memory that is never touched: NumPy's own
    rules for transpose, slice, broadcast and reshape are the rules here.
    """

    buffer: str
    base: Array
    ghost: Array

    @staticmethod
    def whole(buffer: str, shape: Sequence[int]) -> View:
        """Return the row-major view of a whole buffer."""
        size = int(np.prod(shape, dtype=np.int64))
        base = np.empty(size, np.int8)
        return View(buffer, base, base.reshape(tuple(shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape."""
        return tuple(int(d) for d in self.ghost.shape)

    @property
    def access(self) -> Access:
        """Offset and strides, in elements."""
        start: int = self.ghost.__array_interface__["data"][0]
        origin: int = self.base.__array_interface__["data"][0]
        strides = tuple(
            0 if extent == 1 else int(s)
            for s, extent in zip(self.ghost.strides, self.shape, strict=True)
        )
        return Access(int(self.base.size), strides, start - origin)

    @property
    def is_whole(self) -> bool:
        """True if this is its buffer, all of it, in row-major order."""
        wanted = dense(self.shape)
        strides = tuple(
            0 if extent == 1 else s for s, extent in zip(wanted.strides, self.shape, strict=True)
        )
        return self.access == Access(int(self.base.size), strides) and wanted.size == self.base.size

    def _with(self, ghost: Array) -> View:
        return View(self.buffer, self.base, ghost)

    def transpose(self, order: Sequence[int]) -> View:
        """Reorder the axes."""
        return self._with(self.ghost.transpose(tuple(order)))

    def slice(self, index: tuple[Any, ...]) -> View:
        """Apply a NumPy basic index."""
        # The ellipsis keeps NumPy from copying a single element out of its memory.
        return self._with(self.ghost[index if Ellipsis in index else (*index, ...)])

    def broadcast(self, shape: Sequence[int]) -> View:
        """Repeat unit axes."""
        return self._with(np.broadcast_to(self.ghost, tuple(shape)))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """Return the reshaped view, or None if elements would have to move."""
        try:
            return self._with(np.reshape(self.ghost, tuple(shape), copy=False))
        except ValueError:
            return None

    def storage_order(self) -> tuple[int, ...]:
        """Return the axes from slowest to fastest in memory (broadcast axes keep their place)."""
        strides = self.ghost.strides
        moving = [a for a in range(len(strides)) if strides[a] != 0 and self.shape[a] != 1]
        ranked = iter(sorted(moving, key=lambda a: -abs(strides[a])))
        return tuple(next(ranked) if a in moving else a for a in range(len(strides)))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """Return the permutation that undoes `order`."""
    return tuple(int(i) for i in np.argsort(order))
