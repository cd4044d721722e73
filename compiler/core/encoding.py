"""How a tensor is stored, and the one rule by which integers are rescaled: pure data.

The integer contract
--------------------
Every integer kernel, on every target, rescales an int32 accumulator by

    y = clamp(floor(acc * multiplier / 2**shift + 1/2) + zero_point, low, high)

with one int32 `multiplier` per channel, one `shift` per tensor in 1..62 and an exact 64-bit
product: round half up, a single rounding. For shift >= 33 this equals

    clamp(((acc * multiplier >> 32) + (1 << (s - 1)) >> s) + zero_point)   with s = shift - 32

because floors nest, which is two instructions (smmla, ssat) on a Cortex-M with DSP.

Why not float32(acc) * scale, as ONNX Runtime's QLinearConv? It was tried: it agrees no better with
ONNX Runtime (which computes many layers in float and differs from itself between optimisation
levels, see docs/contract.md), and integers leave nothing to contraction, rounding modes or FPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

SUPPORTED_BITS = (2, 4, 6, 8, 12, 16, 32)
# Bits of activations that 8 would round too far: see TensorEncoding.
WIDE_BITS = 12
# Bits of the states that recurrent layers carry from run to run: errors of one last in the next.
STATE_BITS = 16
# Codes of up to so many bits, and their differences, are exact in float32.
_FLOAT32_BITS = 16
# Largest whole multiplier of a block's scale: it is stored in a byte.
LARGEST_MULTIPLIER = 255
# Bits of a scale that has multipliers: their products are float32 numbers exactly.
_SCALE_BITS = 16


@dataclass(frozen=True, slots=True)
class Blocks:
    """Whole multipliers (1..255) of a channel's scale, one per `size` neighbours along `axis`.

    `multiplier` is flat in the order of an array of `shape`: that of the tensor with `axis` divided
    by size, rounded up. A sum over the axis stays whole: sum of multiplier * (sum of codes * x).
    """

    axis: int
    size: int
    shape: tuple[int, ...]
    multiplier: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.size < 2 or len(self.multiplier) != math.prod(self.shape):
            raise ValueError("blocks hold two values or more and have one multiplier each")
        if not all(1 <= m <= LARGEST_MULTIPLIER for m in self.multiplier):
            raise ValueError(f"every multiplier must lie in 1..{LARGEST_MULTIPLIER}")

    def array(self) -> I32:
        """Return the multipliers as an array of `shape`."""
        return np.asarray(self.multiplier, np.int32).reshape(self.shape)

    def spread(self, extent: int) -> I32:
        """Return one multiplier per value, the blocked axis being `extent` long."""
        whole = np.repeat(self.array(), self.size, axis=self.axis)
        return whole.take(np.arange(extent), axis=self.axis)


@dataclass(frozen=True, slots=True)
class TensorEncoding:
    """Affine integer encoding of one tensor: real = scale * (code - zero_point).

    12 bits are stored in int16: twice int8's bytes for a sixteenth of its rounding error, and
    products of two such codes still leave int32 accumulators room for sums of 512.

    `scale` and `zero_point` hold one entry for the whole tensor (axis None) or one per index
    of `axis`. Scales are float32 values, as ONNX stores them. With `blocks` the scale of a value is
    that of its channel times the multiplier of its block; zero points are 0.
    """

    bits: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    signed: bool = True
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        if self.blocks is not None and (self.axis is None or any(self.zero_point)):
            raise ValueError("blocks have multipliers of a channel's scale and no zero points")
        if self.bits not in SUPPORTED_BITS:
            raise ValueError(f"bits must be one of {SUPPORTED_BITS}, got {self.bits}")
        if len(self.scale) != len(self.zero_point) or not self.scale:
            raise ValueError("need one scale per zero point and at least one of each")
        if self.axis is None and len(self.scale) != 1:
            raise ValueError(f"a per-tensor encoding has one scale, got {len(self.scale)}")
        if not all(s > 0 and math.isfinite(s) for s in self.scale):
            raise ValueError("every scale must be finite and positive")

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest storable code."""
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    @property
    def fills_dtype(self) -> bool:
        """True if every value of the NumPy type that holds a code is a code."""
        return self.bits in (8, 16, 32)

    @property
    def dtype(self) -> np.dtype[np.signedinteger | np.unsignedinteger]:
        """NumPy type that holds one code, one code per element."""
        width = next(w for w in (8, 16, 32) if w >= self.bits)
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")

    @property
    def block_scale(self) -> F32:
        """The scale of every block, in the shape of `blocks`; exact in float32."""
        assert self.blocks is not None and self.axis is not None
        shape = [1] * len(self.blocks.shape)
        shape[self.axis] = -1
        return np.asarray(self.scale, np.float32).reshape(shape) * self.blocks.array().astype(
            np.float32
        )

    def _columns(self, tensor: tuple[int, ...]) -> tuple[F32, I32]:
        shape = [1] * len(tensor)
        if self.axis is not None:
            shape[self.axis] = -1
        scale = np.asarray(self.scale, np.float32).reshape(shape)
        if self.blocks is not None:
            spread = self.blocks.spread(tensor[self.blocks.axis])
            scale = scale * spread.astype(np.float32)
        return scale, np.asarray(self.zero_point, np.int32).reshape(shape)

    def quantise(self, x: ArrayLike) -> NDArray[np.signedinteger | np.unsignedinteger]:
        """Return the codes of x, as ONNX QuantizeLinear computes them (round half to even)."""
        return self._codes(np.asarray(x, np.float32)).astype(self.dtype)

    def _codes(self, values: F32) -> F32 | F64:
        """Return the codes of values as floats; float32 holds codes of up to 16 bits exactly."""
        scale, zero = self._columns(values.shape)
        low, high = self.limits
        codes: F32 | F64 = np.asarray(np.rint(values / scale))
        if self.bits > _FLOAT32_BITS:
            codes = codes.astype(np.float64)
        codes += zero.astype(codes.dtype)
        return np.clip(codes, low, high, out=codes)

    def dequantise(self, codes: ArrayLike) -> F32:
        """Return the real values of codes, as ONNX DequantizeLinear computes them."""
        stored = np.asarray(codes)
        scale, zero = self._columns(stored.shape)
        return ((stored.astype(np.int64) - zero).astype(np.float32) * scale).astype(np.float32)

    def roundtrip(self, x: ArrayLike) -> F32:
        """Return the values a device reads back after storing x."""
        values = np.asarray(x, np.float32)
        if self.bits > _FLOAT32_BITS:
            return self.dequantise(self.quantise(values))
        # The same without a detour through integers, which takes most of the time.
        scale, zero = self._columns(values.shape)
        codes = self._codes(values)
        codes -= zero.astype(np.float32)
        codes *= scale
        return codes.astype(np.float32, copy=False)


def affine_encoding(low: float, high: float, bits: int = 8, signed: bool = True) -> TensorEncoding:
    """Return the asymmetric per-tensor encoding of [low, high], widened to contain zero."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    levels = (1 << bits) - 1
    scale = np.float32(max((high - low) / levels, 1e-8))
    smallest = -(1 << (bits - 1)) if signed else 0
    zero = round(smallest - low / float(scale))
    zero = min(max(zero, smallest), smallest + levels)
    return TensorEncoding(bits, (float(scale),), (int(zero),), None, signed)


def symmetric_encoding(magnitude: ArrayLike, bits: int, axis: int | None) -> TensorEncoding:
    """Return the symmetric encoding of [-m, m] for each m of `magnitude`, zero points 0."""
    largest = np.atleast_1d(np.asarray(magnitude, np.float64))
    scale = np.maximum(largest / ((1 << (bits - 1)) - 1), 1e-12).astype(np.float32)
    return TensorEncoding(bits, tuple(map(float, scale)), (0,) * scale.size, axis)


def channel_axis(block_axis: int, ndim: int) -> int:
    """Return which axis of a weight holds its output channels, by the axis of its blocks."""
    return 1 - block_axis if ndim == 2 else int(block_axis == 0)


def bilevel(scale: ArrayLike, largest: int = LARGEST_MULTIPLIER) -> tuple[F32, I32]:
    """Return (channel scales [n], multipliers 1..largest [n, blocks]) nearest to scale [n, blocks].

    A channel's scale has few enough bits for its products with multipliers to be float32 numbers
    exactly.
    """
    wanted = np.maximum(np.asarray(scale, np.float64), 1e-12)
    mantissa, exponent = np.frexp(wanted.max(axis=1) / largest)
    ticks = np.ceil(np.ldexp(mantissa, _SCALE_BITS))
    base = np.ldexp(ticks, exponent - _SCALE_BITS)
    multiplier = np.rint(wanted / base[:, None])
    return base.astype(np.float32), np.clip(multiplier, 1, largest).astype(np.int32)


def whole_multiples(scale: F32) -> tuple[F32, I32] | None:
    """Return (channel scales, multipliers) that give scale [n, blocks] to a float's last bit.

    None if no multipliers up to 255 do.
    """
    if not (scale > 0).all():
        return None
    wanted = scale.astype(np.float64)
    base, found = np.zeros(len(wanted)), np.zeros(wanted.shape, np.int64)
    missing = np.ones(len(wanted), bool)
    for least in range(1, LARGEST_MULTIPLIER + 1):
        step = (wanted[missing].min(axis=1) / least)[:, None]
        ratio = np.rint(wanted[missing] / step)
        near = np.abs(ratio * step - wanted[missing]) <= wanted[missing] * 2.0**-22
        fits = (near & (ratio <= LARGEST_MULTIPLIER)).all(axis=1)
        rows = np.flatnonzero(missing)[fits]
        base[rows], found[rows] = step[fits, 0], ratio[fits]
        missing[rows] = False
        if not missing.any():
            return base.astype(np.float32), found.astype(np.int32)
    return None


@dataclass(frozen=True, slots=True)
class Requantiser:
    """Fixed-point form of a positive rescale: one multiplier per channel, one shift."""

    multiplier: tuple[int, ...]
    shift: int

    @staticmethod
    def of(scale: ArrayLike) -> Requantiser:
        """Return the requantiser of scale = s_input * s_weight / s_output, per channel.

        The largest channel gets a multiplier in [2**30, 2**31). Raises ValueError when a
        scale is not positive or lies outside [2**-32, 2**30).
        """
        values = np.atleast_1d(np.asarray(scale, np.float64))
        if not (np.all(np.isfinite(values)) and np.all(values > 0)):
            raise ValueError("a rescale factor must be finite and positive")
        shift = 31 - math.frexp(float(values.max()))[1]
        multiplier = np.floor(np.ldexp(values, shift) + 0.5).astype(np.int64)
        if int(multiplier.max()) == 1 << 31:
            shift -= 1
            multiplier = np.floor(np.ldexp(values, shift) + 0.5).astype(np.int64)
        if not 1 <= shift <= 62:
            raise ValueError(f"rescale factor {float(values.max())} is outside [2**-32, 2**30)")
        return Requantiser(tuple(map(int, multiplier)), shift)

    def apply(self, acc: ArrayLike, zero_point: int, low: int, high: int) -> I64:
        """Rescale accumulators (channels last) by the integer contract; see the module."""
        product = np.asarray(acc, np.int64) * np.asarray(self.multiplier, np.int64)
        rounded = (product + (np.int64(1) << np.int64(self.shift - 1))) >> np.int64(self.shift)
        return np.clip(rounded + zero_point, low, high)
