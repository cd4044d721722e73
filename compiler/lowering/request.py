"""What the walk asks of matchers, and how they say no."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import onnx_ir as ir

from ..core.encoding import TensorEncoding


class RefusedError(Exception):
    """A matcher recognised the operator but cannot express this use of it."""


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody wants a float value as codes of `encoding`, clamped to [low, high]."""

    value: ir.Value
    encoding: TensorEncoding
    low: int
    high: int

    @staticmethod
    def whole(value: ir.Value, encoding: TensorEncoding) -> Request:
        """Return the request for every code of encoding."""
        return Request(value, encoding, *encoding.limits)

    @property
    def key(self) -> Hashable:
        """Equal for requests that one kernel answers."""
        return str(self.value.name), self.encoding, self.low, self.high

    @property
    def dtype(self) -> str:
        """NumPy name of the type of the codes."""
        return self.encoding.dtype.name

    @property
    def hint(self) -> str:
        """Name for buffers."""
        return str(self.value.name)
