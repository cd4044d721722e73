"""Bias correction: give back the mean that rounding the weights took from every output channel.

Nagel et al. 2019 (DFQ, arXiv 1906.04721), section 4.2, with the mean input measured in
calibration: b' = b + (W - W_q) E[x].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F64, TensorEncoding
from ..compiler.core.graph import constant, label, model_from_text, set_constant
from ..compiler.core.linear import LinearView, linear_view
from ..compiler.core.passbase import Context, Effect, Example, Note, Outcome
from ..compiler.core.plan import QuantPlan
from ..compiler.core.stats import ValueStats

# A correction below this share of the output's calibrated range is not worth a note.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True, slots=True)
class BiasCorrection:
    """Correct the bias of every Conv, Gemm and MatMul whose weights the plan encodes."""

    name: ClassVar[str] = "bias_correction"
    effect: ClassVar[Effect] = Effect.LOSSY

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Change biases only; the weights stay float and are encoded later."""
        changed: list[Note] = []
        declined: list[Note] = []
        for node in model.graph:
            view = linear_view(node)
            if view is None:
                continue
            reason = _correct(view, ctx)
            (declined if reason else changed).append(Note(label(node), reason or "corrected"))
        if not changed and not declined:
            declined.append(Note("model", "no layer with constant weights"))
        return Outcome(changed, declined)

    @staticmethod
    def examples() -> Iterable[Example]:
        """A Gemm with coarse weights and inputs far from zero mean; one without statistics."""
        rng = np.random.default_rng(0)
        model = model_from_text(
            """<ir_version: 10, opset_import: ["" : 21]>
            m (float[2,8] X) => (float[2,3] Y) { Y = Gemm <transB = 1> (X, W, B) }""",
            W=rng.standard_normal((3, 8)).astype(np.float32),
            B=rng.standard_normal(3).astype(np.float32),
        )
        feeds = {"X": (2 + rng.standard_normal((2, 8))).astype(np.float32)}
        plan = QuantPlan().with_encodings({"W": TensorEncoding(4, (0.4,) * 3, (0,) * 3, axis=0)})
        ends = np.zeros(8, np.float32), np.full(8, 4, np.float32)
        stats = {"X": ValueStats(0.0, 4.0, 0.0, 4.0, *ends, np.full(8, 2, np.float32), 1)}
        yield Example(model, feeds, Context(stats=stats, plan=plan))
        yield Example(model, feeds, Context(plan=plan), fires=False)


def _correct(view: LinearView, ctx: Context) -> str | None:
    """Correct one bias, or return why it is left alone."""
    node, source = view.node, view.node.inputs[0]
    assert source is not None
    encoding = ctx.plan.encodings.get(view.weight_name)
    seen = ctx.stats.get(str(source.name))
    if encoding is None:
        return "its weight is not encoded"
    if seen is None:
        return "its input was not calibrated"
    holder, index = (node, 2) if view.bias_node is None else _added(view)
    bias = constant(holder.inputs[index]) if index < len(holder.inputs) else None
    if bias is None:
        return "it has no bias to correct"
    shift = _mean_shift(view, encoding, seen)
    if shift is None:
        return "the mean of its input is not known per channel"
    span = max(float(np.abs(bias).max(initial=0.0)), seen.high - seen.low)
    if float(np.abs(shift).max()) <= NEGLIGIBLE * span:
        return "rounding its weights moves no mean"
    set_constant(holder, index, (bias.astype(np.float64) + shift).astype(np.float32))
    return None


def _added(view: LinearView) -> tuple[ir.Node, int]:
    assert view.bias_node is not None
    first = view.bias_node.inputs[0] is view.node.outputs[0]
    return view.bias_node, 1 if first else 0


def _mean_shift(view: LinearView, encoding: TensorEncoding, seen: ValueStats) -> F64 | None:
    """Return (W - W_q) E[x] per output channel [out]."""
    stored = constant(view.node.inputs[view.weight_index])
    assert stored is not None
    lost = stored.astype(np.float64) - encoding.roundtrip(stored)
    lost = np.moveaxis(lost, view.out_axis, 0)
    mean = seen.channel_mean.astype(np.float64)
    if view.node.op_type != "Conv":
        return lost @ mean if lost.shape[1] == mean.size else None
    per_channel = lost.sum(axis=tuple(range(2, lost.ndim)))  # [out, in / group]
    groups = view.node.attributes.get_int("group", 1)
    if per_channel.shape[1] * groups != mean.size:
        return None
    means = mean.reshape(groups, -1)
    rows = per_channel.reshape(groups, -1, per_channel.shape[1])
    return np.einsum("goi,gi->go", rows, means).reshape(-1)
