"""Quantised ONNX -> Program.

The graph is walked once in order. DequantizeLinear and movement operators only rename or re-view
what is already in memory; every other float operator waits until a QuantizeLinear (or another
integer kernel) asks for its result in some encoding, and then the matchers in `matchers` find
the integer kernel that computes it from quantised inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from ..core.artifact import stored_dtype
from ..core.encoding import TensorEncoding
from ..core.errors import ModelError
from ..core.graph import label, shape_of, tensor_of
from ..core.operators import WRITE_WIDE
from ..core.states import states_of
from .builder import ProgramBuilder
from .encodings import encoding_of, needed, per_tensor, signed_codes
from .program import Array, Origin, Port, Program
from .request import RefusedError, Request
from .rescale import rescaled
from .values import Codes, Constant, Known, Plain, Quantised
from .views import View

T = TypeVar("T")
CODE_TYPES = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16)
# Operators that do to codes what they do to the values these stand for, movement apart.
ON_CODES = frozenset({"MaxPool", "Resize"})


Matcher = Callable[["Lowering", ir.Node, Request], Quantised | None]
Mover = Callable[["Lowering", ir.Node, View, int], View]
# What to do when no matcher could; raises the reason if there is nothing to do.
Fallback = Callable[["Lowering", ir.Node | None, Request, RefusedError], Quantised]
# Returns the buffer of a value (name, reason) in its ONNX type, computing it in a float island.
Real = Callable[["Lowering", ir.Value, str], str]


class Lowering:
    """State of one lowering: what is known of each value, and the program so far."""

    def __init__(
        self,
        model: ir.Model,
        matchers: Mapping[str, Sequence[Matcher]],
        movers: Mapping[str, Mover],
        plain: Callable[[Lowering, ir.Node], None],
        fallback: Fallback,
        real: Real,
    ) -> None:
        self.graph = model.graph
        self.opsets = dict(model.opset_imports)
        self.builder = ProgramBuilder()
        self.problems: list[str] = []
        self.inputs: list[Port] = []
        self.movers = movers
        self._matchers = matchers
        self._plain = plain
        self._fallback = fallback
        self._real = real
        self.float_buffers: dict[str, str] = {}
        self.notes: list[str] = []
        self._known: dict[str, Known] = {}
        self._done: dict[Hashable, Quantised] = {}

    # ------------------------------------------------------------ facts

    def known(self, value: ir.Value | None) -> Known | None:
        """Return what is known of value; None while it is a float result nobody asked for."""
        if value is None:
            return None
        found = self._known.get(str(value.name))
        if found is None and (data := tensor_of(value)) is not None:
            found = Constant(data)
        return found

    def learn(self, value: ir.Value, fact: Known) -> None:
        """Record what value is."""
        self._known[str(value.name)] = fact

    def number(self, value: ir.Value | None) -> Array | None:
        """Return the real content of a constant or of dequantised constant codes, else None."""
        fact = self.known(value)
        if isinstance(fact, Constant):
            return fact.data
        if isinstance(fact, Codes):
            return fact.encoding.dequantise(fact.data)
        return None

    def scalar(self, value: ir.Value | None) -> float | None:
        """Return the value of a one-element constant, else None."""
        data = self.number(value)
        return float(data.reshape(-1)[0]) if data is not None and data.size == 1 else None

    # ------------------------------------------------------------ requests

    def quantised(self, value: ir.Value, encoding: TensorEncoding | None = None) -> Quantised:
        """Return value in memory; in `encoding` if given, else in whatever encoding it has.

        Raises RefusedError when no integer kernel computes it.
        """
        fact = self.known(value)
        if isinstance(fact, Codes):
            fact = self._place(value, fact)
        if isinstance(fact, Quantised):
            if encoding is None or fact.encoding == encoding:
                return fact
            return self.request(Request.whole(value, encoding))
        if encoding is None:
            encoding = self.implied_encoding(value)
        return self.request(Request.whole(value, encoding))

    def implied_encoding(self, value: ir.Value) -> TensorEncoding:
        """Return the one encoding of the tensors that value is moved or joined from."""
        fact = self.known(value)
        if isinstance(fact, Quantised | Codes):
            return fact.encoding
        node = value.producer()
        sources: list[ir.Value | None] = []
        if node is not None and (node.op_type in self.movers or node.op_type == "MaxPool"):
            sources = [node.inputs[0]]
        elif node is not None and node.op_type == "Concat":
            sources = list(node.inputs)
        elif node is not None and node.op_type == "Where":
            sources = list(node.inputs[1:3])
        found = {self.implied_encoding(v) for v in sources if v is not None}
        if len(found) == 1:
            return found.pop()
        raise RefusedError(f"'{value.name}' stays float but is read by an integer kernel")

    def request(self, request: Request) -> Quantised:
        """Return the requested value, emitting the kernel that computes it once."""
        if request.key not in self._done:
            self._done[request.key] = self._compute(request)
        return self._done[request.key]

    def answered(self, request: Request, result: Quantised) -> None:
        """Record what a kernel with several outputs computed besides what it was asked for."""
        self._done[request.key] = result

    def _compute(self, request: Request) -> Quantised:
        fact = self.known(request.value)
        if isinstance(fact, Quantised):
            if request.value.is_graph_input() and fact.encoding != request.encoding:
                # The port holds codes of the first: what they round away is lost to the second.
                raise RefusedError(
                    f"input '{request.value.name}' is quantised with two encodings: "
                    "quantise it once and requantise the result"
                )
            return rescaled(self.builder, fact, request)
        if (data := self.number(request.value)) is not None:
            codes = np.clip(request.encoding.quantise(data), request.low, request.high)
            return Quantised(self.builder.constant(request.hint, codes), request.encoding)
        node = request.value.producer()
        if node is None and str(request.value.name) in self.float_buffers:
            return self._fallback(self, None, request, RefusedError("the input is float"))
        if node is None:
            return rescaled(self.builder, self._port(request.value, request.encoding), request)
        reason = RefusedError(f"{label(node)}: no integer kernel computes it from quantised inputs")
        try:
            if request.encoding.bits > 8 and node.op_type not in WRITE_WIDE | set(self.movers):
                raise RefusedError(f"{label(node)}: no integer kernel writes more than 8 bits")
            for matcher in self._matchers.get(node.op_type, ()):
                if (result := matcher(self, node, request)) is not None:
                    return result
        except RefusedError as refused:
            reason = refused
        return self._fallback(self, node, request, reason)

    def _place(self, value: ir.Value, codes: Codes) -> Quantised:
        """Put constant codes into flash as an operand."""
        if codes.encoding.axis is not None or codes.encoding.bits not in (8, 12, 16):
            raise RefusedError(f"constant '{value.name}' is not int8 or int16 per tensor")
        held = Quantised(self.builder.constant(str(value.name), codes.data), codes.encoding)
        self.learn(value, held)
        return held

    def narrow(self, node: ir.Node, held: Quantised) -> Quantised:
        """Return held; raises RefusedError if the kernels of node read no more than 8 bits."""
        if held.encoding.bits > 8:
            raise RefusedError(f"{label(node)}: no integer kernel reads more than 8 bits")
        return held

    def real_input(self, value: ir.Value) -> str:
        """Return the buffer of a graph input whose port holds plain numbers of its ONNX type."""
        dtype = stored_dtype(value.dtype)
        assert dtype is not None  # whoever asks has looked
        return self._number_port(value, dtype)

    # ------------------------------------------------------------ the walk

    def run_exact(self) -> Program:
        """Lower the whole graph without integer kernels: every value keeps its ONNX type."""
        outputs: list[Port] = []
        try:
            for value in self.graph.inputs:
                self._real(self, value, "")
            for value in self.graph.outputs:
                name = self._real(self, value, "")
                view = View.whole(name, shape_of(value))
                dtype = self.builder.buffers[name].dtype
                outputs.append(self._output_port(value, view, dtype, None))
        except RefusedError as reason:
            raise ModelError([str(reason)]) from reason
        return self.builder.program(self.inputs, outputs, self.notes)

    def run(self) -> Program:
        """Lower the whole graph; raises ModelError listing every node that cannot be lowered."""
        for value in self.graph.inputs:
            if value.dtype != ir.DataType.FLOAT:
                self._attempt(self._integer_input, value)
        for node in self.graph:
            self._attempt(self._visit, node)
        outputs = [self._output(value) for value in self.graph.outputs]
        if self.problems:
            raise ModelError(list(dict.fromkeys(self.problems)))
        order = {str(v.name): i for i, v in enumerate(self.graph.inputs)}
        self.inputs.sort(key=lambda p: order[p.name])
        found = [o for o in outputs if o is not None]
        program = self.builder.program(self.inputs, found, self.notes)
        return replace(program, states=states_of(self.graph))

    def _attempt(self, step: Callable[[T], None], subject: T) -> None:
        try:
            step(subject)
        except RefusedError as reason:
            self.problems.append(str(reason))

    def _visit(self, node: ir.Node) -> None:
        if node.op_type == "QuantizeLinear":
            self._quantise(node)
        elif node.op_type == "DequantizeLinear":
            self._dequantise(node)
        elif node.op_type in self.movers:
            self._move(node)
        elif node.outputs[0].dtype in CODE_TYPES or self._inherits(node):
            self._on_codes(node)
        elif self._is_plain(node):
            self._plain(self, node)

    def _move(self, node: ir.Node) -> None:
        """Re-view what is in memory; a float result nobody asked for yet waits (see matchers)."""
        fact = self.known(node.inputs[0])
        if isinstance(fact, Codes):
            assert node.inputs[0] is not None
            fact = self._place(node.inputs[0], fact)
        if fact is None or isinstance(fact, Constant):
            return
        for index, output in enumerate(node.outputs):
            view = self.movers[node.op_type](self, node, fact.view, index)
            self.learn(output, replace(fact, view=view))

    def _is_plain(self, node: ir.Node) -> bool:
        """True for operators on run-time integers and booleans."""
        dtype = node.outputs[0].dtype
        return dtype is not None and dtype != ir.DataType.FLOAT

    def _inherits(self, node: ir.Node) -> bool:
        """True for a maximum of a tensor in memory: it has that tensor's encoding."""
        return node.op_type == "MaxPool" and isinstance(self.known(node.inputs[0]), Quantised)

    def _on_codes(self, node: ir.Node) -> None:
        """Lower an operator whose input and output are codes of one encoding."""
        fact = self.known(node.inputs[0])
        if node.op_type not in ON_CODES or not isinstance(fact, Quantised):
            raise RefusedError(
                f"{label(node)}: no integer kernel works on codes; dequantise its input first"
            )
        self.learn(node.outputs[0], self.request(Request.whole(node.outputs[0], fact.encoding)))

    def _integer_input(self, value: ir.Value) -> None:
        shape = shape_of(value)
        if value.dtype in CODE_TYPES:
            self._port(value, self._coded_input(value))
            return
        if value.dtype not in (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL):
            self.problems.append(f"input '{value.name}' has type {value.dtype}: not supported")
            return
        dtype = "uint8" if value.dtype == ir.DataType.BOOL else "int32"
        self.learn(value, Plain(View.whole(self._number_port(value, dtype), shape), dtype))

    def _number_port(self, value: ir.Value, dtype: str) -> str:
        """Add an input without encoding and return its buffer."""
        shape = shape_of(value)
        name = self.builder.buffer(str(value.name), int(np.prod(shape)), dtype)
        self.inputs.append(Port(str(value.name), shape, name, dtype, None))
        return name

    def _coded_input(self, value: ir.Value) -> TensorEncoding:
        """Return the encoding that the first DequantizeLinear behind an int8 input names."""
        waiting = [value]
        while waiting:
            for node in waiting.pop().consumers():
                if node.op_type == "DequantizeLinear":
                    return per_tensor(node, encoding_of(self.number, node))
                waiting += node.outputs
        raise RefusedError(f"input '{value.name}' holds integers that nothing dequantises")

    def _port(self, value: ir.Value, encoding: TensorEncoding) -> Quantised:
        shape = shape_of(value)
        dtype = encoding.dtype.name
        name = self.builder.buffer(str(value.name), int(np.prod(shape)), dtype)
        self.inputs.append(Port(str(value.name), shape, name, dtype, encoding))
        held = Quantised(View.whole(name, shape), encoding)
        self.learn(value, held)
        return held

    def _quantise(self, node: ir.Node) -> None:
        source = node.inputs[0]
        assert source is not None
        encoding = encoding_of(self.number, node)
        if (data := self.number(source)) is not None:
            self.learn(node.outputs[0], Codes(encoding.quantise(data), encoding))
            return
        try:
            held = self.quantised(source, per_tensor(node, encoding))
        except RefusedError as reason:
            self.problems.append(str(reason))
            # Stands in for the missing tensor, so that later nodes report their own problems only.
            shape = shape_of(node.outputs[0])
            name = self.builder.buffer("missing", int(np.prod(shape)), encoding.dtype.name)
            held = Quantised(View.whole(name, shape), encoding)
        self.learn(node.outputs[0], held)
        positions = held.view.access.positions(held.view.shape)
        name = str(source.name).removesuffix(".clipped").removesuffix(".float")
        self.builder.origins.setdefault(held.view.buffer, Origin(name, encoding, positions))

    def _dequantise(self, node: ir.Node) -> None:
        source, encoding = node.inputs[0], encoding_of(self.number, node)
        assert source is not None
        fact = self.known(source)
        if isinstance(fact, Constant):
            codes = signed_codes(fact.data)
            self.learn(node.outputs[0], Codes(codes, needed(codes, encoding)))
        elif isinstance(fact, Codes):
            self.learn(node.outputs[0], replace(fact, encoding=needed(fact.data, encoding)))
        elif isinstance(fact, Quantised):
            known = replace(per_tensor(node, encoding), bits=fact.encoding.bits)
            self.learn(node.outputs[0], Quantised(fact.view, known))
        else:
            raise RefusedError(f"{label(node)}: its input is not available as integers")

    def _output(self, value: ir.Value) -> Port | None:
        try:
            fact = self.known(value)
            if isinstance(fact, Plain):
                return self._output_port(value, fact.view, fact.dtype, None)
            if fact is None and value.dtype == ir.DataType.FLOAT and self._ends_in_float(value):
                return self._float_output(value)
            held = self.quantised(value)
        except RefusedError as reason:
            if not self.problems:
                self.problems.append(str(reason))
            return None
        return self._output_port(value, held.view, held.encoding.dtype.name, held.encoding)

    def _ends_in_float(self, value: ir.Value) -> bool:
        """True if nothing says in which encoding an output is wanted."""
        try:
            self.implied_encoding(value)
        except RefusedError:
            return True
        return False

    def _float_output(self, value: ir.Value) -> Port:
        """Compute an output that is never quantised in float32."""
        name = self._real(self, value, "the output is not quantised")
        return Port(str(value.name), shape_of(value), name, "float32", None)

    def _output_port(
        self, value: ir.Value, view: View, dtype: str, encoding: TensorEncoding | None
    ) -> Port:
        name = self.builder.dense(view, str(value.name), ())
        if name in self.builder.constants or any(p.buffer == name for p in self.inputs):
            name = self.builder.copied(name, f"{value.name}_out")  # outputs own their memory
        return Port(str(value.name), view.shape, name, dtype, encoding)


def lower(model: ir.Model, exact: bool = False) -> Program:
    """Return the integer program of a quantised model.

    `exact`: nothing is quantised; every value keeps the type that ONNX gives it.
    Raises ModelError naming every node for which there is neither an integer kernel nor an island.
    """
    from .islands import float_buffer, float_island
    from .matchers import MATCHERS
    from .movement import MOVEMENT
    from .plain import lower_plain

    lowering = Lowering(model, MATCHERS, MOVEMENT, lower_plain, float_island, float_buffer)
    return lowering.run_exact() if exact else lowering.run()
