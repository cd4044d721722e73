"""Move a constant Pad into the Conv, AveragePool or MaxPool that reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32
from ..compiler.core.graph import constant, label, model_from_text, sole_consumer, tensor_of
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes, bypass, is_op, nodes, scalar, static_shape


@dataclass(frozen=True, slots=True)
class FusePad:
    """Fuse a Pad of spatial axes whose value the window operator pads with anyway."""

    name: ClassVar[str] = "fuse_pad"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Fuse every Pad where that is exact."""
        notes = Notes()
        for pad in nodes(model, "Pad"):
            where, reason = label(pad), _fuse(pad)
            notes.add(where, "fused into the window of its reader", reason)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Each reader, with pads of its own; and readers that pad with something else."""
        average = "AveragePool <kernel_shape = [3, 3]"
        for size, body in (
            (7, "P = Pad (X, around)  Y = Conv (P, W)"),
            (8, "P = Pad (X, corner, zero, axes)  Y = Conv <pads = [1, 0, 0, 1]> (P, W)"),
            (7, f"P = Pad (X, around, zero)  Y = {average}> (P)"),
            (9, f"P = Pad (X, around)  Y = {average}, count_include_pad = 1, "
                "pads = [1, 1, 1, 1]> (P)"),
            (7, "R = Relu (X)  P = Pad (R, around)  Y = MaxPool <kernel_shape = [3, 3]> (P)"),
            (7, "P = Pad (X, around, lowest)  Y = MaxPool <kernel_shape = [3, 3]> (P)"),
        ):  # fmt: skip
            yield _example(size, body)
        for size, body in (
            (7, "P = Pad (X, around)  Y = MaxPool <kernel_shape = [3, 3]> (P)"),
            (7, "N = Neg (X)  P = Pad (N, around)  Y = MaxPool <kernel_shape = [3, 3]> (P)"),
            (9, f"P = Pad (X, around)  Y = {average}, pads = [1, 1, 1, 1]> (P)"),
            (7, 'P = Pad <mode = "edge"> (X, around)  Y = Conv (P, W)'),
            (7, "P = Pad (X, around, one)  Y = Conv (P, W)"),
        ):
            yield _example(size, body, fires=False)


def _example(size: int, body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[1,2,7,7] X) => (float[1,2,{size},{size}] Y) {{ {body} }}",
        W=normal(2, 2, 3, 3), around=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        corner=np.array([1, 0, 1, 2]), axes=np.array([2, 3]), zero=np.zeros((), np.float32),
        one=np.ones((), np.float32), lowest=np.full((), -np.inf, np.float32),
    )  # fmt: skip
    return Example(model, {"X": normal(1, 2, 7, 7)}, fires=fires)


def _fuse(pad: ir.Node) -> str | None:
    """Fuse pad into its reader, or return why it was left alone."""
    amounts, reader = _spatial_pads(pad), sole_consumer(pad.outputs[0])
    if isinstance(amounts, str):
        return amounts
    if reader is None or not is_op(reader, "Conv", "AveragePool", "MaxPool"):
        return "its reader is not a single Conv, AveragePool or MaxPool"
    if reader.inputs[0] is not pad.outputs[0]:
        return "it does not feed the activation of its reader"
    if reader.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "the window of its reader is not written out"
    own = list(reader.attributes.get_ints("pads", [0] * len(amounts)))
    reason = _inexact(pad, reader, own, amounts)
    if reason:
        return reason
    reader.attributes.pop("auto_pad", None)
    reader.attributes.add(ir.AttrInt64s("pads", [a + b for a, b in zip(own, amounts, strict=True)]))
    if reader.op_type == "AveragePool":
        reader.attributes.add(ir.AttrInt64("count_include_pad", 1))
    return bypass(pad, 0)


def _spatial_pads(pad: ir.Node) -> list[int] | str:
    """Return the begins then ends of the axes after batch and channel, or why there are none."""
    shape, amounts = static_shape(pad.inputs[0]), tensor_of(pad.inputs[1])
    if shape is None or amounts is None or len(shape) < 3:
        return "its amounts or its shape are not static"
    if pad.attributes.get_string("mode", "constant") != "constant":
        return "it does not pad with a constant"
    axes = tensor_of(pad.inputs[3]) if len(pad.inputs) > 3 else None
    if axes is None:
        axes = np.arange(len(shape))
    full = np.zeros((2, len(shape)), np.int64)
    full[:, axes % len(shape)] = amounts.reshape(2, -1)
    if full[:, :2].any() or full.min() < 0:
        return "it crops, or pads batch or channels"
    return [int(n) for n in full[:, 2:].reshape(-1)]


def _inexact(pad: ir.Node, reader: ir.Node, own: Sequence[int], more: Sequence[int]) -> str | None:
    """Return why reader would not compute the same with more padding of its own."""
    value = _pad_value(pad)
    if reader.op_type == "MaxPool":
        return _inexact_max(pad, reader, value, [a + b for a, b in zip(own, more, strict=True)])
    if value != 0:
        return f"it pads with {value}, its reader with 0"
    if reader.op_type == "Conv":
        return None
    if any(own) and not reader.attributes.get_int("count_include_pad", 0):
        return "its reader does not count its own padding"
    if reader.attributes.get_int("ceil_mode", 0):
        return "its reader rounds its size up"
    return None


def _inexact_max(pad: ir.Node, reader: ir.Node, value: float | None, pads: list[int]) -> str | None:
    kernel = list(reader.attributes.get_ints("kernel_shape", ()))
    if any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        return "a window of its reader would lie in the padding alone"
    if reader.attributes.get_int("ceil_mode", 0) or len(reader.outputs) > 1:
        return "its reader rounds its size up or returns indices"
    source = pad.inputs[0]
    producer = source.producer() if source is not None else None
    lowest = value == -np.inf
    if lowest or (value == 0 and producer is not None and _not_negative(producer)):
        return None
    return "its reader pads with the lowest number, which could win or lose against this value"


def _pad_value(pad: ir.Node) -> float | None:
    """Return the number that pad writes, or None if it is not constant."""
    given = pad.inputs[2] if len(pad.inputs) > 2 else None
    return 0.0 if given is None else scalar(given)


def _not_negative(node: ir.Node) -> bool:
    if is_op(node, "Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs"):
        return True
    low = constant(node.inputs[1]) if is_op(node, "Clip") and len(node.inputs) > 1 else None
    return low is not None and float(low.min()) >= 0
