"""The quantised model in double precision: ONNX Runtime without float32's roundings.

A quantised model says `round(real / scale)` at every layer. ONNX Runtime evaluates `real` in
float32, so a result within float32's error of a half goes either way, and one such near-tie early
in a network is many steps at its end. Here the same graph is written so that ONNX Runtime computes
it in double: what is left of a distance is then the compiler's, not float32's.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass, ShapeInferencePass

from ..core.encoding import F64
from ..core.graph import add_constant, static_shape, take_over, tensor_of

_DOUBLE = ir.DataType.DOUBLE
_FLOAT = ir.DataType.FLOAT
# Operators that ONNX Runtime's CPU provider has in double; all others keep float32.
_IN_DOUBLE = frozenset(
    {
        "Abs", "Add", "Clip", "Concat", "Cos", "DepthToSpace", "Div", "Einsum", "Exp", "Expand",
        "Flatten", "Gather", "Gemm", "Identity", "LayerNormalization", "Log", "LogSoftmax",
        "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Pad", "Pow", "Reciprocal", "ReduceMax",
        "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Sin", "Slice",
        "Softmax", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "Transpose",
        "Unsqueeze", "Where",
    }
)  # fmt: skip
# float32 holds every integer below this, so sums that stay below are exact in any order.
_EXACT_BELOW = 2**24
# Weight codes are cut into digits of this base where their sums would not stay below.
_DIGIT = 16


@dataclass(frozen=True, slots=True)
class _Codes:
    """Integers less their zero point, as double, and what one of them is worth."""

    value: ir.Value
    scale: F64
    largest: int


def in_double(model: ir.Model) -> ir.Model:
    """Return a copy of a QDQ model that computes in double where ONNX Runtime can.

    Names and types of inputs and outputs are kept. Convolutions, which ONNX Runtime has in float32
    only, run on integer codes, whose sums float32 holds exactly, and are scaled in double.
    """
    copy = model.clone()
    if copy.functions:
        InlinePass()(copy)
        ShapeInferencePass()(copy)  # what is inlined has no types yet
    rewriter = _Rewriter(copy.graph)
    for node in list(copy.graph):
        rewriter.rewrite(node)
    rewriter.finish()
    RemoveUnusedNodesPass()(copy)
    return copy


class _Rewriter:
    """Writes a double beside every float32 value, in graph order."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.doubles: dict[ir.Value, ir.Value] = {}
        self.codes: dict[ir.Value, _Codes] = {}
        self.anchor: ir.Node | None = None
        self.names = (f"double.{index}" for index in itertools.count())

    def rewrite(self, node: ir.Node) -> None:
        """Add node's computation in double, or let node itself read float32."""
        self.anchor = node
        out = node.outputs[0]
        if node.op_type == "DequantizeLinear" and _is_plain(node):
            self._dequantise(node)
        elif node.op_type == "QuantizeLinear" and _is_plain(node):
            take_over(out, self._quantise(node))
        elif node.op_type == "Conv" and (answer := self._conv(node)) is not None:
            self.doubles[out] = answer
        elif node.op_type == "GlobalAveragePool" or _covers_its_input(node):
            self.doubles[out] = self._mean(node)
        elif node.op_type in _IN_DOUBLE and _makes_float(node):
            self._again(node)
        else:
            self._as_it_is(node)

    def finish(self) -> None:
        """Give float32 graph outputs their double's value."""
        self.anchor = None
        for value in list(self.graph.outputs):
            if value in self.doubles:
                take_over(value, self._op("Cast", self.doubles[value], to=int(_FLOAT)))

    def _dequantise(self, node: ir.Node) -> None:
        out, source = node.outputs[0], node.inputs[0]
        scale, zero = self._per_axis(node, 1), self._per_axis(node, 2)
        assert source is not None and source.dtype is not None and scale is not None
        limits = np.iinfo(source.dtype.numpy())
        stored = tensor_of(source)
        if stored is not None:
            centred = np.asarray(stored, np.float64) - (0.0 if zero is None else zero)
            value, largest = self._constant(centred), int(np.abs(centred).max(initial=0.0))
        else:
            value = self._op("Cast", source, to=int(_DOUBLE))
            value = value if zero is None else self._op("Sub", value, self._constant(zero))
            largest = int(limits.max) - int(limits.min)
        self.codes[out] = _Codes(value, scale, largest)
        self.doubles[out] = self._op("Mul", value, self._constant(scale))

    def _quantise(self, node: ir.Node) -> ir.Value:
        scale, zero = self._per_axis(node, 1), self._per_axis(node, 2)
        kind, source = node.outputs[0].dtype, node.inputs[0]
        assert kind is not None and source is not None and scale is not None
        limits = np.iinfo(kind.numpy())
        codes = self._op("Round", self._op("Div", self._double(source), self._constant(scale)))
        if zero is not None:
            codes = self._op("Add", codes, self._constant(zero))
        low, high = (self._constant(np.float64(end)) for end in (limits.min, limits.max))
        return self._op("Cast", self._op("Clip", codes, low, high), to=int(kind))

    def _conv(self, node: ir.Node) -> ir.Value | None:
        """Return the convolution of codes, scaled; None where its sums would not be exact."""
        data, weight = (self.codes.get(v) for v in node.inputs[:2] if v is not None)
        weights = None if weight is None else tensor_of(weight.value)
        if data is None or weight is None or weights is None or data.scale.size != 1:
            return None
        digits = _digits(np.asarray(weights, np.float64), data.largest)
        if digits is None:
            return None
        codes = self._op("Cast", data.value, to=int(_FLOAT))
        total: ir.Value | None = None
        for digit, worth in digits:
            sums = self._conv_node(node, codes, self._constant(digit.astype(np.float32)))
            part = self._op("Cast", sums, to=int(_DOUBLE))
            part = part if worth == 1 else self._op("Mul", part, self._constant(np.float64(worth)))
            total = part if total is None else self._op("Add", total, part)
        assert total is not None
        column = (1, -1, *[1] * (weights.ndim - 2))
        scale = (data.scale.reshape(-1) * weight.scale.reshape(-1)).reshape(column)
        answer = self._op("Mul", total, self._constant(scale))
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return answer
        shape = self._constant(np.asarray(column, np.int64))
        return self._op("Add", answer, self._op("Reshape", self._double(node.inputs[2]), shape))

    def _conv_node(self, node: ir.Node, codes: ir.Value, weights: ir.Value) -> ir.Value:
        return self._insert(ir.node("Conv", [codes, weights], attributes=node.attributes))

    def _mean(self, node: ir.Node) -> ir.Value:
        source = node.inputs[0]
        assert source is not None and source.shape is not None
        axes = list(range(2, len(source.shape)))
        inputs: list[ir.Value] = [self._double(source)]
        attributes: dict[str, Any] = {"keepdims": 1}
        if self.graph.opset_imports.get("", 0) >= 18:
            inputs.append(self._constant(np.asarray(axes, np.int64)))
        else:
            attributes["axes"] = axes
        return self._insert(ir.node("ReduceMean", inputs, attributes=attributes))

    def _again(self, node: ir.Node) -> None:
        """Add node once more, reading and making doubles."""
        inputs = [self._double(v) if v is not None and _is_float(v) else v for v in node.inputs]
        attributes = dict(node.attributes)
        again = ir.node(node.op_type, inputs, attributes=attributes, num_outputs=len(node.outputs))
        self._insert(again)
        for old, new in zip(node.outputs, again.outputs, strict=True):
            new.name = next(self.names)
            if _is_float(old):
                self.doubles[old] = new
            elif old.name:
                take_over(old, new)

    def _as_it_is(self, node: ir.Node) -> None:
        """Let node read float32 copies of what is computed in double."""
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.doubles:
                node.replace_input_with(
                    index, self._op("Cast", self.doubles[value], to=int(_FLOAT))
                )

    def _double(self, value: ir.Value) -> ir.Value:
        if value not in self.doubles:
            self.doubles[value] = self._op("Cast", value, to=int(_DOUBLE))
        return self.doubles[value]

    def _per_axis(self, node: ir.Node, index: int) -> F64 | None:
        """Return the scale or zero point of a (de)quantiser, shaped to broadcast to its input."""
        data = tensor_of(node.inputs[index]) if index < len(node.inputs) else None
        if data is None:
            return None
        values, source = np.asarray(data, np.float64), node.inputs[0]
        assert source is not None
        if values.size == 1 or source.shape is None:
            return values.reshape(())
        column = [1] * len(source.shape)
        column[node.attributes.get_int("axis", 1)] = values.size
        return values.reshape(column)

    def _constant(self, data: Any) -> ir.Value:
        return add_constant(self.graph, next(self.names), np.asarray(data))

    def _op(self, op_type: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        return self._insert(ir.node(op_type, inputs, attributes=attributes))

    def _insert(self, node: ir.Node) -> ir.Value:
        out = node.outputs[0]
        out.name = next(self.names)
        if self.anchor is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.anchor, node)
        return out


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == _FLOAT


def _is_plain(node: ir.Node) -> bool:
    """Whether a (de)quantiser has constants per tensor or per axis, and codes NumPy knows."""
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    if codes is None or codes.dtype is None or not codes.dtype.is_integer():
        return False
    scale = tensor_of(node.inputs[1])
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if scale is None or scale.dtype != np.float32 or (zero is not None and tensor_of(zero) is None):
        return False
    # Narrower codes have types whose limits NumPy does not tell.
    return codes.dtype.bitwidth >= 8 and not node.attributes.get_int("block_size", 0)


def _makes_float(node: ir.Node) -> bool:
    return any(_is_float(v) for v in node.outputs) and not any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for a in node.attributes.values()
    )


def _covers_its_input(node: ir.Node) -> bool:
    """Whether an AveragePool has one window, which is the whole input."""
    if node.op_type != "AveragePool":
        return False
    shape = static_shape(node.inputs[0])
    window = node.attributes.get_ints("kernel_shape", ())
    pads = node.attributes.get_ints("pads", ())
    return shape is not None and tuple(window) == shape[2:] and not any(pads)


def _digits(weights: F64, largest: int) -> list[tuple[F64, int]] | None:
    """Cut weights [out, ...] into digits and their worth, so that each one's sums are exact.

    `largest`: magnitude of the data. None where even single digits would not be exact.
    """
    found: list[tuple[F64, int]] = []
    worth, rest = 1, weights
    while True:
        axes = tuple(range(1, weights.ndim))
        if np.abs(rest).sum(axis=axes).max(initial=0.0) * largest < _EXACT_BELOW:
            return [*found, (rest, worth)]
        digit = rest - _DIGIT * np.round(rest / _DIGIT)
        if (
            not rest.any()
            or np.abs(digit).sum(axis=axes).max(initial=0.0) * largest >= _EXACT_BELOW
        ):
            return None
        found.append((digit, worth))
        worth, rest = worth * _DIGIT, np.round(rest / _DIGIT)
