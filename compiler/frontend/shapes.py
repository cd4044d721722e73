"""Make every shape of a model static: bind symbolic dimensions, then infer the rest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..core.graph import add_constant, label, remove_node, take_over
from ..core.passbase import Note

# Names that exporters give to a batch axis. Anything else (sequence length, height, ...) changes
# what the model computes, so the user has to choose it.
_BATCH = re.compile(r"n|b|bs|s\d+|\w*batch\w*|num_?samples?|unk__\d+|\?|-1|", re.IGNORECASE)
_WEIGHT_BYTES = 4096
_FOLD_LIMIT = 4096  # elements; shape arithmetic is tiny, weights are left to the passes

_RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"})

Shapes = Mapping[str, Sequence[int]]


def bind_shapes(model: ir.Model, shapes: Shapes) -> tuple[list[Note], list[str]]:
    """Give every graph input a static shape; return notes on guesses, and the problems found.

    `shapes` maps input names to full shapes. A symbol bound once is bound wherever it occurs.
    """
    inputs = {str(v.name): v for v in model.graph.inputs}
    problems = [_unknown_key(key, inputs) for key in shapes if key not in inputs]
    symbols: dict[str, int] = {}
    for name, value in inputs.items():
        if name in shapes:
            problems += _bind(value, [int(d) for d in shapes[name]], symbols)
    notes = [note for v in inputs.values() for note in _guess_batch(v, symbols)]
    for value in inputs.values():
        problems += _settle(value, symbols)
    _substitute(model, symbols)
    return notes, problems


def _unknown_key(key: str, inputs: Mapping[str, ir.Value]) -> str:
    near = difflib.get_close_matches(key, inputs, 1, 0.0)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"--shape names '{key}', which is no input of the model ({', '.join(inputs)}){hint}"


def _bind(value: ir.Value, wanted: Sequence[int], symbols: dict[str, int]) -> Iterator[str]:
    """Set the shape of value to wanted and record its symbols; yield contradictions."""
    given = "x".join(map(str, wanted))
    if any(d < 1 for d in wanted):
        yield f"--shape {value.name}={given}: every dimension must be at least 1"
        return
    if value.shape is not None:
        if len(value.shape) != len(wanted):
            yield f"--shape {value.name}={given}: the model declares {value.shape}, other rank"
            return
        for declared, size in zip(_dims(value.shape), wanted, strict=True):
            if isinstance(declared, int) and declared != size:
                yield f"--shape {value.name}={given}: the model fixes {value.shape}"
                return
            symbol = declared if isinstance(declared, str) else ""
            if symbol and symbols.setdefault(symbol, size) != size:
                yield (
                    f"--shape {value.name}={given}: '{symbol}' is already {symbols[symbol]} "
                    "through another dimension; give both the same size"
                )
    value.shape = ir.Shape(wanted)


def _dims(shape: ir.Shape) -> list[int | str]:
    """Return sizes and symbols, "" for a dimension without either."""
    return [d if isinstance(d, int) else d.value or "" for d in shape.dims]


def _guess_batch(value: ir.Value, symbols: dict[str, int]) -> list[Note]:
    """Set a free batch axis of an input to 1."""
    dims = _dims(value.shape) if value.shape is not None else []
    if not dims or isinstance(dims[0], int) or dims[0] in symbols or not _BATCH.fullmatch(dims[0]):
        return []
    symbol = dims[0]
    value.shape = ir.Shape([1, *(d or None for d in dims[1:])])
    if symbol:
        symbols[symbol] = 1
    return [Note(str(value.name), f"batch axis {symbol or 'without name'} set to 1")]


def _settle(value: ir.Value, symbols: Mapping[str, int]) -> list[str]:
    """Replace the known symbols of an input and return what still stands in the way."""
    declared = value.shape
    if declared is None:
        text = f"input '{value.name}' has no rank; give its full shape with --shape"
        return [f"{text} {value.name}=1,3,224,224"]
    dims = [symbols.get(d, d) if isinstance(d, str) else d for d in _dims(declared)]
    value.shape = ir.Shape([None if d == "" else d for d in dims])
    free = [f"{i} ({d or 'no name'})" for i, d in enumerate(dims) if isinstance(d, str)]
    if free:
        example = ",".join("N" if isinstance(d, str) else str(d) for d in dims)
        return [
            f"input '{value.name}' {declared} has open dimensions {', '.join(free)}; "
            f"give the full shape with --shape {value.name}={example}"
        ]
    return [f"input '{value.name}' {declared} has an empty dimension"] if 0 in dims else []


def _substitute(model: ir.Model, symbols: Mapping[str, int]) -> None:
    """Forget every other shape that is not static, so that inference derives it afresh."""
    inputs = set(model.graph.inputs)
    for value in model.graph.outputs:
        if value.shape is not None and value not in inputs:
            dims = [symbols.get(d, d) if isinstance(d, str) else d for d in _dims(value.shape)]
            value.shape = ir.Shape([None if d == "" else d for d in dims])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output() and value.shape and not value.shape.is_static():
                value.shape = None


def check(model: ir.Model) -> list[str]:
    """Return dangling reads, else the ONNX checker's first complaint, about a model of any size."""
    if dangling := undefined_reads(model):
        return dangling
    proto = without_weights(model)
    for info in [*proto.graph.input, *proto.graph.output]:
        # A missing rank is judged by `bind_shapes` and `infer_shapes`, with better words.
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        return [f"not a valid ONNX model: {first_line(error)}"]
    return []


def undefined_reads(model: ir.Model) -> list[str]:
    """Return a sentence for every value that a node reads and nothing produces."""
    return [
        f"{label(node)} reads '{value.name}', which nothing produces; export the model again"
        for node in model.graph
        for value in node.inputs
        if value is not None
        and value.producer() is None
        and not (value.is_graph_input() or value.is_initializer())
    ]


def without_weights(model: ir.Model) -> onnx.ModelProto:
    """Return model with large weights turned into extra inputs, after the true ones.

    The C++ parts of the ONNX library serialise what they get and so cannot take over 2 GB.
    """
    small = model.clone()
    for name, value in list(small.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _WEIGHT_BYTES and not value.is_graph_output():
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            value.const_value = None
            del small.graph.initializers[name]
            small.graph.inputs.append(value)
    return ir.to_proto(small)


def with_weights(proto: onnx.ModelProto, model: ir.Model) -> ir.Model:
    """Return proto, made from `without_weights(model)`, with the weights of model put back."""
    result = ir.from_proto(proto)
    inputs, own = list(result.graph.inputs), len(model.graph.inputs)
    result.graph.inputs.clear()
    result.graph.inputs.extend(inputs[:own])
    for value in inputs[own:]:
        value.const_value = model.graph.initializers[str(value.name)].const_value
        result.graph.register_initializer(value)
    return result


def infer_shapes(model: ir.Model) -> list[str]:
    """Fill in every shape and type of model; return one sentence per value that stays open.

    Shape arithmetic on static shapes (Shape, Gather, Concat, Where, ...) is computed and
    replaced by constants where ONNX's own inference does not see through it. Values behind an
    operator of another domain are not counted: only the support check can judge that operator.
    """
    try:
        _infer(model)
        while _open_values(model) and _fold_shape_arithmetic(model):
            _infer(model)
    except onnx.shape_inference.InferenceError as error:
        return [f"shapes do not fit together: {first_line(error)}"]
    return [_open_sentence(v) for v in _open_values(model)]


def _infer(model: ir.Model) -> None:
    proto = without_weights(model)
    for info in proto.graph.output:
        # Exporters write wrong output shapes; the derived one counts wherever there is one.
        info.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
    known = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
    for node in model.graph:
        for value in node.outputs:
            if value.name in known:
                _copy_type(known[value.name], value)


def _copy_type(info: onnx.ValueInfoProto, value: ir.Value) -> None:
    parsed = ir.serde.deserialize_value_info_proto(info, None)
    value.type = parsed.type or value.type
    value.shape = parsed.shape if parsed.shape is not None else value.shape


def _open_values(model: ir.Model) -> list[ir.Value]:
    """Return the values without static shape that ONNX inference should have covered."""
    behind: set[ir.Value | None] = set()
    found: list[ir.Value] = []
    for node in model.graph:
        unknown = [v for v in node.outputs if v.name and not _is_static(v)]
        if node.domain in ("", "ai.onnx") and behind.isdisjoint(node.inputs):
            found += unknown
        else:
            behind.update(unknown)
    return found


def _is_static(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


def _open_sentence(value: ir.Value) -> str:
    producer = value.producer()
    where = label(producer) if producer is not None else "input"
    shape = "no rank" if value.shape is None else f"shape {value.shape}"
    return (
        f"{where}: output '{value.name}' has {shape} after shape inference, but every size must "
        "be fixed; export the model with static shapes or rewrite this node"
    )


def _fold_shape_arithmetic(model: ir.Model) -> bool:
    """Replace small computable values by constants; return whether any was replaced."""
    folded = False
    for node in list(model.graph):
        data = _value_of(node, model)
        if data is not None:
            old = node.outputs[0]
            take_over(old, add_constant(model.graph, f"{old.name}.folded", data))
            remove_node(node)
            folded = True
    return folded


def _value_of(node: ir.Node, model: ir.Model) -> NDArray[Any] | None:
    """Return the output of node if it follows from static shapes and small constants alone."""
    out = node.outputs[0]
    if node.domain or len(node.outputs) != 1 or out.is_graph_output():
        return None
    if node.op_type in _RANDOM:
        return None
    if node.op_type == "Shape":
        source = node.inputs[0]
        if source is None or source.shape is None or not source.shape.is_static():
            return None
        first, last = node.attributes.get_int("start", 0), node.attributes.get("end")
        dims = np.array(source.shape.numpy(), np.int64)
        return dims[first : last.as_int() if last is not None else None]
    if any(attr.type is ir.AttributeType.GRAPH for attr in node.attributes.values()):
        return None
    inputs = [v.const_value for v in node.inputs if v is not None]
    if not inputs or any(t is None or t.size > _FOLD_LIMIT for t in inputs):
        return None
    return _evaluate(node, model.opset_imports.get("", 1))


def _evaluate(node: ir.Node, opset: int) -> NDArray[Any] | None:
    from onnx.reference import ReferenceEvaluator

    feeds = {
        str(v.name): v.const_value.numpy()
        for v in node.inputs
        if v is not None and v.const_value is not None
    }
    infos = [onnx.helper.make_empty_tensor_value_info(name) for name in feeds]
    out = onnx.helper.make_empty_tensor_value_info(str(node.outputs[0].name))
    graph = onnx.helper.make_graph([ir.to_proto(node)], "node", infos, [out])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        (data,) = ReferenceEvaluator(proto).run(None, feeds)
    except Exception:
        # The reference evaluator lacks some ops and types; such a value simply stays open.
        return None
    return data if isinstance(data, np.ndarray) and data.size <= _FOLD_LIMIT else None


def first_line(error: BaseException) -> str:
    """Return the first line of the root cause of error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
