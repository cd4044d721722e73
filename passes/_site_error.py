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
from ._linear import Draft, draft, editable
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
    rows: F64


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
    rows = np.concatenate([_rows(sink.node, v[name], each) for v in judging]).astype(np.float64)
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
    """Rounding errors of the layers of one site, at these bits; `exact`: what they compute."""

    readings: Sequence[Reading]
    drafts: Sequence[Draft]
    exact: Sequence[F64]
    activation_bits: int
    weight_bits: int

    def error(self, scale: F64, shift: F64) -> float:
        """Return the error if the site gave (x - shift) / scale, both [channels].

        Mean square of the layers' rounding errors over that of what they compute without bias.
        """
        noise = 0.0
        for reading, layer, exact in zip(self.readings, self.drafts, self.exact, strict=True):
            s = reading.sink.per_input(scale, 1.0)
            z = reading.sink.per_input(shift, 0.0)
            low, high = ((r - z) / s for r in (reading.low, reading.high))
            x = (reading.rows - z[:, None]) / s[:, None]
            grouped = layer.by_input()
            weight = grouped * s.reshape(len(grouped), 1, -1, 1)
            encoding = affine_encoding(float(low.min()), float(high.max()), self.activation_bits)
            flat = weight.reshape(layer.bias.size, -1)
            coded = symmetric_encoding(np.abs(flat).max(axis=1), self.weight_bits, 0)
            rounded = coded.roundtrip(flat).astype(np.float64).reshape(weight.shape)
            rough = products(encoding.roundtrip(x).astype(np.float64), rounded)
            if z.any():
                moved = grouped * z.reshape(len(grouped), 1, -1, 1)
                rough = rough + moved.sum(axis=(2, 3))[:, None, :]
            noise += float(np.square(rough - exact).sum())
        return noise / max(sum(float(np.square(e).sum()) for e in self.exact), 1e-300)


def judge_of(
    site: Site, seen: Mapping[ir.Node, Reading], activation_bits: int, weight_bits: int
) -> Judge:
    """Return the judge of a site as its weights are now."""
    views = [editable(sink.node) for sink in site.sinks]
    drafts = [draft(v) for v in views if isinstance(v, LinearView)]
    read = [seen[sink.node] for sink in site.sinks]
    exact = [products(r.rows, d.by_input()) for r, d in zip(read, drafts, strict=True)]
    return Judge(read, drafts, exact, activation_bits, weight_bits)


def products(x: F64, weight: F64) -> F64:
    """Return x [rows, in, taps] times weight [group, out / group, in / group, taps].

    The result is [group, rows, out / group]. Multiplied in float32: its rounding is some hundred
    thousand times smaller than what is measured with it, and searches take half the time.
    """
    groups, out = weight.shape[:2]
    x32, w32 = x.astype(np.float32), weight.astype(np.float32)
    if groups == 1:
        found = (x32.reshape(len(x), -1) @ w32.reshape(out, -1).T)[None]
    else:
        rows = x32.reshape(len(x), groups, -1).transpose(1, 0, 2)
        found = rows @ w32.reshape(groups, out, -1).transpose(0, 2, 1)
    return found.astype(np.float64)


def largest_read(judge: Judge, channels: int) -> tuple[F64, F64]:
    """Return [channels] largest |x| that any layer reads, and largest |weight| it meets."""
    x, w = np.zeros(channels), np.zeros(channels)
    for reading, layer in zip(judge.readings, judge.drafts, strict=True):
        labels = reading.sink.channels
        known = labels >= 0
        weight = np.abs(layer.by_input()).max(axis=(1, 3)).reshape(-1)
        np.maximum.at(x, labels[known], np.maximum(-reading.low, reading.high)[known])
        np.maximum.at(w, labels[known], weight[known])
    return x, w
