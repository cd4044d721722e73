"""Which encoding a QuantizeLinear or DequantizeLinear names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ..core.encoding import WIDE_BITS, Blocks, TensorEncoding, channel_axis, whole_multiples
from ..core.graph import label
from .program import Array
from .request import RefusedError

# Returns the content of a constant, else None.
Number = Callable[[ir.Value | None], Array | None]
# What activations may be stored in; uint8 codes are moved to int8.
STORED = ("int8", "uint8", "int16")
# Types of two codes a byte, and what is taken from unsigned codes and their zero points.
FOUR_BITS = frozenset({"int4", "uint4"})
OFFSETS = {"uint8": 128, "uint4": 8}


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
    if quantises and scale.ndim > 1:
        raise RefusedError(f"{label(node)}: blocked scales are not supported")
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
    kind = zero.dtype.name
    bits = 4 if kind in FOUR_BITS else {1: 8, 2: 16, 4: 32}[zero.dtype.itemsize]
    moved = zero.astype(np.int64) - OFFSETS.get(kind, 0)
    if kind == "uint16":
        raise RefusedError(f"{label(node)}: uint16 codes are not supported")
    if scale.ndim > 1:
        return _blocked(node, bits, scale, moved)
    axis = node.attributes.get_int("axis", 1) if scale.size > 1 else None
    return TensorEncoding(
        bits, tuple(map(float, scale.reshape(-1))), tuple(map(int, moved.reshape(-1))), axis
    )


def signed_codes(codes: Array) -> Array:
    """Return codes as the signed integers that `encoding_of` speaks of, one a NumPy element."""
    kind = codes.dtype.name
    if kind in OFFSETS:
        return (codes.astype(np.int16) - OFFSETS[kind]).astype(np.int8)
    return codes.astype(np.int8) if kind in FOUR_BITS else codes


def _blocked(node: ir.Node, bits: int, scale: Array, zero: Array) -> TensorEncoding:
    """Return the encoding of weights whose scales are whole multiples of their channel's."""
    axis, size = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    axis %= scale.ndim
    if size < 2 or zero.any():
        raise RefusedError(f"{label(node)}: blocked scales with zero points are not supported")
    channel = channel_axis(axis, scale.ndim)
    rows = np.moveaxis(scale, channel, 0).reshape(scale.shape[channel], -1)
    found = whole_multiples(rows)
    if found is None:
        raise RefusedError(
            f"{label(node)}: its blocks' scales are no whole multiples (up to 255) of one scale "
            "per channel"
        )
    base, multiplier = found
    moved = np.moveaxis(scale, channel, 0).shape
    order = np.moveaxis(multiplier.reshape(moved), 0, channel)
    blocks = Blocks(axis, size, scale.shape, tuple(map(int, order.reshape(-1))))
    scales = tuple(map(float, base))
    return TensorEncoding(bits, scales, (0,) * len(scales), channel, blocks=blocks)
