"""LSTM and GRU with quantised weights: one kernel call for all outputs that somebody wants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...core.encoding import F64, TensorEncoding
from ...core.graph import label, shape_of
from ..encodings import encoding_of, per_tensor
from ..kernels._gates import (
    CELL_BITS,
    gate_constants,
    hidden_format,
    output_constants,
    state_constants,
    tanh_table,
)
from ..kernels._recurrent import Recurrent
from ..kernels._shared import Epilogue
from ..kernels.gru import Gru
from ..kernels.lstm import Lstm
from ..lower import Lowering, RefusedError, Request
from ..program import Array
from ..values import Codes, Quantised
from ..views import View
from .linear import Weights, weights

KERNELS: dict[str, type[Lstm | Gru]] = {"LSTM": Lstm, "GRU": Gru}
# Activations of the gates that the kernels compute, as ONNX calls them by default.
ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
# Inputs behind x, w, r and the bias: sequence lengths, the initial states, peepholes (LSTM).
LENGTHS, STATES, PEEPHOLES = 4, 5, 7


def match_recurrent(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Emit the kernel with the outputs that QuantizeLinear nodes behind it name."""
    _require_plain(low, node)
    index = list(node.outputs).index(request.value)
    wanted = {i: r for i, v in enumerate(node.outputs) if i != index and (r := _asked(low, v))}
    wanted[index] = request
    results = _emit(low, node, dict(sorted(wanted.items())))
    for i, result in results.items():
        low.answered(wanted[i], result)
    return results[index]


def _require_plain(low: Lowering, node: ir.Node) -> None:
    """Raise RefusedError for what the kernels do not compute, by the name of the attribute."""
    get, name = node.attributes, label(node)
    if get.get_float("clip", 0.0) != 0:
        raise RefusedError(f"{name}: attribute clip is not supported; export it without")
    if get.get_int("input_forget", 0):
        raise RefusedError(f"{name}: attribute input_forget is not supported; export it without")
    names = [str(n).lower() for n in get.get_strings("activations", ())]
    plain = ACTIVATIONS[node.op_type]
    if names and names != plain:
        raise RefusedError(
            f"{name}: activations {', '.join(names)} are not supported, only {', '.join(plain)}"
        )
    if get.get_string("direction", "forward") == "bidirectional" or get.get_int("layout", 0):
        raise RefusedError(f"{name}: it is not in canonical form; let expand_recurrent run first")
    if _input(node, LENGTHS) is not None:
        raise RefusedError(
            f"{name}: sequence lengths known only at run time are not supported; export it with "
            "sequences of one length"
        )
    if _input(node, PEEPHOLES) is not None:
        raise RefusedError(f"{name}: peephole weights are not supported; train it without")


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _asked(low: Lowering, value: ir.Value) -> Request | None:
    """Return the request that the first QuantizeLinear behind value will make, if there is one."""
    waiting = [value]
    while waiting:
        for node in waiting.pop(0).consumers():
            if node.op_type == "QuantizeLinear":
                return Request.whole(value, per_tensor(node, encoding_of(low.number, node)))
            if node.op_type in low.movers:
                waiting += node.outputs
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """The constants of a recurrent node: [rows, k] weights and the bias of each, real."""

    w: Weights
    r: Weights
    bias: F64


def _layer(low: Lowering, node: ir.Node, linear: bool) -> _Layer:
    w, r = (_matrix(low, node, i) for i in (1, 2))
    rows, hidden = r.codes.shape
    number = low.number(_input(node, 3))
    if number is None and _input(node, 3) is not None:
        raise RefusedError(f"{label(node)}: its bias is not a constant")
    both = np.zeros(2 * rows) if number is None else number.astype(np.float64).reshape(-1)
    of_w, of_r = both[:rows], both[rows:]
    if not linear:
        return _Layer(w, r, of_w + of_r)
    # The reset gate multiplies the candidate's recurrent bias, so that one stays by itself.
    ends = 2 * hidden
    joined = np.concatenate([of_w[:ends] + of_r[:ends], of_w[ends:], of_r[ends:]])
    return _Layer(w, r, joined)


def _matrix(low: Lowering, node: ir.Node, index: int) -> Weights:
    """Return the weights of the one direction: [rows, k]."""
    found = weights(low, node, node.inputs[index], 1)  # refuses blocks of three axes
    return Weights(found.codes[:, 0], found.scale)


def _emit(low: Lowering, node: ir.Node, wanted: dict[int, Request]) -> dict[int, Quantised]:
    linear = node.op_type == "GRU" and bool(node.attributes.get_int("linear_before_reset", 0))
    layer = _layer(low, node, linear)
    assert node.inputs[0] is not None
    x = low.quantised(node.inputs[0])
    steps, batch, inputs = x.view.shape
    _require_room(node, layer, x.encoding)
    kind = KERNELS[node.op_type]
    states = [_state(low, node, STATES + i) for i in range(len(kind.STATES))]
    bits, limit = hidden_format(layer.r.codes, states[0] and states[0].encoding)
    constants: list[Array] = [layer.w.codes, layer.r.codes]
    outputs: list[Epilogue | None] = [None] * len(kind.OUTPUTS)
    rules: list[Array] = []
    try:
        scales = layer.w.scale, layer.r.scale
        codes = layer.w.codes, layer.r.codes
        constants.append(gate_constants(codes, scales, layer.bias, x.encoding, bits))
        for i, state in enumerate(states):
            if state is not None:
                rules.append(state_constants(state.encoding, CELL_BITS if i else bits, limit))
        for i, request in wanted.items():
            fraction = CELL_BITS if i == 2 else bits
            rule = output_constants(request.encoding, fraction, request.low, request.high)
            outputs[i] = Epilogue.of(rule, request.dtype)
            rules.append(rule)
    except ValueError as reason:
        raise RefusedError(f"{label(node)}: {reason}") from reason
    kernel = kind(
        steps, batch, inputs, layer.r.codes.shape[1],
        tuple("" if s is None else s.encoding.dtype.name for s in states), tuple(outputs),
        x.encoding.dtype.name, bits, node.attributes.get_string("direction") == "reverse",
        **({"linear": linear} if kind is Gru else {}),
    )  # fmt: skip
    sources = [
        low.builder.dense(held.view, f"{node.outputs[0].name}_in", (label(node),))
        for held in (x, *states) if held is not None
    ]  # fmt: skip
    return _call(low, node, kernel, sources, [*constants, tanh_table(), *rules], wanted)


def _call(
    low: Lowering, node: ir.Node, kernel: Recurrent, sources: list[str], constants: list[Array],
    wanted: dict[int, Request],
) -> dict[int, Quantised]:  # fmt: skip
    hints = [request.hint for request in wanted.values()]
    names = low.builder.emit_all(kernel, sources, constants, hints, (label(node),))
    return {
        i: Quantised(View.whole(name, shape_of(node.outputs[i])), request.encoding)
        for name, (i, request) in zip(names, wanted.items(), strict=True)
    }


def _require_room(node: ir.Node, layer: _Layer, x: TensorEncoding) -> None:
    low, high = x.limits
    sums = np.abs(layer.w.codes.astype(np.int64)).sum(axis=1)
    if int(sums.max(initial=0)) * max(-low, high) >= 2**31:
        raise RefusedError(f"{label(node)}: its products overflow the int32 accumulator")


def _state(low: Lowering, node: ir.Node, index: int) -> Quantised | None:
    """Return an initial state in memory; None for zeros."""
    value = _input(node, index)
    number = low.number(value)
    if value is None or (number is not None and not np.any(number)):
        return None
    if number is None or isinstance(low.known(value), Codes):
        return low.quantised(value)
    scale = float(np.abs(number).max()) / (2**15 - 1)
    return low.quantised(value, TensorEncoding(16, (scale,), (0,)))
