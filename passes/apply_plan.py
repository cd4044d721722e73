"""Write the plan into the graph as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..compiler.core.encoding import TensorEncoding
from ..compiler.core.graph import add_constant, constant, model_from_text, set_constant, tensor_of
from ..compiler.core.linear import linear_view
from ..compiler.core.passbase import Context, Effect, Example, Note, Outcome
from ..compiler.core.plan import QuantPlan
from ._islands import analyse


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """Quantise what the plan names; biases get int32 at scale s_input * s_weight."""

    name: ClassVar[str] = "apply_plan"
    effect: ClassVar[Effect] = Effect.LOSSY

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Insert the nodes; the result is ordinary ONNX with QDQ pairs."""
        graph, plan = model.graph, ctx.plan
        if not plan.encodings:
            return Outcome(declined=[Note("plan", "it encodes nothing")])
        changed: list[Note] = []
        changed += _biases(graph, plan)
        for value in [v for v in _values(graph) if str(v.name) in plan.encodings]:
            name = str(value.name)
            encoding = plan.encodings[name]
            if tensor_of(value) is not None:
                _quantise_constant(graph, value, encoding)
            else:
                _quantise_activation(graph, value, encoding)
            changed.append(Note(name, f"int{encoding.bits}"))
        missing = set(plan.encodings) - {note.where for note in changed}
        declined = [Note(name, "no such value in the graph") for name in sorted(missing)]
        return Outcome(changed, declined)

    @staticmethod
    def examples() -> Iterable[Example]:
        """A Gemm with bias; an empty plan does nothing."""
        rng = np.random.default_rng(0)
        model = model_from_text(
            """<ir_version: 10, opset_import: ["" : 21]>
            m (float[2,4] X) => (float[2,3] Y) { Y = Gemm <transB = 1> (X, W, B) }""",
            W=rng.standard_normal((3, 4)).astype(np.float32),
            B=rng.standard_normal(3).astype(np.float32),
        )
        feeds = {"X": rng.standard_normal((2, 4)).astype(np.float32)}
        plan = QuantPlan().with_encodings(
            {
                "X": TensorEncoding(8, (0.02,), (3,)),
                "Y": TensorEncoding(8, (0.05,), (-4,)),
                "W": TensorEncoding(8, (0.02, 0.03, 0.02), (0, 0, 0), axis=0),
            }
        )
        yield Example(model, feeds, Context(plan=plan))
        yield Example(model, feeds, fires=False)


def _values(graph: ir.Graph) -> list[ir.Value]:
    produced = [v for node in graph for v in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *produced]


def _parameters(
    graph: ir.Graph, name: str, encoding: TensorEncoding, stored: np.dtype[Any]
) -> tuple[ir.Value, ...]:
    """Register the scale of an encoding, and its zero point where blocks do not rule one out."""
    if encoding.blocks is not None:
        return (add_constant(graph, f"{name}.scale", encoding.block_scale),)
    scale: NDArray[Any] = np.asarray(encoding.scale, np.float32)
    zero: NDArray[Any] = np.asarray(encoding.zero_point).astype(stored)
    if encoding.axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    return add_constant(graph, f"{name}.scale", scale), add_constant(graph, f"{name}.zero", zero)


def _attributes(encoding: TensorEncoding) -> dict[str, int]:
    if encoding.blocks is not None:
        return {"axis": encoding.blocks.axis, "block_size": encoding.blocks.size}
    return {} if encoding.axis is None else {"axis": encoding.axis}


def _stored_dtype(encoding: TensorEncoding) -> np.dtype[Any]:
    """Return the type that ONNX stores constant codes in: two of 4 bits in a byte."""
    return np.dtype(ml_dtypes.int4) if encoding.bits == 4 else np.dtype(encoding.dtype)


def _dequantised(
    graph: ir.Graph, codes: ir.Value, name: str, encoding: TensorEncoding,
    parameters: tuple[ir.Value, ...],
) -> ir.Node:  # fmt: skip
    return ir.node(
        "DequantizeLinear", [codes, *parameters], _attributes(encoding), name=f"{name}.dq"
    )


def _quantise_constant(graph: ir.Graph, value: ir.Value, encoding: TensorEncoding) -> None:
    """Replace a constant by the DequantizeLinear of its codes."""
    data, name = constant(value), str(value.name)
    assert data is not None
    stored = encoding.quantise(data).astype(_stored_dtype(encoding))
    codes = add_constant(graph, f"{name}.codes", stored)
    readers = [(use.node, use.idx) for use in value.uses()]
    parameters = _parameters(graph, name, encoding, stored.dtype)
    node = _dequantised(graph, codes, name, encoding, parameters)
    graph.insert_before(graph[0], node)
    node.outputs[0].name, node.outputs[0].type = f"{name}.dq", value.type
    node.outputs[0].shape = value.shape
    for reader, index in readers:
        reader.replace_input_with(index, node.outputs[0])
    graph.initializers.pop(name, None)


def _quantise_activation(graph: ir.Graph, value: ir.Value, encoding: TensorEncoding) -> None:
    """Let every reader of value read it after a round trip through codes."""
    name, producer = str(value.name), value.producer()
    parameters = _parameters(graph, name, encoding, np.dtype(encoding.dtype))
    was_output = value.is_graph_output()
    limit = _limit(graph, value, encoding)
    inside = limit[-1].outputs[0] if limit else value
    quantise = ir.node("QuantizeLinear", [inside, *parameters], name=f"{name}.q")
    back = _dequantised(graph, quantise.outputs[0], name, encoding, parameters)
    if producer is None:
        graph.insert_before(graph[0], [*limit, quantise, back])
    else:
        graph.insert_after(producer, [*limit, quantise, back])
    codes, real = quantise.outputs[0], back.outputs[0]
    codes.name, codes.shape = f"{name}.codes", value.shape
    codes.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(encoding.dtype)))
    real.name, real.shape, real.type = f"{name}.dq", value.shape, value.type
    inserted = {*limit, quantise}
    readers = [(u.node, u.idx) for u in value.uses() if u.node not in inserted]
    for reader, index in readers:
        reader.replace_input_with(index, real)
    if was_output:
        index = list(graph.outputs).index(value)
        value.name, real.name = f"{name}.float", name
        graph.outputs[index] = real


def _limit(graph: ir.Graph, value: ir.Value, encoding: TensorEncoding) -> list[ir.Node]:
    """Return the Clip that keeps codes in an encoding narrower than the ONNX type that holds it."""
    if encoding.fills_dtype:
        return []
    low, high = encoding.dequantise(np.array(encoding.limits))
    bounds = [
        add_constant(graph, f"{value.name}.{end}", np.array(bound, np.float32))
        for end, bound in (("low", low), ("high", high))
    ]
    clip = ir.node("Clip", [value, *bounds], name=f"{value.name}.clip")
    result = clip.outputs[0]
    result.name, result.shape, result.type = f"{value.name}.clipped", value.shape, value.type
    return [clip]


def _biases(graph: ir.Graph, plan: QuantPlan) -> list[Note]:
    """Quantise every bias whose input and weight are quantised."""
    islands = analyse(graph)
    changed: list[Note] = []
    for node in list(graph):
        view = linear_view(node)
        if view is None or view.bias is None or node.inputs[0] is None:
            continue
        source = plan.encodings.get(str(islands.root(node.inputs[0]).name))
        encoding = plan.encodings.get(view.weight_name)
        if source is None or encoding is None:
            continue
        holder, index = _bias_place(view.bias_node or node, view.node)
        unit = np.float32(source.scale[0]) * np.asarray(encoding.scale, np.float32)
        stored = TensorEncoding(32, tuple(map(float, unit)), (0,) * unit.size, axis=0)
        set_constant(holder, index, view.bias)
        value = holder.inputs[index]
        assert value is not None
        _quantise_constant(graph, value, stored)
        changed.append(Note(str(value.name), "int32 bias"))
    return changed


def _bias_place(holder: ir.Node, linear: ir.Node) -> tuple[ir.Node, int]:
    """Return (node, input index) of the bias."""
    if holder is linear:
        return holder, 2
    return holder, 1 if holder.inputs[0] is linear.outputs[0] else 0
