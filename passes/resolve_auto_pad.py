"""Write kernel_shape, strides, dilations and pads out, and resolve auto_pad into pads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32
from ..compiler.core.graph import label, model_from_text
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes, nodes, static_shape


@dataclass(frozen=True, slots=True)
class ResolveAutoPad:
    """Give Conv, MaxPool and AveragePool explicit windows, so that nothing later has to guess."""

    name: ClassVar[str] = "resolve_auto_pad"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Write out the window of every convolution and pooling."""
        notes = Notes()
        for node in nodes(model, "Conv", "MaxPool", "AveragePool"):
            wanted = _window(node)
            if isinstance(wanted, str):
                notes.add(label(node), "", wanted)
            elif _write(node, wanted):
                notes.add(label(node), f"window written out: {wanted}", None)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Every mode, odd sizes, strides and dilations; and pooling that rounds up."""
        for output, body in (
            ("float[1,2,4,3] Y", 'Conv <auto_pad = "SAME_UPPER", strides = [2, 3]> (X, W)'),
            ("float[1,2,4,3] Y", 'Conv <auto_pad = "SAME_LOWER", strides = [2, 3]> (X, W)'),
            ("float[1,2,7,8] Y", 'Conv <pads = [2, 1, 2, 1], dilations = [2, 1]> (X, W)'),
            ("float[1,2,5,6] Y", 'Conv <auto_pad = "VALID"> (X, W)'),
            ("float[1,2,5,6] Y", "Conv (X, W)"),
            ("float[1,2,4,4] Y", 'MaxPool <auto_pad = "SAME_LOWER", kernel_shape = [2, 3],'
                                 " strides = [2, 2]> (X)"),
            ("float[1,2,4,4] Y", 'AveragePool <auto_pad = "SAME_UPPER", kernel_shape = [3, 3],'
                                 " strides = [2, 2]> (X)"),
        ):  # fmt: skip
            yield _example(output, body)
        rounding = 'MaxPool <auto_pad = "VALID", kernel_shape = [3, 3], ceil_mode = 1> (X)'
        yield _example("float[1,2,5,6] Y", rounding, fires=False)


def _example(output: str, body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[1,2,7,8] X) => ({output}) {{ Y = {body} }}",
        W=normal(2, 2, 3, 3),
    )
    return Example(model, {"X": normal(1, 2, 7, 8)}, fires=fires)


def _window(node: ir.Node) -> dict[str, list[int]] | str:
    """Return the explicit window attributes of node, or why they cannot be known."""
    kernel = _kernel(node)
    if kernel is None:
        return "its kernel shape is not static"
    ones = [1] * len(kernel)
    strides = list(node.attributes.get_ints("strides", ones))
    dilations = list(node.attributes.get_ints("dilations", ones))
    pads = list(node.attributes.get_ints("pads", [0] * (2 * len(kernel))))
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "VALID":
        if node.attributes.get_int("ceil_mode", 0):
            return "auto_pad VALID with ceil_mode has no explicit form"
        pads = [0] * (2 * len(kernel))
    elif mode != "NOTSET":
        shape = static_shape(node.inputs[0])
        if shape is None:
            return f"auto_pad {mode} needs a static input shape"
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = _same_pads(shape[2:], reach, strides, upper=mode == "SAME_UPPER")
    return {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def _kernel(node: ir.Node) -> list[int] | None:
    written = node.attributes.get_ints("kernel_shape", ())
    if written:
        return list(written)
    weight = static_shape(node.inputs[1]) if node.op_type == "Conv" else None
    return None if weight is None else list(weight[2:])


def _same_pads(
    size: Sequence[int], reach: Sequence[int], strides: Sequence[int], upper: bool
) -> list[int]:
    """Return the pads, begins then ends, that make the output ceil(size / stride)."""
    begins: list[int] = []
    ends: list[int] = []
    for n, r, s in zip(size, reach, strides, strict=True):
        total = max((-(-n // s) - 1) * s + r - n, 0)
        less, more = total // 2, total - total // 2
        begins.append(less if upper else more)
        ends.append(more if upper else less)
    return begins + ends


def _write(node: ir.Node, wanted: dict[str, list[int]]) -> bool:
    """Set the attributes that differ and drop auto_pad; return whether anything changed."""
    changed = False
    for key, ints in wanted.items():
        if list(node.attributes.get_ints(key, ())) != ints:
            node.attributes.add(ir.AttrInt64s(key, ints))
            changed = True
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if node.attributes.pop("auto_pad", None) is not None:
        changed = True
    if mode.startswith("SAME") and node.attributes.pop("ceil_mode", None) is not None:
        changed = True  # auto_pad overrides it: the output size is ceil(size / stride) either way
    return changed
