"""What lowering knows of an ONNX value."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.encoding import TensorEncoding
from .program import Array
from .views import View


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """An int8 tensor in memory and what its codes mean."""

    view: View
    encoding: TensorEncoding


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """Integers or booleans known at run time (positions, token ids, conditions)."""

    view: View
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A float or integer constant."""

    data: Array


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A constant stored as integer codes: the input of a DequantizeLinear."""

    data: Array
    encoding: TensorEncoding


Known = Quantised | Plain | Constant | Codes
