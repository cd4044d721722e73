"""Insert QuantizeLinear and DequantizeLinear around float operators, encodings unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..core.encoding import F32
from ..core.graph import add_constant, fresh_name, remove_node, take_over, tensor_of

_QUANTISED = frozenset(
    {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT32}
)


class DeclinedError(Exception):
    """Why a node is left alone; raised before anything in the graph is touched."""


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """A quantised value with its constant encoding.

    `scale`, `zero`: [1] for the whole tensor or [channels] along `axis`; zero None means 0.
    """

    value: ir.Value
    scale: F32
    zero: NDArray[Any] | None
    axis: int

    @property
    def dtype(self) -> ir.DataType:
        """Type of the codes: that of the zero point where the value's own is not yet known."""
        if self.value.dtype is None and self.zero is not None:
            return ir.DataType.from_numpy(self.zero.dtype)
        return self.value.dtype or ir.DataType.UNDEFINED

    @staticmethod
    def checked(
        value: ir.Value, scale: NDArray[Any], zero: NDArray[Any] | None, axis: int | None
    ) -> Operand:
        """Return the operand; raises DeclinedError if its encoding has no QDQ form along axis."""
        if Operand(value, np.ones(1, np.float32), zero, 0).dtype not in _QUANTISED:
            raise DeclinedError(f"'{value.name}' has no known integer type")
        if axis is None and (scale.size > 1 or (zero is not None and zero.size > 1)):
            raise DeclinedError(f"'{value.name}' has more than one scale or zero point")
        flat = np.asarray(scale, np.float32).reshape(-1)
        zeros = None if zero is None else zero.reshape(-1)
        channels = max(flat.size, 1 if zeros is None else zeros.size)
        if channels > 1:
            size = None if value.shape is None or axis is None else value.shape[axis]
            if size != channels:
                raise DeclinedError(f"'{value.name}' has {channels} scales for {size} channels")
            flat = np.broadcast_to(flat, channels)
            zeros = None if zeros is None else np.broadcast_to(zeros, channels)
        return Operand(value, flat, zeros, 0 if axis is None else axis)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def operand(node: ir.Node, value: int, scale: int, zero: int, axis: int | None = None) -> Operand:
    """Return the operand whose parts are these inputs of node; raises DeclinedError."""
    quantised = _input(node, value)
    scales, zeros = tensor_of(_input(node, scale)), tensor_of(_input(node, zero))
    if quantised is None or scales is None:
        raise DeclinedError(f"the scale of input {value} is not constant")
    if _input(node, zero) is not None and zeros is None:
        raise DeclinedError(f"the zero point of input {value} is not constant")
    return Operand.checked(quantised, scales, zeros, axis)


def quantised_output(node: ir.Node, scale: int, zero: int, like: Operand) -> Operand:
    """Return the encoding of the output of node; without a zero point it is 0 of like's type."""
    scales, zeros = tensor_of(_input(node, scale)), tensor_of(_input(node, zero))
    if scales is None or (_input(node, zero) is not None and zeros is None):
        raise DeclinedError("the encoding of its output is not constant")
    if scales.size != 1:
        raise DeclinedError("its output has more than one scale")
    if zeros is None:
        zeros = np.zeros(1, like.dtype.numpy())
    return Operand(node.outputs[0], scales.reshape(-1).astype(np.float32), zeros.reshape(-1), 0)


@dataclass(slots=True)
class Rewriter:
    """Adds nodes before `anchor`; equal constants and equal dequantisations are made once."""

    graph: ir.Graph
    anchor: ir.Node | None = None
    _made: dict[tuple[Any, ...], ir.Value] = field(default_factory=dict[tuple[Any, ...], ir.Value])

    def constant(self, name: str, data: NDArray[Any]) -> ir.Value:
        """Return an initializer holding data, an earlier one if the content is the same."""
        key = (data.dtype.str, data.shape, data.tobytes())
        if key not in self._made or self._made[key].name not in self.graph.initializers:
            self._made[key] = add_constant(self.graph, name, data)
        return self._made[key]

    def dequantise(self, x: Operand) -> ir.Value:
        """Return the float value of x."""
        zero = b"" if x.zero is None else x.zero.tobytes()
        key = (x.value, x.scale.tobytes(), zero, x.axis)
        if key not in self._made:
            inputs, attributes = self._parameters(x)
            name = f"{x.value.name}.dequantised"
            self._made[key] = self.insert("DequantizeLinear", inputs, attributes, name)
        return self._made[key]

    def _parameters(self, x: Operand) -> tuple[list[ir.Value], dict[str, ir.Attr]]:
        """Return value, scale and zero point, scalars for a whole tensor, and the axis."""
        zero = x.zero
        if zero is None and x.dtype is not ir.DataType.INT32:
            zero = np.zeros(x.scale.shape, x.dtype.numpy())
        single = x.scale.size == 1
        named = {"scale": x.scale} if zero is None else {"scale": x.scale, "zero_point": zero}
        inputs = [x.value] + [
            self.constant(f"{x.value.name}.{part}", data.reshape(()) if single else data.copy())
            for part, data in named.items()
        ]
        if single or x.value.shape is None:
            return inputs, {}
        return inputs, {"axis": ir.AttrInt64("axis", x.axis % len(x.value.shape))}

    def insert(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr],
        name: str,
    ) -> ir.Value:
        """Add a node before the anchor and return its output, called name (made unique)."""
        name = fresh_name(self.graph, name)
        output = ir.Value(name=name)
        node = ir.Node("", op_type, inputs, attributes.values(), outputs=[output], name=name)
        assert self.anchor is not None
        self.graph.insert_before(self.anchor, node)
        return output

    def replace(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr],
        y: Operand | None,
    ) -> None:
        """Let op_type, quantised as y, stand for node; its output keeps its name."""
        old = node.outputs[0]
        name = str(old.name)
        if y is None:
            new = self.insert(op_type, inputs, attributes, f"{name}.float")
        else:
            real = self.insert(op_type, inputs, attributes, f"{name}.float")
            _, *parameters = self._parameters(y)[0]
            new = self.insert("QuantizeLinear", [real, *parameters], {}, f"{name}.quantised")
            new.type = ir.TensorType(y.dtype)
        take_over(old, new)
        _prune(node)
        new.name = name


def _prune(node: ir.Node) -> None:
    """Remove node if nothing reads it, then whatever only it read."""
    if node.graph is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
        return
    producers = [v.producer() for v in node.inputs if v is not None]
    remove_node(node)
    for producer in producers:
        if producer is not None:
            _prune(producer)
