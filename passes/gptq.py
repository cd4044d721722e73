"""Round int4 weights so that the layer's outputs on calibration data move least.

GPTQ (Frantar et al., arXiv 2210.17323): columns in the order of falling diag(H), H = X^T X of the
layer's inputs; the error of each, e = (w - q) / U_jj, is taken off the columns not yet rounded,
w_k -= e U_jk, where U is the upper Cholesky factor of (H + damping)^-1. Then sweeps of QuantEase
(Behdin et al., arXiv 2309.01885): every code in turn becomes the best one given all others. Scales
are those of the plan, so nothing changes at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32, F64, TensorEncoding
from ..compiler.core.graph import model_from_text
from ..compiler.core.linear import LinearView, linear_view
from ..compiler.core.passbase import Context, Effect, Example, Feeds, Note, Outcome
from ..compiler.core.plan import QuantPlan

BITS = 4
# Share of the mean of diag(H) that is added to it; ten times more where the factor does not exist.
DAMPINGS = (0.01, 0.1, 1.0)
SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Gptq:
    """Round int4 weights by what their layers see, layer by layer where held-out error falls.

    Every second sample is held out. Convolutions with more than one tap keep plain rounding.
    """

    name: ClassVar[str] = "gptq"
    effect: ClassVar[Effect] = Effect.LOSSY

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Move weights onto the grid of the plan; they stay float and are encoded later."""
        changed: list[Note] = []
        declined: list[Note] = []
        views: list[tuple[str, LinearView, TensorEncoding]] = []
        for node in model.graph:
            view = linear_view(node)
            encoding = None if view is None else ctx.plan.encodings.get(view.weight_name)
            if view is None or encoding is None or encoding.bits != BITS:
                continue
            name = view.weight_name
            if view.weight[0, 0].size > 1:
                declined.append(Note(name, "plain rounding: it has more than one tap"))
            else:
                views.append((name, view, encoding))
        if not views and not declined:
            declined = [Note("weights", f"none has {BITS} bits")]
        if views and (ctx.evaluate is None or len(ctx.samples) < 2):
            declined += [Note(name, "plain rounding: fewer than two samples") for name, *_ in views]
            views = []
        moments = _moments(model, [v for _, v, _ in views], ctx) if views else {}
        for name, view, encoding in views:
            seen, held = moments[_input_name(view)]
            text, better = _round(view, encoding, seen, held)
            if better is not None:
                _store(view, better)
            (declined if better is None else changed).append(Note(name, text))
        return Outcome(changed, declined)

    @staticmethod
    def examples() -> Iterable[Example]:
        """Correlated inputs, for which plain rounding is far from best; weights of 8 bits."""
        rng = np.random.default_rng(0)
        model = model_from_text(
            """<ir_version: 10, opset_import: ["" : 21]>
            m (float[64,16] X) => (float[64,6] Y) { Y = Gemm <transB = 1> (X, W) }""",
            W=rng.standard_normal((6, 16)).astype(np.float32),
        )
        mix = rng.standard_normal((4, 16))
        feeds = [
            {"X": (rng.standard_normal((64, 4)) @ mix + rng.standard_normal((64, 16)) / 8).astype(
                np.float32
            )}
            for _ in range(4)
        ]  # fmt: skip
        for bits in (BITS, 8):
            encoding = TensorEncoding(bits, (0.4,) * 6, (0,) * 6, axis=0)
            plan = QuantPlan().with_encodings({"W": encoding})
            context = Context(plan=plan, samples=feeds, evaluate=_inputs_themselves)
            yield Example(model, feeds[0], context, fires=bits == BITS)


def _inputs_themselves(
    model: ir.Model, samples: Sequence[Feeds], names: Sequence[str]
) -> Iterable[Mapping[str, F32]]:
    """Stand in for the runner where the only values asked for are inputs of the model."""
    return [{name: feeds[name] for name in names} for feeds in samples]


def _input_name(view: LinearView) -> str:
    value = view.node.inputs[0]
    assert value is not None
    return str(value.name)


def _moments(
    model: ir.Model, views: Iterable[LinearView], ctx: Context
) -> dict[str, tuple[F64, F64]]:
    """Return X^T X of every distinct input, [in, in], of even samples and of odd ones."""
    channels_first = {_input_name(v): v.node.op_type == "Conv" for v in views}
    found: dict[str, tuple[F64, F64]] = {}
    assert ctx.evaluate is not None
    for index, values in enumerate(ctx.evaluate(model, ctx.samples, list(channels_first))):
        for name, first in channels_first.items():
            x = values[name].astype(np.float64)
            rows = np.moveaxis(x, 1, -1) if first else x
            rows = rows.reshape(-1, rows.shape[-1])
            size = rows.shape[1]
            both = found.setdefault(name, (np.zeros((size, size)), np.zeros((size, size))))
            both[index % 2][...] += rows.T @ rows
    return found


def _round(
    view: LinearView, encoding: TensorEncoding, seen: F64, held: F64
) -> tuple[str, F64 | None]:
    """Return what was done, and the rounded weights [out, in] if they are better than plain."""
    weight = view.weight.astype(np.float64).reshape(view.weight.shape[0], -1)
    if weight.shape[1] != len(seen):
        return "plain rounding: convolutions in groups", None
    scale = _scales(view, encoding)
    low, high = encoding.limits
    plain = np.clip(np.rint(weight / scale), low, high) * scale
    rounded = _gptq(weight, scale, seen, (low, high))
    way = "GPTQ and QuantEase" if rounded is not None else "QuantEase, for H has no factor"
    start = plain if rounded is None else rounded
    rounded = _quant_ease(weight, start, scale, seen, (low, high))
    before, after = _error(weight - plain, held), _error(weight - rounded, held)
    if not after < before:
        return f"plain rounding: {way} {after / max(before, 1e-300):.2f} of its error", None
    return (
        f"{way}: {after / before:.2f} of the error of plain rounding on held-out samples",
        rounded,
    )


def _scales(view: LinearView, encoding: TensorEncoding) -> F64:
    """Return the scale of every weight, [out, in]."""
    stored = view.weight if view.out_axis == 0 else view.weight.T
    ones = encoding.dequantise(np.ones(stored.shape, np.int8)).astype(np.float64)
    return np.moveaxis(ones, view.out_axis, 0).reshape(view.weight.shape[0], -1)


def _gptq(weight: F64, scale: F64, moment: F64, limits: tuple[int, int]) -> F64 | None:
    """Return weight [out, in] on the grid; None where no damping makes H positive definite."""
    order = np.argsort(-np.diag(moment), kind="stable")
    factor = _factor(moment[np.ix_(order, order)])
    if factor is None:
        return None
    left, steps = weight[:, order].copy(), scale[:, order]
    rounded = np.empty_like(left)
    for j in range(left.shape[1]):
        rounded[:, j] = np.clip(np.rint(left[:, j] / steps[:, j]), *limits) * steps[:, j]
        lost = (left[:, j] - rounded[:, j]) / factor[j, j]
        left[:, j + 1 :] -= np.outer(lost, factor[j, j + 1 :])
    result = np.empty_like(rounded)
    result[:, order] = rounded
    return result


def _factor(moment: F64) -> F64 | None:
    """Return the upper Cholesky factor of the inverse of the damped moment."""
    mean = float(np.diag(moment).mean())
    if mean <= 0:
        return None
    for damping in DAMPINGS:
        try:
            inverse = np.linalg.inv(moment + damping * mean * np.eye(len(moment)))
            return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float64)
        except np.linalg.LinAlgError:
            continue
    return None


def _quant_ease(weight: F64, start: F64, scale: F64, moment: F64, limits: tuple[int, int]) -> F64:
    """Return start after sweeps that never raise its error on the data of moment."""
    rounded, diagonal = start.copy(), np.diag(moment)
    for _ in range(SWEEPS):
        rest = (weight - rounded) @ moment
        moved = False
        for j in np.flatnonzero(diagonal > 1e-12 * diagonal.max(initial=0)):
            best = rounded[:, j] + rest[:, j] / diagonal[j]
            new = np.clip(np.rint(best / scale[:, j]), *limits) * scale[:, j]
            step = new - rounded[:, j]
            if step.any():
                rest -= np.outer(step, moment[j])
                rounded[:, j], moved = new, True
        if not moved:
            break
    return rounded


def _error(lost: F64, moment: F64) -> float:
    return float(np.einsum("oi,ij,oj->", lost, moment, lost, optimize=True))


def _store(view: LinearView, rounded: F64) -> None:
    """Give the weight its new content under its old name, by which the plan knows it."""
    value = view.node.inputs[view.weight_index]
    assert value is not None
    data = rounded.reshape(view.weight.shape).astype(np.float32)
    stored = data if view.out_axis == 0 else np.ascontiguousarray(data.T)
    value.const_value = ir.tensor(stored, name=value.name)
