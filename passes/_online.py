"""Where an orthogonal operator at run time pays, which one, and how it is written into a graph.

A layer may read x H instead of x wherever its weights undo H: exact whatever x is. It pays where
nothing can be folded into what makes x: behind an activation function or a product of two
activations (the input of a down projection), and across the heads of attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32, F64
from ..compiler.core.graph import add_constant, constant, label, static_shape, tensor_of
from ..compiler.core.kronecker import EDGEC_DOMAIN, KRONECKER, declare_kronecker, rounded_factor
from ..compiler.core.operators import UNARY
from ._edit import RESHAPES, graph_of, is_op, nodes, scalar
from ._linear import editable
from ._orthogonal import hadamard_factors, random_orthogonal, sylvester

_LINEAR = ("Add", "Sub", "Mul", "Div", "Neg")  # of UNARY: nonlinear only with two activations


@dataclass(frozen=True, slots=True, eq=False)
class OnlineSite:
    """A value [.., channels] that layers read, which nothing before it can be folded into.

    `heads`: how many blocks of channels are mixed with each other, 1: all channels.
    """

    value: ir.Value
    readers: Sequence[ir.Node]
    channels: int
    heads: int = 1

    @property
    def name(self) -> str:
        """How reports call it."""
        kind = "heads" if self.heads > 1 else "activation"
        return f"{kind} -> {', '.join(label(node) for node in self.readers)}"


@dataclass(frozen=True, slots=True, eq=False)
class OnlineTurn:
    """x (a (x) b) of a [p, p] and b [q, q], as a model stores them; `text`: what it is."""

    a: F64
    b: F64
    text: str


def activation_sites(model: ir.Model) -> Iterator[OnlineSite]:
    """Yield every activated value that layers contract on its last axis, in graph order."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in nodes(model, "MatMul", "Gemm"):
        value = node.inputs[0]
        if value is not None and _reads_rows(node) and _activated(value):
            found.setdefault(value, []).append(node)
    for value, readers in found.items():
        shape = static_shape(value)
        if shape is not None and shape[-1] > 1:
            yield OnlineSite(value, readers, shape[-1])


def _reads_rows(node: ir.Node) -> bool:
    return not isinstance(editable(node), str) and not node.attributes.get_int("transA", 0)


def _activated(value: ir.Value) -> bool:
    """Return whether value is a nonlinear function, reshapes of the same rows and factors apart."""
    node, rows = value.producer(), static_shape(value)
    while node is not None and rows is not None:
        given = [v for v in node.inputs if v is not None and constant(v) is None]
        if is_op(node, *UNARY) and not is_op(node, *_LINEAR):
            return True
        if is_op(node, "Mul") and len(given) == 2:
            return True
        scales = is_op(node, "Mul", "Div") and any(scalar(v) is not None for v in node.inputs)
        if not given or not (scales or is_op(node, *RESHAPES, "Identity", "Dropout")):
            return False
        shape = static_shape(given[0])
        if shape is None or shape[-1] != rows[-1]:
            return False
        node = given[0].producer()
    return False


def activation_turn(channels: int, rng: np.random.Generator) -> OnlineTurn:
    """Return a Hadamard matrix, or where none is reached an orthogonal one times Sylvester's.

    Rows have random signs: without them the mean of all channels, which what an activation
    function makes has, would all gather in one.
    """
    factors = hadamard_factors(channels)
    if factors is not None:
        text = f"a Hadamard matrix of order {channels} = {len(factors[0])} x {factors[1]}"
        return _balanced(factors[0] / np.sqrt(channels), factors[1], text, rng)
    power = channels & -channels
    small = rounded_factor(random_orthogonal(channels // power, rng)) / np.sqrt(power)
    text = f"an orthogonal matrix of order {channels // power} times Hadamard's of order {power}"
    return _balanced(small, power, text, rng)


def _balanced(small: F64, power: int, text: str, rng: np.random.Generator) -> OnlineTurn:
    """Return small (x) Sylvester's matrix as two factors of about the same size, signs drawn."""
    left, right = 1, power
    while right > 2 * left * len(small):
        left, right = 2 * left, right // 2
    outer = np.kron(small, sylvester(left)).astype(np.float64)
    signs = [rng.choice([-1.0, 1.0], (len(factor), 1)) for factor in (outer, sylvester(right))]
    return OnlineTurn(signs[0] * outer, signs[1] * sylvester(right), text)


def head_turn(heads: int, width: int) -> OnlineTurn | str:
    """Return a Hadamard matrix that mixes heads of so many channels, or why there is none."""
    factors = hadamard_factors(heads)
    if factors is None:
        return f"there is no Hadamard matrix of {heads} heads, so they are turned one by one only"
    small = np.kron(factors[0], sylvester(factors[1])) / np.sqrt(heads)
    return OnlineTurn(
        small.astype(np.float64), np.eye(width), f"mixed by a Hadamard matrix of {heads} heads"
    )


def stored(turn: OnlineTurn, site: OnlineSite) -> OnlineTurn:
    """Return turn with its numbers rounded as the weights behind the site are stored."""
    weight = tensor_of(site.readers[0].inputs[1])
    assert weight is not None
    a, b = (m.astype(weight.dtype).astype(np.float64) for m in (turn.a, turn.b))
    return OnlineTurn(a, b, turn.text)


def undoing(factor: F64) -> F64:
    """Return what weights are multiplied by behind x @ factor: exact for what is stored."""
    return np.linalg.inv(factor).T.astype(np.float64)


def insert_turns(model: ir.Model, turns: Sequence[tuple[OnlineSite, OnlineTurn]]) -> None:
    """Let the layers of every site read its value through `edgec.Kronecker`.

    Equal matrices are stored once.
    """
    held: dict[tuple[bytes, int], ir.Value] = {}

    def matrix(data: F64, dtype: np.dtype[np.floating]) -> ir.Value:
        key = (data.tobytes(), len(data))
        if key not in held:
            name = f"edgec.turn.{len(data)}"
            held[key] = add_constant(model.graph, name, data.astype(dtype))
        return held[key]

    if turns:
        declare_kronecker(model)
    for site, turn in turns:
        weight: F32 | None = tensor_of(site.readers[0].inputs[1])
        assert weight is not None
        graph, value = graph_of(site.readers[0]), site.value
        out = ir.Value(name=f"{value.name}.turned", type=value.type, shape=value.shape)
        factors = [matrix(m, weight.dtype) for m in (turn.a, turn.b)]
        node = ir.node(
            KRONECKER, [value, *factors], domain=EDGEC_DOMAIN, outputs=[out], name=out.name
        )
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, node)
        for reader in site.readers:
            reader.replace_input_with(0, out)
