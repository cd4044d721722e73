"""Affine access: how a loop nest over a shape walks a flat buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..program import Array


@dataclass(frozen=True, slots=True)
class Access:
    """Element (i0, i1, ...) sits at offset + sum(strides * i) of a buffer of `size` elements."""

    size: int
    strides: tuple[int, ...]
    offset: int = 0

    def index(self, variables: Sequence[Any]) -> Any:
        """Return the TIR index expression."""
        total: Any = self.offset
        for stride, variable in zip(self.strides, variables, strict=True):
            if stride and not (isinstance(variable, int) and variable == 0):
                total = total + variable * stride
        return total

    def positions(self, shape: Sequence[int]) -> Array:
        """Return the flat positions of every element of shape, as int64 [*shape]."""
        total: Array = np.full(tuple(shape), self.offset, np.int64)
        for axis, stride in enumerate(self.strides):
            column = np.arange(shape[axis]).reshape(
                [-1 if a == axis else 1 for a in range(len(shape))]
            )
            total = total + column * stride
        return total


def dense(shape: Sequence[int]) -> Access:
    """Return the row-major access of a whole buffer."""
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.insert(0, step)
        step *= extent
    return Access(step, tuple(strides))


def collapse(
    shape: Sequence[int], accesses: Sequence[Access]
) -> tuple[tuple[int, ...], tuple[Access, ...]]:
    """Drop unit axes and merge neighbours that every access walks as one; same elements."""
    axes = [i for i, extent in enumerate(shape) if extent != 1]
    extents: list[int] = []
    strides: list[list[int]] = [[] for _ in accesses]
    for axis in axes:
        steps = [a.strides[axis] for a in accesses]
        if extents and all(
            s[-1] == step * shape[axis] for s, step in zip(strides, steps, strict=True)
        ):
            extents[-1] *= shape[axis]
            for s, step in zip(strides, steps, strict=True):
                s[-1] = step
        else:
            extents.append(shape[axis])
            for s, step in zip(strides, steps, strict=True):
                s.append(step)
    merged = [Access(a.size, tuple(s), a.offset) for a, s in zip(accesses, strides, strict=True)]
    return tuple(extents), tuple(merged)


def axis_names(rank: int) -> list[str]:
    """Return loop names i0, i1, ..."""
    return [f"i{axis}" for axis in range(rank)]
