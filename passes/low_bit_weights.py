"""Choose int4 for the weights of linear layers, in groups of input channels with whole multipliers.

A layer stays integer: acc[n] = sum over groups of m[n, group] * (sum of codes * x), with one float
scale per output channel n and multipliers m in 1..255 (two levels of scales, as those of SpQR,
arXiv 2306.03078, section 4, but whole). The ONNX form is a standard blocked DequantizeLinear.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import (
    F32,
    F64,
    I32,
    LARGEST_MULTIPLIER,
    Blocks,
    TensorEncoding,
    bilevel,
    symmetric_encoding,
)
from ..compiler.core.graph import model_from_text
from ..compiler.core.linear import LinearView, linear_view
from ..compiler.core.passbase import Context, Example, Note, Outcome
from ..compiler.core.plan import QuantPlan
from ._islands import Islands, analyse
from ._linear import room_for_bias

BITS = 4
# Kernels take groups of 16 or of whole 32s of input channels.
SMALLEST_GROUP = 16
# Shares of the largest weight of a group that are tried as the end of its range.
SHRINKS = np.linspace(0.6, 1.0, 17)
# Wider activations than these leave no room in the sums of int4 kernels.
WIDEST_INPUT = 12


@dataclass(frozen=True, slots=True)
class LowBitWeights:
    """int4 in place of int8 for weights that kernels read two a byte.

    `group`: input channels that share a multiplier: 16, 32, 64 or 128; 0: per output channel only.
    Depthwise layers, recurrent layers and weights that others read too keep int8.
    """

    group: int = 32

    name: ClassVar[str] = "low_bit_weights"

    def decide(self, model: ir.Model, ctx: Context) -> tuple[QuantPlan, Outcome]:
        """Return the plan with int4 encodings in place of those of int8 weights."""
        islands = analyse(model.graph)
        found: dict[str, TensorEncoding] = {}
        changed: list[Note] = []
        declined: list[Note] = []
        for node in model.graph:
            view = linear_view(node)
            if view is None or view.weight_name not in ctx.plan.encodings:
                continue
            name = view.weight_name
            source = ctx.plan.encodings.get(_source(view, islands))
            if reason := _unfit(view, source):
                declined.append(Note(name, f"stays int8: {reason}"))
                continue
            assert source is not None
            encoding = int4_encoding(view, source, self.group)
            found[name] = encoding
            changed.append(Note(name, _describe(view, encoding, ctx.plan.encodings[name])))
        if not changed and not declined:
            declined = [Note("weights", "none is read by an integer kernel of a linear layer")]
        return ctx.plan.with_encodings(found), Outcome(changed, declined)

    @staticmethod
    def examples() -> Iterable[Example]:
        """A Gemm fires; a depthwise convolution keeps its int8."""
        rng = np.random.default_rng(0)
        head = '<ir_version: 10, opset_import: ["" : 21]>'
        gemm = model_from_text(
            f"{head} m (float[2,40] X) => (float[2,3] Y) {{ Y = Gemm <transB = 1> (X, W, B) }}",
            W=rng.standard_normal((3, 40)).astype(np.float32),
            B=rng.standard_normal(3).astype(np.float32),
        )
        depthwise = model_from_text(
            f"{head} m (float[1,4,5,5] X) => (float[1,4,3,3] Y) {{"
            " Y = Conv <group = 4, kernel_shape = [3, 3]> (X, W) }",
            W=rng.standard_normal((4, 1, 3, 3)).astype(np.float32),
        )
        plan = QuantPlan().with_encodings({"X": TensorEncoding(8, (0.02,), (3,))})
        for model, shape, channels in ((gemm, (2, 40), 3), (depthwise, (1, 4, 5, 5), 4)):
            weight = TensorEncoding(8, (0.02,) * channels, (0,) * channels, axis=0)
            feeds = {"X": rng.standard_normal(shape).astype(np.float32)}
            context = Context(plan=plan.with_encodings({"W": weight}))
            yield Example(model, feeds, context, fires=model is gemm)


def _source(view: LinearView, islands: Islands) -> str:
    value = view.node.inputs[0]
    return "" if value is None else str(islands.root(value).name)


def _unfit(view: LinearView, source: TensorEncoding | None) -> str:
    """Return why no int4 kernel reads these weights; empty if one does."""
    node, weight = view.node, view.weight
    value = node.inputs[view.weight_index]
    assert value is not None
    groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
    if groups > 1 and weight.shape[1] == 1:
        return "depthwise kernels read int8"
    if source is None or source.bits > WIDEST_INPUT:
        return f"its input is not stored in at most {WIDEST_INPUT} bits"
    if weight.ndim > 4:
        return "convolutions over three axes have no integer kernel"
    if len(value.uses()) > 1:
        return "another node reads it too"
    if weight[0].size < SMALLEST_GROUP:
        return f"rows of {weight[0].size} are not worth it"
    return ""


def int4_encoding(view: LinearView, source: TensorEncoding, group: int) -> TensorEncoding:
    """Return the int4 encoding of a layer's weights, the largest groups up to `group` that fit.

    The multipliers are the finest whose sums fit an int32 accumulator whatever the input holds.
    """
    weight = view.weight.astype(np.float64)
    size = _group_size(weight.shape, group)
    channels = weight.shape[0]
    blocked = _blocks(weight, size or weight[0].size) if size else weight.reshape(channels, 1, -1)
    wanted = _best_scales(blocked)
    if not size:
        code = (1 << (BITS - 1)) - 1
        magnitude = room_for_bias(view, wanted[:, 0] * code, source.scale[0], code)
        return symmetric_encoding(magnitude, BITS, view.out_axis)
    largest = LARGEST_MULTIPLIER
    while True:
        base, multiplier = bilevel(wanted, largest)
        if largest == 1 or _fits(view, source, base, multiplier, size):
            break
        largest //= 2
    return TensorEncoding(
        BITS, tuple(map(float, base)), (0,) * channels, view.out_axis,
        blocks=_as_stored(view, multiplier, size),
    )  # fmt: skip


def _group_size(shape: tuple[int, ...], group: int) -> int:
    """Return how many input channels share a multiplier; 0: all of a row."""
    taps, each = math.prod(shape[2:]), shape[1]
    if taps == 1:
        return group if 0 < group < each else 0
    return next((g for g in (group, SMALLEST_GROUP) if g and each % g == 0), 0)


def _blocks(weight: F64, size: int) -> F64:
    """Return weights [out, in, ...] as [out, blocks, size], in the order of the ONNX scales."""
    out, each = weight.shape[:2]
    padded = np.pad(weight.reshape(out, each, -1), ((0, 0), (0, -each % size), (0, 0)))
    by_block = padded.reshape(out, -1, size, padded.shape[2])
    return by_block.transpose(0, 1, 3, 2).reshape(out, -1, size)


def _best_scales(blocked: F64) -> F64:
    """Return the scale [out, blocks] of the least square error for each block of values."""
    high = (1 << (BITS - 1)) - 1
    largest = np.abs(blocked).max(axis=2)
    best, least = np.maximum(largest / high, 1e-12), np.full(largest.shape, np.inf)
    for shrink in SHRINKS:
        scale = np.maximum(largest * shrink / high, 1e-12)
        codes = np.clip(np.rint(blocked / scale[..., None]), -high - 1, high)
        error = np.square(codes * scale[..., None] - blocked).sum(axis=2)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best


def _fits(view: LinearView, source: TensorEncoding, base: F32, multiplier: I32, size: int) -> bool:
    """Return whether sums of products and the bias stay inside int32, for any input and codes."""
    low, high = source.limits
    farthest = max(-low, high) + abs(source.zero_point[0])
    reach = farthest * float(size << (BITS - 1)) * multiplier.sum(axis=1)
    if view.bias is not None:
        reach = reach + np.abs(view.bias) / (source.scale[0] * base.astype(np.float64))
    return bool(reach.max(initial=0) < 2**31)


def _as_stored(view: LinearView, multiplier: I32, size: int) -> Blocks:
    """Return the multipliers [out, blocks] in the layout of the weight as the model stores it."""
    out, each, *taps = view.weight.shape
    shaped = multiplier.reshape(out, -(-each // size), *taps)
    if view.out_axis == 1:
        shaped = shaped.T
    axis = 1 - view.out_axis
    return Blocks(axis, size, shaped.shape, tuple(map(int, shaped.reshape(-1))))


def _describe(view: LinearView, encoding: TensorEncoding, before: TensorEncoding) -> str:
    """Return format, bits with overhead and error of the weights against those they had."""
    blocks, count = encoding.blocks, view.weight.size
    overhead = 8 * len(blocks.multiplier) / count if blocks is not None else 0.0
    kind = "per channel" if blocks is None else f"in groups of {blocks.size}"
    stored = view.weight if view.out_axis == 0 else view.weight.T
    noise = [f"{_decibel(stored, e.roundtrip(stored)):.1f} dB" for e in (encoding, before)]
    return f"int4 {kind}, {BITS + overhead:.2f} bits a weight, {noise[0]} (int8 {noise[1]})"


def _decibel(real: F32, stored: F32) -> float:
    noise = float(np.square(real.astype(np.float64) - stored).sum())
    power = float(np.square(real.astype(np.float64)).sum())
    return 10 * math.log10(max(power, 1e-30) / max(noise, 1e-30 * max(power, 1e-30)))
