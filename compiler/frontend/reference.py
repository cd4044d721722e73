"""The float meaning of a model: ONNX Runtime on the CPU, without graph optimisation.

What ONNX Runtime has no kernel for (new operators and types) is computed by ONNX's own evaluator.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..core.encoding import F32
from ..core.errors import DataError, ModelError
from ..core.graph import fresh_name
from ..core.passbase import Feeds
from .shapes import first_line

# protobuf refuses messages of 2 GB; stay clear of it because nodes and names come on top.
_INLINE_LIMIT_BYTES = 1_800_000_000
ONNX_RUNTIME, EVALUATOR = "ONNX Runtime", "ONNX's own evaluator"
# What NumPy has no type for is read through a Cast to the type on the right, without loss.
_READ_AS: Mapping[ir.DataType, ir.DataType] = {
    ir.DataType.INT4: ir.DataType.INT8,
    ir.DataType.INT2: ir.DataType.INT8,
    ir.DataType.UINT4: ir.DataType.UINT8,
    ir.DataType.UINT2: ir.DataType.UINT8,
    ir.DataType.BFLOAT16: ir.DataType.FLOAT,
    ir.DataType.FLOAT8E4M3FN: ir.DataType.FLOAT,
    ir.DataType.FLOAT8E5M2: ir.DataType.FLOAT,
}


class Reference:
    """A session that returns all graph outputs of a model, and any other value by name.

    4-bit and 2-bit values come back as int8 or uint8, bfloat16 and float8 as float32.
    `engine`: who computes them, ONNX_RUNTIME or EVALUATOR.
    """

    def __init__(
        self,
        model: ir.Model | str | Path,
        extra_outputs: Sequence[str] = (),
        threads: int = 1,
        fallback: bool = True,
    ) -> None:
        """Build the session; raises ModelError when ONNX Runtime cannot run the model.

        One thread is the default because sums then have one order and results one set of bits.
        `fallback`: ONNX's own evaluator runs what has operators that ONNX Runtime lacks.
        """
        source = model if isinstance(model, ir.Model) else ir.load(model)
        graph = source.graph
        self._inputs = [str(v.name) for v in graph.inputs if v.name not in graph.initializers]
        self._outputs = list(dict.fromkeys([*(str(v.name) for v in graph.outputs), *extra_outputs]))
        exposed, self._read_from = _expose(source, self._outputs)
        self._session, self.engine = _session(exposed, threads, fallback)

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Return every output by name; feeds must hold every graph input."""
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise DataError(f"no data for input '{missing[0]}'; given: {', '.join(feeds)}")
        given = {name: feeds[name] for name in self._inputs}
        try:
            results = self._session.run([self._read_from[n] for n in self._outputs], given)
        except Exception as error:
            raise ModelError(f"ONNX Runtime could not run the model: {_sentence(error)}") from error
        return dict(zip(self._outputs, results, strict=True))


def evaluate(
    model: ir.Model, samples: Sequence[Feeds], names: Sequence[str]
) -> Iterator[dict[str, F32]]:
    """Yield the values called names as float32 per sample; the runner that passes get injected."""
    runner = Reference(model, names)
    for feeds in samples:
        found = runner.run(feeds)
        yield {name: np.asarray(found[name], np.float32) for name in names}


def _expose(model: ir.Model, names: Sequence[str]) -> tuple[ir.Model, dict[str, str]]:
    """Return a copy of model that outputs names, and under which name to read each."""
    copy = model.clone()
    graph = copy.graph
    values = ir.convenience.create_value_mapping(graph)
    unknown = [name for name in names if name not in values]
    if unknown:
        raise ModelError(f"the model has no value named '{unknown[0]}'")
    read_from: dict[str, str] = {}
    for name in names:
        value = _readable(graph, values[name])
        if not value.is_graph_output():
            graph.outputs.append(value)
        read_from[name] = str(value.name)
    # A graph output that has to be read through a Cast cannot be fetched itself.
    wanted = set(read_from.values())
    kept = [v for v in graph.outputs if v.name in wanted]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    return copy, read_from


def _readable(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Return value, or a node's output that holds the same where value cannot be fetched."""
    target = _READ_AS.get(value.dtype) if value.dtype is not None else None
    if target is None and value.producer() is not None:
        return value
    if target is None and value.is_graph_output():
        return value
    attributes = {} if target is None else {"to": int(target)}
    node = ir.node("Identity" if target is None else "Cast", [value], attributes=attributes)
    node.outputs[0].name = fresh_name(graph, f"{value.name}.read")
    node.outputs[0].type = ir.TensorType(target) if target is not None else value.type
    node.outputs[0].shape = value.shape
    graph.append(node)
    return node.outputs[0]


def _session(model: ir.Model, threads: int, fallback: bool) -> tuple[Any, str]:
    """Return what runs model, and its name."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    # Optimised QDQ graphs use integer kernels that saturate on some x86 CPUs, so their results
    # differ from machine to machine; unoptimised ones follow the operator definitions.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        if _weight_bytes(model) <= _INLINE_LIMIT_BYTES:
            data = ir.to_proto(_in_memory(model)).SerializeToString()
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            return session, ONNX_RUNTIME
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="weights.bin")
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return session, ONNX_RUNTIME
    except Exception as error:
        lacking = "Could not find an implementation" in str(error)
        runner = _evaluator(model) if fallback and lacking else None
        if runner is None:
            raise ModelError(f"ONNX Runtime cannot run the model: {_sentence(error)}") from error
        return runner, EVALUATOR


def _evaluator(model: ir.Model) -> Any:
    """Return ONNX's own evaluator of model, None where it cannot either."""
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(ir.to_proto(model))
    except Exception:
        return None  # then ONNX Runtime's reason is the one to tell


def _weight_bytes(model: ir.Model) -> int:
    values = [v for graph in model.graphs() for v in graph.initializers.values()]
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


def _in_memory(model: ir.Model) -> ir.Model:
    """External weights would be looked up in the working directory, so they come along."""
    return ir.external_data.load_to_model(model)


def _sentence(error: Exception) -> str:
    """Return the first line of an ONNX Runtime message without its code and source path."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first_line(error))
    text = re.sub(r"/\S+\.(?:cc|h):\d+ [^\n]*?(?:\) )+", "", text)
    return text.replace("Status Message: ", "").strip()
