"""Bring a model to the opset the project works in: upwards only, in memory."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from ..core.errors import ModelError
from ..core.passbase import Note, Outcome
from .load import name_nodes
from .shapes import check, first_line, infer_shapes, with_weights, without_weights

WORKING_OPSET = 21  # 4-bit and blocked QuantizeLinear / DequantizeLinear
PER_AXIS_OPSET = 13  # the first whose QuantizeLinear / DequantizeLinear know an axis
NEWEST_OPSET = 28  # the last that ONNX Runtime 1.32 loads


def upgrade(model: ir.Model) -> Outcome:
    """Convert model in place to WORKING_OPSET, or as near as a converter comes; say what was done.

    Newer models stay as they are. If 21 fails, the lowest opset from 13 on that works is taken,
    then the original. Raises ModelError above NEWEST_OPSET.
    """
    before = model.opset_imports.get("", WORKING_OPSET)
    if before > NEWEST_OPSET:
        raise ModelError(
            f"opset {before} is newer than {NEWEST_OPSET}, the last that ONNX Runtime runs; "
            f"export the model with opset {WORKING_OPSET}"
        )
    if before >= WORKING_OPSET:
        return Outcome()
    failures: list[Note] = []
    for target in _targets(before):
        try:
            converted = _convert(model, target)
        except Exception as error:
            # The converter raises whatever its C++ side threw; the text is all there is.
            reason = f"conversion to opset {target} failed: {first_line(error)}"
            failures.append(Note("opset", reason))
            continue
        model.graph = converted.graph
        return Outcome([Note("opset", f"converted from {before} to {target}")], failures)
    return Outcome((), [*failures, Note("opset", f"stays at {before}")])


def _targets(before: int) -> Iterator[int]:
    yield WORKING_OPSET
    if before < PER_AXIS_OPSET:
        yield from range(PER_AXIS_OPSET, WORKING_OPSET)


def _convert(model: ir.Model, target: int) -> ir.Model:
    """Return a converted copy of model, checked.

    The C++ converter is used because onnxscript's knows no adapter below opset 18 and then
    restamps nodes whose attributes have become inputs.
    """
    plain = model.clone()
    functions = dict(plain.functions)
    plain.functions.clear()  # the converter drops them; ours import their own opset
    proto = onnx.version_converter.convert_version(without_weights(plain), target)
    converted = with_weights(proto, plain)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(converted)
    _same_interface(model, converted)
    name_nodes(converted)
    converted.functions.update(functions)
    if problems := check(converted) or infer_shapes(converted):
        raise ModelError(problems)
    return converted


def _same_interface(before: ir.Model, after: ir.Model) -> None:
    def interface(model: ir.Model) -> list[tuple[str | None, ir.DataType | None]]:
        return [(v.name, v.dtype) for v in [*model.graph.inputs, *model.graph.outputs]]

    if interface(before) != interface(after):
        raise ModelError("the converter changed the names or types of inputs or outputs")
