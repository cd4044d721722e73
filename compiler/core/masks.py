"""Means over the tokens that a mask keeps, written out: planning and lowering see them alike."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .graph import constant, sole_consumer, static_shape, tensor_of


@dataclass(frozen=True, slots=True, eq=False)
class MaskedMean:
    """sum(x * weight, axis 1) / sum(count, axis 1), the divisor perhaps limited from below.

    `x`: [batch, tokens, width]; `weight` and `count`: float masks that broadcast to it;
    `interior`: every other value on the way, read nowhere else.
    """

    x: ir.Value
    weight: ir.Value
    count: ir.Value
    interior: tuple[ir.Value, ...]

    @property
    def keep(self) -> ir.Value | None:
        """The booleans [batch, tokens, 1 or width] of a mask in canonical form, else None."""
        cast = self.weight.producer()
        source = None if cast is None or cast.op_type != "Cast" else cast.inputs[0]
        if source is None or self.weight is not self.count:
            return None
        return source if source.dtype == ir.DataType.BOOL else None


def masked_mean(node: ir.Node) -> MaskedMean | None:
    """Return the parts of a mean over kept tokens that node, a Div, completes, else None."""
    if node.op_type != "Div":
        return None
    top, bottom = node.inputs
    total, divisor = _sum_over_tokens(top), _unlimited(bottom)
    counted = _sum_over_tokens(divisor)
    product = None if total is None else total.producer()
    if total is None or counted is None or product is None or product.op_type != "Mul":
        return None
    interior = [v for v in dict.fromkeys((top, total, bottom, divisor)) if v is not None]
    if any(sole_consumer(v) is None for v in interior):
        return None
    for x, weight in (tuple(product.inputs), tuple(reversed(product.inputs))):
        if x is not None and weight is not None and _mask_of(weight, x):
            return MaskedMean(x, weight, counted, tuple(interior))
    return None


def _sum_over_tokens(value: ir.Value | None) -> ir.Value | None:
    """Return v if value is the sum of v [batch, tokens, width] over its tokens."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "ReduceSum" or len(node.inputs) != 2:
        return None
    axes, shape = tensor_of(node.inputs[1]), static_shape(node.inputs[0])
    if axes is None or shape is None or len(shape) != 3:
        return None
    return node.inputs[0] if [int(a) % 3 for a in axes.reshape(-1)] == [1] else None


def _unlimited(value: ir.Value | None) -> ir.Value | None:
    """Return v if value is v limited to at least a number in [0, 1], else value itself."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in ("Clip", "Max"):
        return value
    inputs = [v for v in node.inputs if v is not None]
    if len(inputs) != 2:
        return value
    for limited, least in (inputs, inputs[::-1])[: 1 if node.op_type == "Clip" else 2]:
        number = constant(least)
        if number is not None and number.size == 1 and 0 <= float(number.reshape(-1)[0]) <= 1:
            return limited
    return value


def _mask_of(weight: ir.Value, x: ir.Value) -> bool:
    """True if weight holds one number per token of x, perhaps repeated, made from integers."""
    mine, whole = static_shape(weight), static_shape(x)
    if mine is None or whole is None or len(mine) != 3 or len(whole) != 3:
        return False
    return mine[:2] == whole[:2] and mine[2] in (1, whole[2]) and mask_cast(weight) is not None


def mask_cast(value: ir.Value) -> tuple[ir.Node, tuple[ir.Node, ...]] | None:
    """Return (Cast from integers or booleans, movement after it) that makes value, else None."""
    moves: list[ir.Node] = []
    node = value.producer()
    while node is not None and node.op_type in ("Unsqueeze", "Squeeze", "Reshape", "Expand"):
        moves.insert(0, node)
        source = node.inputs[0]
        node = None if source is None else source.producer()
    if node is None or node.op_type != "Cast" or node.inputs[0] is None:
        return None
    dtype = node.inputs[0].dtype
    integral = dtype == ir.DataType.BOOL or (dtype is not None and dtype.is_integer())
    return (node, tuple(moves)) if integral and value.dtype == ir.DataType.FLOAT else None
