"""What rounding to a few bits costs the layers behind a site, on rows that calibration kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..compiler.core.encoding import F32, F64, affine_encoding, symmetric_encoding
from ..compiler.core.graph import static_shape
from ..compiler.core.linear import LinearView
from ..compiler.core.passbase import Context, Feeds
from ._linear import draft, editable
from ._structure import Sink, Site

# Calibration samples whose activations are looked at: half set the ranges, half judge.
SAMPLES = 16
# Most rows of a layer's input that judge it.
ROWS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What one layer read: `low`, `high` [in] over the first half of the samples.

    `rows`: [rows, in, taps] of the other half, patches for convolutions.
    """

    sink: Sink
    low: F64
    high: F64
    rows: F32


def readings(model: ir.Model, found: Sequence[Site], ctx: Context) -> Mapping[ir.Node, Reading]:
    """Return what every layer of these sites reads in calibration; empty without samples."""
    sinks = {s.node: s for site in found for s in site.sinks}
    if ctx.evaluate is None or not ctx.samples or not sinks:
        return {}
    names = sorted({str(n.inputs[0].name) for n in sinks if n.inputs[0] is not None})
    seen = list(ctx.evaluate(model, chosen_samples(ctx), names))
    ranging, judging = seen[::2], seen[1::2] or seen
    return {node: _reading(sink, ranging, judging) for node, sink in sinks.items()}


def chosen_samples(ctx: Context) -> list[Feeds]:
    """Return the samples whose activations are looked at, spread evenly over all."""
    return [ctx.samples[i] for i in places(len(ctx.samples), SAMPLES)]


def _reading(
    sink: Sink, ranging: Sequence[Mapping[str, F32]], judging: Sequence[Mapping[str, F32]]
) -> Reading:
    name = str(sink.node.inputs[0].name) if sink.node.inputs[0] is not None else ""
    axis = 1 if sink.node.op_type == "Conv" else -1
    flat = [np.moveaxis(v[name], axis, -1).reshape(-1, v[name].shape[axis]) for v in ranging]
    low = np.min([v.min(axis=0) for v in flat], axis=0).astype(np.float64)
    high = np.max([v.max(axis=0) for v in flat], axis=0).astype(np.float64)
    each = max(1, -(-ROWS // len(judging)))
    rows = np.concatenate([_rows(sink.node, v[name], each) for v in judging]).astype(np.float32)
    return Reading(sink, low, high, rows)


def _rows(node: ir.Node, data: F32, count: int) -> F32:
    """Return up to count places of a layer's input: [rows, in, taps]."""
    if node.op_type != "Conv":
        rows = data.reshape(-1, data.shape[-1], 1)
        return rows[places(len(rows), count)]
    shape, pads = static_shape(node.inputs[1]) or (), node.attributes.get_ints("pads", ())
    rank = data.ndim - 2
    strides = node.attributes.get_ints("strides", [1] * rank)
    dilations = node.attributes.get_ints("dilations", [1] * rank)
    around = [(pads[i], pads[i + rank]) for i in range(rank)] if pads else [(0, 0)] * rank
    padded = np.pad(data, [(0, 0), (0, 0), *around])
    window = tuple((k - 1) * d + 1 for k, d in zip(shape[2:], dilations, strict=True))
    axes = tuple(range(2, data.ndim))
    view = np.lib.stride_tricks.sliding_window_view(padded, window, axes)
    view = view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    view = view[(..., *(slice(None, None, d) for d in dilations))]
    grid = view.shape[2 : 2 + rank]
    total = view.shape[0] * int(np.prod(grid))
    where = np.unravel_index(places(total, count), (view.shape[0], *grid))
    return view[(where[0], slice(None), *where[1:])].reshape(-1, data.shape[1], *window_taps(shape))


def window_taps(shape: Sequence[int]) -> tuple[int]:
    """Return how many numbers per channel a kernel of this weight shape reads."""
    return (int(np.prod(shape[2:])),)


def places(total: int, count: int) -> NDArray[Any]:
    """Return up to count indices spread evenly over total."""
    return np.linspace(0, total - 1, min(count, total)).astype(int)


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Rounding errors of the layers of one site, at these bits.

    `weights`: [group, out / group, in / group, taps] of each layer; `exact`: what it computes.
    float32 throughout: its rounding is some hundred thousand times smaller than what is measured.
    """

    readings: Sequence[Reading]
    weights: Sequence[F32]
    exact: Sequence[F32]
    activation_bits: int
    weight_bits: int

    def error(self, scale: F64, shift: F64) -> float:
        """Return the error if the site gave (x - shift) / scale, both [channels].

        Mean square of the layers' rounding errors over that of what they compute without bias.
        """
        noise = 0.0
        for reading, grouped, exact in zip(self.readings, self.weights, self.exact, strict=True):
            s = reading.sink.per_input(scale, 1.0)
            z = reading.sink.per_input(shift, 0.0)
            low, high = ((r - z) / s for r in (reading.low, reading.high))
            encoding = affine_encoding(float(low.min()), float(high.max()), self.activation_bits)
            x = (reading.rows - z[:, None].astype(np.float32)) / s[:, None].astype(np.float32)
            column = (len(grouped), 1, -1, 1)
            weight = grouped * s.reshape(column).astype(np.float32)
            rough = products(encoding.roundtrip(x), self._rounded(weight))
            if z.any():
                rough += (grouped * z.reshape(column)).sum(axis=(2, 3), dtype=np.float32)[:, None]
            rough -= exact
            noise += _power(rough)
        return noise / max(sum(map(_power, self.exact)), 1e-300)

    def _rounded(self, weight: F32) -> F32:
        """Return weight [group, out / group, ...] as symmetric codes per output give it back."""
        flat = weight.reshape(weight.shape[0] * weight.shape[1], -1)
        coded = symmetric_encoding(np.abs(flat).max(axis=1), self.weight_bits, 0)
        return coded.roundtrip(flat).reshape(weight.shape)


def judge_of(
    site: Site, seen: Mapping[ir.Node, Reading], activation_bits: int, weight_bits: int
) -> Judge:
    """Return the judge of a site as its weights are now."""
    views = [editable(sink.node) for sink in site.sinks]
    drafts = [draft(v) for v in views if isinstance(v, LinearView)]
    weights = [d.by_input().astype(np.float32) for d in drafts]
    read = [seen[sink.node] for sink in site.sinks]
    exact = [products(r.rows, w) for r, w in zip(read, weights, strict=True)]
    return Judge(read, weights, exact, activation_bits, weight_bits)


def products(x: F32, weight: F32) -> F32:
    """Return x [rows, in, taps] times weight [group, out / group, in / group, taps].

    The result is [group, rows, out / group].
    """
    groups, out = weight.shape[:2]
    if groups == 1:
        return (x.reshape(len(x), -1) @ weight.reshape(out, -1).T)[None]
    rows = x.reshape(len(x), groups, -1).transpose(1, 0, 2)
    return rows @ weight.reshape(groups, out, -1).transpose(0, 2, 1)


def _power(x: F32) -> float:
    return float(np.square(x).sum(dtype=np.float64))


def largest_read(judge: Judge, channels: int) -> tuple[F64, F64]:
    """Return [channels] largest |x| that any layer reads, and largest |weight| it meets."""
    x, w = np.zeros(channels), np.zeros(channels)
    for reading, grouped in zip(judge.readings, judge.weights, strict=True):
        labels = reading.sink.channels
        known = labels >= 0
        weight = np.abs(grouped).max(axis=(1, 3)).reshape(-1)
        np.maximum.at(x, labels[known], np.maximum(-reading.low, reading.high)[known])
        np.maximum.at(w, labels[known], weight[known])
    return x, w
