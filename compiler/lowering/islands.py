"""Float islands: operators without an integer kernel, computed in float32 between codes.

Quantised inputs are dequantised, every operator becomes one kernel by TVM's own converters, and
the result is quantised where somebody asks for codes. The program lists every island with the
reason, and the report shows it.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from ..core.graph import label, shape_of
from .kernels.dequantise import Dequantise
from .kernels.float_op import FloatOp, NotOneKernelError, converted
from .kernels.quantise import Quantise
from .lower import Lowering, RefusedError, Request
from .program import Array
from .values import Quantised
from .views import View


def float_island(low: Lowering, node: ir.Node, request: Request, reason: RefusedError) -> Quantised:
    """Compute the requested value in float and quantise it; raises reason if TVM cannot either."""
    buffer = float_buffer(low, request.value, str(reason))
    encoding = request.encoding
    q = np.array([encoding.zero_point[0], request.low, request.high], np.int32)
    shape = shape_of(request.value)
    kernel = Quantise(int(np.prod(shape)), request.dtype)
    scale = np.array(encoding.scale, np.float32)
    name = low.builder.emit(kernel, [buffer], [scale, q], request.hint, (label(node),))
    return Quantised(View.whole(name, shape), encoding)


def float_buffer(low: Lowering, value: ir.Value, reason: str) -> str:
    """Return the row-major float32 buffer of value, emitting what computes it.

    Raises RefusedError when the value cannot be had, or TVM has no single kernel for an operator
    on the way.
    """
    key = str(value.name)
    if key in low.float_buffers:
        return low.float_buffers[key]
    held = low.known(value)
    if isinstance(held, Quantised):
        buffer = _dequantised(low, value, held)
    else:
        buffer = _computed(low, value, reason)
    low.float_buffers[key] = buffer
    return buffer


def _dequantised(low: Lowering, value: ir.Value, held: Quantised) -> str:
    view, encoding = held.view, held.encoding
    kernel = Dequantise.of(view.shape, view.access, encoding.dtype.name)
    constants: list[Array] = [
        np.array(encoding.scale, np.float32),
        np.array(encoding.zero_point, np.int32),
    ]
    return low.builder.emit(kernel, [view.buffer], constants, f"{value.name}_real", ())


def _computed(low: Lowering, value: ir.Value, reason: str) -> str:
    node = value.producer()
    if node is None or value.dtype != ir.DataType.FLOAT or len(node.outputs) != 1:
        raise RefusedError(reason)
    inputs: list[str] = []
    model = _one_node_model(low, node, inputs, reason)
    try:
        converted(model)  # before anything is emitted
    except NotOneKernelError as problem:
        raise RefusedError(f"{reason} (nor in float: {problem})") from problem
    kernel = FloatOp(model)
    name = low.builder.emit(kernel, inputs, [], str(value.name), (label(node),))
    low.notes.append(f"{label(node)} runs in float32: {reason}")
    return name


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
                ports.append(info(name, onnx.TensorProto.FLOAT, shape_of(value)))
        proto.input.append(seen[id(value)])
    proto.output.append("y")
    output = info("y", onnx.TensorProto.FLOAT, shape_of(node.outputs[0]))
    graph = onnx.helper.make_graph([proto], "island", ports, [output], constants)
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in sorted(low.opsets.items())]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString(deterministic=True)
