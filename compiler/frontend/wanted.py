"""What one model input accepts: shape, type, value range, and the data that can be made to fit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..core.errors import DataError, ModelError
from ..core.graph import shape_of
from ..core.passbase import Note
from ..core.states import states_of
from .columns import Array

# Operators that pass index values on unchanged.
_CARRIERS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand"})
_MASK_BOUND = 2  # integers that index nothing are masks or flags


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model input; `bound`: integers must lie in [0, bound), None when they may be anything.

    `optional`: data may leave it out, for it is a state that is carried from sample to sample.
    `finite`: floats must be finite numbers, because ranges are taken from them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    bound: int | None
    optional: bool = False
    finite: bool = True

    def rows_per_sample(self, shape: tuple[int, ...]) -> int:
        """Return how many leading rows of data of this shape make one sample; raises DataError.

        Accepted: [N, *shape], and [N, *shape[1:]] where N is a multiple of the model's batch.
        """
        if shape[1:] == self.shape and shape:
            return 1
        if shape and self.shape and shape[1:] == self.shape[1:]:
            batch = self.shape[0]
            if batch and shape[0] % batch == 0:
                return batch
        raise DataError(self._mismatch(shape))

    def _mismatch(self, shape: tuple[int, ...]) -> str:
        rest = self.shape[1:]
        accepted = f"[N, {', '.join(map(str, self.shape))}]"
        if self.shape[:1] == (1,):
            accepted += f" or [N, {', '.join(map(str, rest))}]"
        text = f"input '{self.name}' needs {accepted} but the data has {list(shape)}"
        if len(shape) == len(self.shape) and shape[1:] == rest:
            return (
                f"{text}: {shape[0]} is no multiple of the batch of {self.shape[0]}; cut the rest"
            )
        data = shape[-len(rest) :] if rest else ()
        orders = itertools.permutations(range(len(rest))) if len(data) == len(rest) <= 4 else ()
        for order in orders:
            if tuple(data[i] for i in order) == rest:
                axes = ", ".join(str(i + 1) for i in order)
                return f"{text}: the axes are in another order; transpose with (0, {axes})"
        return text

    def cast_note(self, source: np.dtype[np.generic]) -> Note | None:
        """Return a note if data of this type has to be cast; raises DataError if it may not."""
        if source == self.dtype:
            return None
        if source.kind == "O":
            raise DataError(f"data for '{self.name}' holds Python objects; save plain numbers")
        # Between integer types the values decide; see `fit`.
        both_integers = source.kind in "iu" and self.dtype.kind in "iu"
        if not both_integers and not np.can_cast(source, self.dtype, "same_kind"):
            raise DataError(
                f"input '{self.name}' takes {self.dtype} but the data is {source}, which would "
                "lose its meaning in a cast; convert the data"
            )
        return Note(self.name, f"data cast from {source} to {self.dtype}")

    def fit_sample(self, data: Array, index: int) -> Array:
        """Return one sample given without a leading sample axis, or without the batch of 1."""
        batchless = self.shape[:1] == (1,) and data.shape == self.shape[1:]
        if data.shape != self.shape and not batchless:
            raise DataError(
                f"sample {index} of input '{self.name}' has shape {list(data.shape)}, "
                f"the model needs {list(self.shape)}"
            )
        return self.fit(data, index)

    def fit(self, data: Array, index: int) -> Array:
        """Return the values of one sample in the model's shape and type; raises DataError."""
        where = f"sample {index} of input '{self.name}'"
        if self.cast_note(data.dtype) is not None and self.dtype.kind in "iu":
            low, high = _limits(self.dtype)
            if data.size and (int(data.min()) < low or int(data.max()) > high):
                raise DataError(f"{where} holds values outside {self.dtype}")
        # A sample read from a file must not be a view: callers may keep it.
        with np.errstate(over="ignore"):
            cast = np.array(data, self.dtype).reshape(self.shape)
        real = cast if self.dtype.kind == "f" else cast.astype(np.float32)  # bfloat16
        if self.finite and not np.isfinite(real).all():
            raise DataError(f"{where} holds NaN, infinity or values too large for {self.dtype}")
        # Gather counts negative indices from the end.
        if self.bound is not None and cast.size:
            low, high = int(cast.min()), int(cast.max())
            if low < -self.bound or high >= self.bound:
                worst = low if low < -self.bound else high
                raise DataError(f"{where} indexes row {worst} of a table with {self.bound} rows")
        return cast

    def random(self, rng: np.random.Generator) -> Array:
        """Return one synthetic sample."""
        if self.bound is not None:
            return rng.integers(0, self.bound, self.shape).astype(self.dtype)
        if self.dtype.kind == "b" or (self.dtype.kind in "iu" and self.dtype.itemsize > 1):
            return rng.integers(0, _MASK_BOUND, self.shape).astype(self.dtype)
        if self.dtype.kind in "iu":  # the codes of an already quantised input
            low, high = _limits(self.dtype)
            return rng.integers(low, high + 1, self.shape).astype(self.dtype)
        return rng.standard_normal(self.shape).astype(self.dtype)


def _limits(dtype: Any) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def wanted_inputs(model: ir.Model, finite: bool = True) -> dict[str, Wanted]:
    """Return what each graph input of a model with static shapes accepts; see `Wanted`."""
    wanted: dict[str, Wanted] = {}
    for value in model.graph.inputs:
        if value.dtype is None or value.dtype is ir.DataType.STRING:
            raise ModelError(f"input '{value.name}' has no number type; export it with one")
        name, dtype = str(value.name), np.dtype(value.dtype.numpy())
        carried = name in states_of(model.graph)
        shape, bound = shape_of(value), _index_bound(value)
        wanted[name] = Wanted(name, shape, dtype, bound, carried, finite)
    if not wanted:
        raise ModelError("the model has no inputs, so there is nothing to compile; export it again")
    return wanted


def _index_bound(value: ir.Value) -> int | None:
    """Return the size of the smallest constant axis that value indexes through Gather, or None."""
    bounds: list[int] = []
    for use in value.uses():
        node = use.node
        if node.op_type == "Gather" and use.idx == 1:
            table = node.inputs[0]
            size = None if table is None or table.shape is None else _axis_size(node, table.shape)
            bounds += [size] if size is not None else []
        elif node.op_type in _CARRIERS and use.idx == 0:
            bound = _index_bound(node.outputs[0])
            bounds += [bound] if bound is not None else []
    return min(bounds, default=None)


def _axis_size(gather: ir.Node, shape: ir.Shape) -> int | None:
    size = shape[gather.attributes.get_int("axis", 0)]
    return size if isinstance(size, int) else None
