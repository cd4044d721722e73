"""Float islands: operators without an integer kernel, computed as ONNX says, between codes.

Quantised inputs are dequantised, every operator becomes one kernel by TVM's own converters, and
the result is quantised where somebody asks for codes. The program lists every island with the
reason, and the report shows it. Where nothing is quantised the whole model is one island.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from ..core.artifact import stored_dtype
from ..core.graph import label, shape_of
from .bodies import constant_results, forms
from .kernels._convert import NotOneKernelError, converted
from .kernels.dequantise import Dequantise
from .kernels.float_op import FloatOp
from .kernels.quantise import Quantise
from .lower import Lowering, RefusedError, Request
from .program import Array
from .values import Plain, Quantised
from .views import View


def float_island(
    low: Lowering, node: ir.Node | None, request: Request, reason: RefusedError
) -> Quantised:
    """Compute the requested value in float and quantise it; raises reason if TVM cannot either."""
    if request.value.dtype != ir.DataType.FLOAT:
        raise reason
    buffer = float_buffer(low, request.value, str(reason))
    encoding = request.encoding
    q = np.array([encoding.zero_point[0], request.low, request.high], np.int32)
    shape = shape_of(request.value)
    kernel = Quantise(int(np.prod(shape)), request.dtype)
    scale = np.array(encoding.scale, np.float32)
    nodes = () if node is None else (label(node),)
    name = low.builder.emit(kernel, [buffer], [scale, q], request.hint, nodes)
    return Quantised(View.whole(name, shape), encoding)


def float_buffer(low: Lowering, value: ir.Value, reason: str) -> str:
    """Return the row-major buffer of value in its ONNX type, emitting what computes it.

    Raises RefusedError when the value cannot be had, or TVM has no loops for an operator on the
    way.
    """
    key = str(value.name)
    if key not in low.float_buffers:
        low.float_buffers[key] = _buffer(low, value, reason)
    return low.float_buffers[key]


def _buffer(low: Lowering, value: ir.Value, reason: str) -> str:
    stored = _stored(value)
    if (data := low.number(value)) is not None:
        return low.builder.constant(str(value.name), data.astype(stored)).buffer
    held = low.known(value)
    if isinstance(held, Quantised):
        return _dequantised(low, value, held)
    if isinstance(held, Plain):
        dense = low.builder.dense(held.view, str(value.name), ())
        return dense if held.dtype == stored else _widened(low, value, dense, held.dtype)
    if value.producer() is None:
        return low.real_input(value)
    return _moved(low, value, reason) or _computed(low, value, reason)


def _stored(value: ir.Value) -> str:
    stored = stored_dtype(value.dtype)
    if stored is None:
        kind = "no type" if value.dtype is None else value.dtype.name.lower()
        raise RefusedError(f"'{value.name}' has {kind}, which C has no type for")
    if 0 in shape_of(value):
        raise RefusedError(f"'{value.name}' has no elements: shape {list(shape_of(value))}")
    return stored


def _dequantised(low: Lowering, value: ir.Value, held: Quantised) -> str:
    view, encoding = held.view, held.encoding
    kernel = Dequantise.of(view.shape, view.access, encoding.dtype.name)
    constants: list[Array] = [
        np.array(encoding.scale, np.float32),
        np.array(encoding.zero_point, np.int32),
    ]
    return low.builder.emit(kernel, [view.buffer], constants, f"{value.name}_real", ())


def _widened(low: Lowering, value: ir.Value, buffer: str, dtype: str) -> str:
    """Return run-time integers, kept narrow for integer kernels, in their ONNX type."""
    narrow = ir.DataType.from_numpy(np.dtype(dtype))
    assert value.dtype is not None
    return _cast(low, value, buffer, narrow, value.dtype)


def computed_plain(low: Lowering, value: ir.Value, reason: str) -> Plain:
    """Return a run-time integer computed in an island as integer kernels read it: int64 as int32.

    Raises RefusedError when TVM has no loops for it.
    """
    buffer, shape = float_buffer(low, value, reason), shape_of(value)
    if value.dtype != ir.DataType.INT64:
        return Plain(View.whole(buffer, shape), _stored(value))
    name = _cast(low, value, buffer, ir.DataType.INT64, ir.DataType.INT32)
    return Plain(View.whole(name, shape), "int32")


def _cast(
    low: Lowering, value: ir.Value, buffer: str, source: ir.DataType, target: ir.DataType
) -> str:
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=int(target))
    info, shape = onnx.helper.make_tensor_value_info, shape_of(value)
    ports = [info("x", int(source), shape)], [info("y", int(target), shape)]
    graph = onnx.helper.make_graph([node], "island", *ports)
    kernel = FloatOp(_serialised(low, graph))
    return low.builder.emit(kernel, [buffer], kernel.constants, f"{value.name}_cast", ())


def _moved(low: Lowering, value: ir.Value, reason: str) -> str | None:
    """Return value as another view of its source, copied only if elements have to move."""
    node = value.producer()
    if node is None or node.op_type not in low.movers or node.inputs[0] is None:
        return None
    if len(node.outputs) > 1 and node.op_type != "Split":
        return None
    source = node.inputs[0]
    view = View.whole(float_buffer(low, source, reason), shape_of(source))
    try:
        moved = low.movers[node.op_type](low, node, view, list(node.outputs).index(value))
    except RefusedError:
        return None
    return low.builder.dense(moved, str(value.name), (label(node),))


def _computed(low: Lowering, value: ir.Value, reason: str) -> str:
    node = value.producer()
    if node is None:
        raise RefusedError(reason)
    inputs: list[str] = []
    model = _one_node_model(low, node, inputs, reason)
    outputs = [v for v in node.outputs if v.name]
    if (results := constant_results(model)) is not None:
        for output, data in zip(outputs, results, strict=True):
            held = low.builder.constant(str(output.name), data.astype(_stored(output)))
            low.float_buffers[str(output.name)] = held.buffer
        return low.float_buffers[str(value.name)]
    kernel = _kernel(model, node, reason)
    hints = [str(v.name) for v in outputs]
    names = low.builder.emit_all(kernel, inputs, kernel.constants, hints, (label(node),))
    for output, name in zip(outputs, names, strict=True):
        low.float_buffers[str(output.name)] = name
    low.notes.append(f"{label(node)} runs in {_stored(value)}{reason and ': '}{reason}")
    return low.float_buffers[str(value.name)]


def _kernel(model: bytes, node: ir.Node, reason: str) -> FloatOp:
    """Return what computes a one-node model, converted already; raises RefusedError."""
    problem = ""
    for form in forms(model):
        try:
            converted(form)
        except NotOneKernelError as error:
            problem = problem or str(error)
        else:
            return FloatOp(form)
    problem = problem or f"TVM misreads this use of {node.op_type}"
    raise RefusedError(
        f"{reason} (nor in float: {problem})" if reason else f"{label(node)}: {problem}"
    )


def _one_node_model(low: Lowering, node: ir.Node, inputs: list[str], reason: str) -> bytes:
    """Serialise node alone; fills `inputs` with the buffers of its run-time operands."""
    info, tensor = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    proto = ir.to_proto(node)
    proto.name = ""
    del proto.input[:], proto.output[:]
    ports: list[onnx.ValueInfoProto] = []
    constants: list[onnx.TensorProto] = []
    seen: dict[int, str] = {}
    for value in node.inputs:
        if value is None:
            proto.input.append("")
            continue
        if id(value) not in seen:
            name = seen[id(value)] = f"x{len(seen)}"
            if (number := low.number(value)) is not None:
                constants.append(tensor(np.ascontiguousarray(number), name))
            else:
                inputs.append(float_buffer(low, value, reason))
                assert value.dtype is not None
                ports.append(info(name, int(value.dtype), shape_of(value)))
        proto.input.append(seen[id(value)])
    outputs: list[onnx.ValueInfoProto] = []
    for index, value in enumerate(node.outputs):
        proto.output.append(f"y{index}" if value.name else "")
        if value.name:
            _stored(value)
            outputs.append(info(f"y{index}", int(value.dtype or 0), shape_of(value)))
    graph = onnx.helper.make_graph([proto], "island", ports, outputs, constants)
    return _serialised(low, graph)


def _serialised(low: Lowering, graph: onnx.GraphProto) -> bytes:
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in sorted(low.opsets.items())]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString(deterministic=True)
