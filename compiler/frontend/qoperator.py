"""Rewrite already quantised operators as DequantizeLinear -> float operator -> QuantizeLinear.

Encodings are kept exactly, so later stages see one quantised form. Where a model quantises its
activations at run time, the weights keep their encoding and the activation becomes float: its
range is then calibrated like that of any float model, and the note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..core.errors import ModelError
from ..core.graph import label, sole_consumer, tensor_of
from ..core.passbase import Note, Outcome
from .opset import PER_AXIS_OPSET
from .qdq import DeclinedError, Operand, Rewriter, operand, quantised_output
from .shapes import infer_shapes

MS = "com.microsoft"
_STATIC = "rewritten as DequantizeLinear -> {} -> QuantizeLinear; encodings kept"
_DYNAMIC = (
    "rewritten as {} with the weight behind DequantizeLinear, its encoding kept; the activation "
    "was quantised at run time and is now float, to be calibrated"
)

Rule = Callable[[ir.Node, Rewriter], str]


def rewrite_qoperators(model: ir.Model) -> Outcome:
    """Rewrite every QOperator of model in place and say which were left alone and why."""
    changed: list[Note] = []
    while True:
        outcome = _round(model)
        changed += outcome.changed
        if not outcome.changed:
            return Outcome(changed, outcome.declined)
        # ONNX cannot infer through com.microsoft; each round makes more types known to the next.
        if problems := infer_shapes(model):
            raise ModelError(problems)


def _round(model: ir.Model) -> Outcome:
    changed: list[Note] = []
    declined: list[Note] = []
    opset = model.opset_imports.get("", 0)
    rewriter = Rewriter(model.graph)
    for node in [n for n in model.graph if (n.domain, n.op_type) in RULES]:
        where, rewriter.anchor = label(node), node
        try:
            if opset < PER_AXIS_OPSET:
                raise DeclinedError(f"opset {opset} has no per-axis encodings; 13 is the first")
            changed.append(Note(where, RULES[node.domain, node.op_type](node, rewriter)))
        except DeclinedError as reason:
            declined.append(Note(where, str(reason)))
    return Outcome(changed, declined)


def _attributes(node: ir.Node, *names: str) -> dict[str, ir.Attr]:
    return {name: node.attributes[name] for name in names if name in node.attributes}


def _refuse_channels_last(node: ir.Node) -> None:
    if node.attributes.get_int("channels_last", 0):
        raise DeclinedError("channels_last=1 has no standard ONNX form; export channels first")


def _unary(op_type: str, *attributes: str) -> Rule:
    def rule(node: ir.Node, rw: Rewriter) -> str:
        _refuse_channels_last(node)
        x = operand(node, 0, 1, 2)
        y = quantised_output(node, 3, 4, x)
        rw.replace(node, op_type, [rw.dequantise(x)], _attributes(node, *attributes), y)
        return _STATIC.format(op_type)

    return rule


def _binary(op_type: str) -> Rule:
    def rule(node: ir.Node, rw: Rewriter) -> str:
        a, b = operand(node, 0, 1, 2), operand(node, 3, 4, 5)
        y = quantised_output(node, 6, 7, a)
        rw.replace(node, op_type, [rw.dequantise(a), rw.dequantise(b)], {}, y)
        return _STATIC.format(op_type)

    return rule


def _softmax(node: ir.Node, rw: Rewriter) -> str:
    x = operand(node, 0, 1, 2)
    rank = len(x.value.shape) if x.value.shape is not None else 0
    axis = node.attributes.get_int("axis", -1)
    if node.attributes.get_int("opset", 13) < 13 and axis not in (-1, rank - 1):
        raise DeclinedError(
            f"axis={axis} flattens the input (opset < 13), which Softmax no longer does"
        )
    y = quantised_output(node, 3, 4, x)
    attributes = {"axis": ir.AttrInt64("axis", axis)}
    rw.replace(node, "Softmax", [rw.dequantise(x)], attributes, y)
    return _STATIC.format("Softmax")


def _where(node: ir.Node, rw: Rewriter) -> str:
    condition = node.inputs[0]
    x, y = operand(node, 1, 2, 3), operand(node, 4, 5, 6)
    z = quantised_output(node, 7, 8, x)
    rw.replace(node, "Where", [condition, rw.dequantise(x), rw.dequantise(y)], {}, z)
    return _STATIC.format("Where")


def _concat(node: ir.Node, rw: Rewriter) -> str:
    parts = [operand(node, i, i + 1, i + 2) for i in range(2, len(node.inputs), 3)]
    y = quantised_output(node, 0, 1, parts[0])
    inputs = [rw.dequantise(part) for part in parts]
    rw.replace(node, "Concat", inputs, _attributes(node, "axis"), y)
    return _STATIC.format("Concat")


_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _qlinear_conv(node: ir.Node, rw: Rewriter) -> str:
    _refuse_channels_last(node)
    x, w = operand(node, 0, 1, 2), operand(node, 3, 4, 5, axis=0)
    y = quantised_output(node, 6, 7, x)
    inputs = [rw.dequantise(x), rw.dequantise(w)]
    bias = node.inputs[8] if len(node.inputs) > 8 else None
    if bias is not None:
        inputs.append(rw.dequantise(Operand(bias, x.scale * w.scale, None, 0)))
    rw.replace(node, "Conv", inputs, _attributes(node, *_CONV), y)
    return _STATIC.format("Conv")


def _qlinear_matmul(node: ir.Node, rw: Rewriter) -> str:
    a, b = operand(node, 0, 1, 2), operand(node, 3, 4, 5, axis=-1)
    y = quantised_output(node, 6, 7, a)
    rw.replace(node, "MatMul", [rw.dequantise(a), rw.dequantise(b)], {}, y)
    return _STATIC.format("MatMul")


def _qgemm(node: ir.Node, rw: Rewriter) -> str:
    transposed = node.attributes.get_int("transB", 0) == 1
    a, b = operand(node, 0, 1, 2), operand(node, 3, 4, 5, axis=0 if transposed else 1)
    inputs = node.inputs
    quantised = len(inputs) > 7 and inputs[7] is not None
    y = quantised_output(node, 7, 8, a) if quantised else None
    bias = inputs[6] if len(inputs) > 6 else None
    alpha = np.float32(node.attributes.get_float("alpha", 1.0))
    c = None if bias is None else Operand.checked(bias, alpha * a.scale * b.scale, None, -1)
    floats = [rw.dequantise(a), rw.dequantise(b)] + ([rw.dequantise(c)] if c else [])
    rw.replace(node, "Gemm", floats, _attributes(node, "alpha", "transA", "transB"), y)
    return _STATIC.format("Gemm") if quantised else "rewritten as DequantizeLinear -> Gemm"


def _dynamic_quantize_matmul(node: ir.Node, rw: Rewriter) -> str:
    weight = operand(node, 1, 2, 3, axis=-1)
    _float_matmul(node, rw, node.inputs[0], weight, 4)
    return _DYNAMIC.format("MatMul")


def _matmul_integer_to_float(node: ir.Node, rw: Rewriter) -> str:
    weight = operand(node, 1, 3, 5, axis=-1)
    source = _dynamic_source(node.inputs[0], node.inputs[2])
    if source is not None:
        _float_matmul(node, rw, source, weight, 6)
        return _DYNAMIC.format("MatMul")
    a = operand(node, 0, 2, 4)
    _float_matmul(node, rw, rw.dequantise(a), weight, 6)
    return "rewritten as DequantizeLinear -> MatMul; encodings kept"


def _float_matmul(
    node: ir.Node, rw: Rewriter, a: ir.Value | None, weight: Operand, bias_index: int
) -> None:
    bias = node.inputs[bias_index] if len(node.inputs) > bias_index else None
    inputs = [a, rw.dequantise(weight)]
    if bias is None:
        rw.replace(node, "MatMul", inputs, {}, None)
    else:
        product = rw.insert("MatMul", inputs, {}, f"{node.outputs[0].name}.product")
        rw.replace(node, "Add", [product, bias], {}, None)


@dataclass(frozen=True, slots=True)
class _Chain:
    """MatMulInteger or ConvInteger with the Cast and Mul that make its result real again."""

    source: ir.Value  # the float activation before DynamicQuantizeLinear
    weight: Operand
    last: ir.Node  # the Mul


def _integer_chain(op_type: str, axis: int) -> Rule:
    def rule(node: ir.Node, rw: Rewriter) -> str:
        chain = _chain(node, axis)
        inputs = [chain.source, rw.dequantise(chain.weight)]
        attributes = _attributes(node, *_CONV) if op_type == "Conv" else {}
        rw.replace(chain.last, op_type, inputs, attributes, None)
        return _DYNAMIC.format(op_type)

    return rule


def _chain(node: ir.Node, axis: int) -> _Chain:
    cast = sole_consumer(node.outputs[0])
    if cast is None or cast.op_type != "Cast":
        raise DeclinedError("its integer result is not simply cast to float")
    if cast.attributes.get_int("to", 0) != int(ir.DataType.FLOAT):
        raise DeclinedError("its integer result is not cast to float32")
    last = sole_consumer(cast.outputs[0])
    if last is None or last.op_type != "Mul":
        raise DeclinedError("its result is not multiplied by the scales")
    factor = last.inputs[1] if last.inputs[0] is cast.outputs[0] else last.inputs[0]
    scales = factor.producer() if factor is not None else None
    if scales is None or scales.op_type != "Mul":
        raise DeclinedError("its scales are not the product of an input and a weight scale")
    for own, other in (scales.inputs, tuple(reversed(scales.inputs))):
        source = _dynamic_source(node.inputs[0], own)
        scale = tensor_of(other)
        if source is not None and scale is not None:
            zero = node.inputs[3] if len(node.inputs) > 3 else None
            return _Chain(source, _chain_weight(node, scale, zero, axis), last)
    raise DeclinedError(
        "its input does not come from DynamicQuantizeLinear with a constant weight scale"
    )


def _chain_weight(node: ir.Node, scale: Any, zero: ir.Value | None, axis: int) -> Operand:
    value = node.inputs[1]
    if value is None or tensor_of(value) is None:
        raise DeclinedError("its weight is not constant")
    zero_point = tensor_of(zero)
    if zero is not None and zero_point is None:
        raise DeclinedError("its weight zero point is not constant")
    return Operand.checked(value, scale, zero_point, axis)


def _dynamic_source(quantised: ir.Value | None, scale: ir.Value | None) -> ir.Value | None:
    """Return the float input of the DynamicQuantizeLinear that made both, or None."""
    producer = quantised.producer() if quantised is not None else None
    if producer is None or producer.op_type != "DynamicQuantizeLinear":
        return None
    return producer.inputs[0] if scale is producer.outputs[1] else None


RULES: Mapping[tuple[str, str], Rule] = {
    ("", "QLinearConv"): _qlinear_conv,
    (MS, "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "MatMulInteger"): _integer_chain("MatMul", -1),
    ("", "ConvInteger"): _integer_chain("Conv", 0),
    (MS, "QLinearAdd"): _binary("Add"),
    (MS, "QLinearMul"): _binary("Mul"),
    (MS, "QLinearSigmoid"): _unary("Sigmoid"),
    (MS, "QLinearLeakyRelu"): _unary("LeakyRelu", "alpha"),
    (MS, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (MS, "QLinearAveragePool"): _unary(
        "AveragePool",
        "auto_pad",
        "ceil_mode",
        "count_include_pad",
        "kernel_shape",
        "pads",
        "strides",
    ),
    (MS, "QLinearSoftmax"): _softmax,
    (MS, "QLinearWhere"): _where,
    (MS, "QLinearConcat"): _concat,
    (MS, "QGemm"): _qgemm,
    (MS, "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    (MS, "MatMulIntegerToFloat"): _matmul_integer_to_float,
}
