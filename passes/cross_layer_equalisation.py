"""Cross-layer equalisation: even out weight ranges between layers (arXiv 1906.04721, section 4.1).

Where y = W2 f(W1 x + b1) and f(s x) = s f(x) for s > 0, channel i of W1 and b1 is divided by
s_i = sqrt(r1_i / r2_i) and the inputs i of W2 are multiplied by it. Then both have the range
sqrt(r1_i r2_i). Chains are swept until no channel moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32, F64
from ..compiler.core.graph import label, model_from_text, sole_consumer
from ..compiler.core.linear import LinearView, linear_view
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes, is_op, nodes, static_shape
from ._linear import absorb_input, channel_axis, editable, gemm_factors, rescale

HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool")
DEAD = 1e-6  # a channel below this share of its layer's largest weight carries no range
EVEN = 1e-3  # factors this close to one are left alone


@dataclass(frozen=True, slots=True)
class CrossLayerEqualisation:
    """Scale channels between layers joined by nothing, ReLU, LeakyReLU or pooling."""

    sweeps: int = 20

    name: ClassVar[str] = "cross_layer_equalisation"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Equalise every pair of layers."""
        notes, pairs = Notes(), list[_Pair]()
        for node in nodes(model, "Conv", "Gemm", "MatMul"):
            if linear_view(node) is not None:
                pair = _pair(node)
                if isinstance(pair, str):
                    notes.add(label(node), "", pair)
                else:
                    pairs.append(pair)
        dead = [int(np.sum(_dead(pair))) for pair in pairs]
        factors = _factors(pairs, self.sweeps)
        for pair, factor, count in zip(pairs, factors, dead, strict=True):
            where = f"{label(pair.first)} -> {label(pair.second)}"
            done = f"{len(factor)} channels scaled by {factor.min():.3g} to {factor.max():.3g}"
            notes.add(where, done, _apply(pair, factor))
            if count:
                notes.add(where, "", f"{count} channels without weights left alone")
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Chains of every layer kind, one with dead channels; and what must stay."""
        image, row = "float[1,4,4,4] Y", "float[1,4] Y"
        for output, body in (
            (image, "A = Conv <pads = [1, 1, 1, 1]> (X, W, B)  R = Relu (A)"
                    "  D = Conv <group = 4> (R, Wd)  L = LeakyRelu <alpha = 0.1> (D)"
                    "  Y = Conv (L, W)"),
            (row, "A = Conv (X, W)  R = Relu (A)  P = GlobalAveragePool (R)  F = Flatten (P)"
                  "  Y = Gemm <transB = 1, alpha = 0.5> (F, M, B)"),
            (row, "A = Conv (X, W)  P = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (A)"
                  "  F = Flatten (P)  Y = Gemm (F, Mlong, B)"),
            (row, "P = GlobalMaxPool (X)  F = Flatten (P)  A = MatMul (F, M)  C = Add (A, B)"
                  "  R = Relu (C)  Y = MatMul (R, M)"),
            (image, "A = Conv (X, Wdead)  R = Relu (A)  Y = Conv (R, W)"),
        ):  # fmt: skip
            yield _example(output, body)
        for output, body in (
            (image, "A = Conv (X, W)  C = Clip (A, zero, six)  Y = Conv (C, W)"),
            ("float[1,4,6,6] Y",
             "A = Conv (X, W)  R = Relu (A)  P = Conv (R, W1)  Y = Add (P, R)"),
            (image, "A = Conv (X, We)  R = Relu (A)  Y = Conv (R, We)"),
        ):  # fmt: skip
            yield _example(output, body, fires=False)


def _example(output: str, body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)

    def uneven(*shape: int) -> F32:
        first = 2.0 ** rng.integers(-4, 4, (shape[0], *[1] * (len(shape) - 1)))
        return (rng.standard_normal(shape) * first).astype(np.float32)

    dead = uneven(4, 4, 3, 3)
    dead[1] = 0
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[1,4,8,8] X) => ({output}) {{ {body} }}",
        W=uneven(4, 4, 3, 3), Wd=uneven(4, 1, 3, 3), Wdead=dead, B=uneven(4), M=uneven(4, 4),
        W1=uneven(4, 4, 1, 1), Mlong=uneven(36, 4), We=np.ones((4, 4, 3, 3), np.float32),
        zero=np.zeros((), np.float32), six=np.full((), 6, np.float32),
    )  # fmt: skip
    feeds = {"X": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)}
    return Example(model, feeds, fires=fires)


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Output channel i of first is read as inputs [i * spread, (i + 1) * spread) of second."""

    first: ir.Node
    second: ir.Node
    spread: int


def _pair(node: ir.Node) -> _Pair | str:
    """Follow the output of node to the next layer; return the pair or why there is none."""
    view = editable(node)
    if isinstance(view, str):
        return view
    value, axis = view.output, channel_axis(view)
    channels, spread = view.weight.shape[0], 1
    while (reader := sole_consumer(value)) is not None:
        if is_op(reader, "Conv", "Gemm", "MatMul"):
            return _joined(node, reader, value, axis, spread)
        if is_op(reader, "Flatten", "Reshape"):
            merged = _flattened(value, reader.outputs[0], axis, channels)
            if merged is None:
                return f"{label(reader)} moves its channels"
            spread, axis = merged, 1
        elif not is_op(reader, *HOMOGENEOUS) or ("Pool" in reader.op_type and axis != 1):
            return f"{label(reader)} does not scale with its input"
        value = reader.outputs[0]
    return "its output is a result or has several readers"


def _flattened(before: ir.Value, after: ir.Value, axis: int | None, channels: int) -> int | None:
    """Return the inputs per channel when [n, c, ...] becomes [n, c * ...], else None."""
    old, new = static_shape(before), static_shape(after)
    if old is None or new is None or axis != 1 or len(new) != 2 or new[0] != old[0]:
        return None
    return new[1] // channels


def _joined(
    first: ir.Node, second: ir.Node, value: ir.Value, axis: int | None, spread: int
) -> _Pair | str:
    view, shape = editable(second), static_shape(value)
    if isinstance(view, str):
        return f"{label(second)} after it: {view}"
    wanted = 1 if second.op_type == "Conv" else len(shape or ()) - 1
    if shape is None or second.inputs[0] is not value or axis != wanted:
        return f"{label(second)} contracts another axis"
    if second.attributes.get_int("transA", 0):
        return f"{label(second)} transposes its input"
    return _Pair(first, second, spread)


def _view(node: ir.Node) -> LinearView:
    view = editable(node)
    assert isinstance(view, LinearView)
    return view


def _weight(node: ir.Node) -> F64:
    """Return the weight [out, in, ...] with Gemm's alpha folded in."""
    return _view(node).weight.astype(np.float64) * gemm_factors(node)[0]


def _output_ranges(weight: F64) -> F64:
    return np.abs(weight.reshape(weight.shape[0], -1)).max(axis=1)


def _by_input(weight: F64, groups: int, spread: int) -> F64:
    """Return weight as a view [groups, out / group, channels / group, rest]."""
    channels = weight.shape[1] // spread
    return weight.reshape(groups, weight.shape[0] // groups, channels, -1)


def _groups(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1


def _input_ranges(weight: F64, pair: _Pair) -> F64:
    by_input = _by_input(weight, _groups(pair.second), pair.spread)
    return np.abs(by_input).max(axis=(1, 3)).reshape(-1)


def _dead(pair: _Pair) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    first = _output_ranges(_weight(pair.first))
    second = _input_ranges(_weight(pair.second), pair)
    return (first <= DEAD * first.max()) | (second <= DEAD * second.max())


def _factors(pairs: Sequence[_Pair], sweeps: int) -> list[F64]:
    """Return s of every pair after sweeping all of them until nothing moves."""
    weights = {n: _weight(n) for p in pairs for n in (p.first, p.second)}
    dead = [_dead(pair) for pair in pairs]
    total = [np.ones(len(d)) for d in dead]
    for _ in range(sweeps):
        moved = 0.0
        for index, pair in enumerate(pairs):
            first, second = weights[pair.first], weights[pair.second]
            r1, r2 = _output_ranges(first), _input_ranges(second, pair)
            alive = ~dead[index]
            s = np.ones_like(r1)
            s[alive] = np.sqrt(r1[alive] / r2[alive])
            first /= s.reshape(-1, *[1] * (first.ndim - 1))
            groups = _groups(pair.second)
            scaled = _by_input(second, groups, pair.spread) * s.reshape(groups, 1, -1, 1)
            weights[pair.second] = scaled.reshape(second.shape)
            total[index] = total[index] * s
            moved = max(moved, float(np.abs(np.log(s)).max()))
        if moved < EVEN / 10:
            break
    return total


def _apply(pair: _Pair, factor: F64) -> str | None:
    """Write one pair's factors into the weights, or say why they stay."""
    if np.abs(np.log(factor)).max() < EVEN:
        return "its channels are even already"
    inputs = np.repeat(factor, pair.spread)
    reason = rescale(_view(pair.first), 1 / factor, 0.0)
    return reason or absorb_input(_view(pair.second), inputs, np.zeros_like(inputs))
