"""Values at the public inputs and outputs: from what the user holds to what the device stores."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .core.encoding import TensorEncoding
from .lowering.program import Array


class Port(Protocol):
    """What is read of a port; the Port of a program and the PortInfo of a manifest fit."""

    @property
    def dtype(self) -> str:
        """NumPy name of the stored type."""
        ...

    @property
    def encoding(self) -> TensorEncoding | None:
        """How real values are stored; None for plain numbers."""
        ...


def encode_port(port: Port, value: Array) -> Array:
    """Return the stored form of a value of the ONNX model at a public input or output.

    Floats are quantised, unsigned codes moved to signed ones, signed codes kept.
    """
    data = np.asarray(value)
    if port.encoding is None:
        if port.dtype == "int32":
            data = np.clip(data, -(2**31), 2**31 - 1)
        return data.astype(port.dtype)
    if data.dtype == np.uint8:
        return (data.astype(np.int16) - 128).astype(np.int8)
    if data.dtype.kind == "i":
        return data
    return port.encoding.quantise(data)


def decode_port(port: Port, codes: Array) -> Array:
    """Return the real values of stored ones; plain numbers stay as they are."""
    return codes if port.encoding is None else port.encoding.dequantise(codes)
