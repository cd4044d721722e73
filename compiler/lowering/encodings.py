"""Which encoding a QuantizeLinear or DequantizeLinear names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ..core.encoding import WIDE_BITS, TensorEncoding
from ..core.graph import label
from .program import Array
from .request import RefusedError

# Returns the content of a constant, else None.
Number = Callable[[ir.Value | None], Array | None]
# What activations may be stored in; uint8 codes are moved to int8.
STORED = ("int8", "uint8", "int16")


def encoding_of(number: Number, node: ir.Node) -> TensorEncoding:
    """Return the encoding a Q or DQ node names, unsigned 8-bit moved to signed."""
    scale, zero = number(node.inputs[1]), None
    if scale is None:
        raise RefusedError(f"{label(node)}: its scale is not a constant")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero = number(node.inputs[2])
    quantises = node.op_type == "QuantizeLinear"
    if zero is None:
        coded = node.outputs[0] if quantises else node.inputs[0]
        assert coded is not None and coded.dtype is not None  # loading infers every type
        zero = np.zeros(scale.shape, coded.dtype.numpy())
    if quantises and zero.dtype.name not in STORED:
        raise RefusedError(f"{label(node)}: {zero.dtype} codes are not supported; use int8")
    encoding = _signed(node, scale, zero)
    return _clipped(number, node, encoding) if quantises else encoding


def per_tensor(node: ir.Node, encoding: TensorEncoding) -> TensorEncoding:
    """Return encoding; raises RefusedError if it is per channel."""
    if encoding.axis is not None:
        raise RefusedError(f"{label(node)}: activations are encoded per tensor, not per channel")
    return encoding


def needed(codes: Array, encoding: TensorEncoding) -> TensorEncoding:
    """Return the encoding of constant int16 codes with as few bits as they need."""
    if encoding.bits != 16 or codes.size == 0:
        return encoding
    return _narrowed(encoding, int(codes.min()), int(codes.max()))


def _clipped(number: Number, node: ir.Node, encoding: TensorEncoding) -> TensorEncoding:
    """Return the encoding of int16 codes whose values a Clip keeps within fewer bits."""
    source = node.inputs[0]
    clip = None if source is None else source.producer()
    if encoding.bits != 16 or clip is None or clip.op_type != "Clip" or len(clip.inputs) != 3:
        return encoding
    bounds = [number(v) for v in clip.inputs[1:]]
    if encoding.axis is not None or bounds[0] is None or bounds[1] is None:
        return encoding
    low, high = (int(encoding.quantise(b).reshape(-1)[0]) for b in bounds if b is not None)
    return _narrowed(encoding, low, high)


def _narrowed(encoding: TensorEncoding, low: int, high: int) -> TensorEncoding:
    narrow = replace(encoding, bits=WIDE_BITS)
    fits = narrow.limits[0] <= low and high <= narrow.limits[1]
    return narrow if fits else encoding


def _signed(node: ir.Node, scale: Array, zero: Array) -> TensorEncoding:
    bits = {1: 8, 2: 16, 4: 32}[zero.dtype.itemsize]
    moved = zero.astype(np.int64) - (128 if zero.dtype == np.uint8 else 0)
    if scale.ndim > 1:
        raise RefusedError(f"{label(node)}: blocked scales are not supported")
    if zero.dtype == np.uint16:
        raise RefusedError(f"{label(node)}: uint16 codes are not supported")
    axis = node.attributes.get_int("axis", 1) if scale.size > 1 else None
    return TensorEncoding(
        bits, tuple(map(float, scale.reshape(-1))), tuple(map(int, moved.reshape(-1))), axis
    )
