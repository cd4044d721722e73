"""What each layer loses: every stored value of the program beside the float model.

Three errors per layer, all as SQNR. `sqnr_db`: the value against the float model's, so the error of
everything up to it. `local_sqnr_db`: what the layer itself adds, against its float operators fed
with exactly what the kernel reads. `storage_sqnr_db`: rounding the float value to its encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .core.graph import constant, label
from .core.linear import LinearView, linear_view
from .core.passbase import Feeds
from .core.plan import QuantPlan
from .frontend.reference import Reference
from .lowering.program import Array, Call, Program
from .metrics import sqnr_db
from .ports import encode_port
from .stages import Built, Reshaped

# Values are compared on as many samples as make these multiply-accumulates, between these limits.
TRACED_MACS = 200_000_000
TRACED_SAMPLES = (2, 8)
# What a value that its producer's float operators are cut off from is called in the cut model.
_GIVEN = "{}.given"


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """Stored values of a few samples: `real` of the float model per ONNX name, `memory` of the
    program per buffer, `own` of the float operators of each layer fed with what its kernel read.
    `before`: of the float model before anything was folded; empty where nothing was.

    Arrays of `real`, `own` and `before`: [samples, *shape]; `memory`: one mapping per sample.
    """

    real: Mapping[str, Array]
    own: Mapping[str, Array]
    memory: Sequence[Mapping[str, Array]]
    before: Mapping[str, Array]


def trace(built: Built, most: int) -> Traced | None:
    """Run the float model, the program and every layer alone on up to `most` kept samples.

    None for a model that arrived quantised: there is no float model to compare with.
    """
    reshaped = built.lowered.quantised.planned.ranged.reshaped
    if reshaped.profiled.canonical.source.already_quantised:
        return None
    program, model = built.lowered.program, reshaped.model
    known = {str(v.name) for n in model.graph for v in n.outputs}
    wanted = sorted({o.value for o in program.origins.values()} & known)
    macs = sum(c.kernel.macs() for c in program.calls)
    count = int(np.clip(TRACED_MACS // max(macs, 1), *TRACED_SAMPLES))
    feeds = reshaped.profiled.samples[: min(count, most)]
    codes = [{p.name: encode_port(p, f[p.name]) for p in program.inputs} for f in feeds]
    memory = [program.trace(c) for c in codes]
    runner = Reference(model, wanted)
    cut, given = _cut(model, program, wanted)
    alone = Reference(cut, wanted)
    real = [runner.run(f) for f in feeds]
    own = [alone.run({**f, **_read(program, given, m)}) for f, m in zip(feeds, memory, strict=True)]
    before = _before(reshaped, wanted, feeds)
    return Traced(_stacked(real, wanted), _stacked(own, wanted), memory, before)


def _before(reshaped: Reshaped, wanted: Sequence[str], feeds: Sequence[Feeds]) -> dict[str, Array]:
    """Return the same values of the canonical model, if transforms have changed it since."""
    first = reshaped.profiled.canonical.model
    if first is reshaped.model:
        return {}
    known = {str(v.name) for n in first.graph for v in n.outputs}
    names = [name for name in wanted if name in known]
    runner = Reference(first, names)
    return _stacked([runner.run(f) for f in feeds], names)


def _stacked(answers: Sequence[Mapping[str, Array]], names: Sequence[str]) -> dict[str, Array]:
    return {n: np.stack([a[n] for a in answers]) for n in names}


def _first_buffers(program: Program) -> dict[str, str]:
    """Return ONNX value -> the buffer in which the program first stores it."""
    stored = [p.buffer for p in program.inputs]
    stored += [b for call in program.calls for b in call.outputs]
    found: dict[str, str] = {}
    for buffer in stored:
        if buffer in program.origins:
            found.setdefault(program.origins[buffer].value, buffer)
    return found


def _cut(
    model: ir.Model, program: Program, wanted: Sequence[str]
) -> tuple[ir.Model, dict[str, str]]:
    """Return model with each stored value read from an input instead of from its producer.

    Also name of feed -> buffer with the codes it is read from.
    """
    cut = model.clone()
    values = ir.convenience.create_value_mapping(cut.graph)
    buffers = _first_buffers(program)
    given = {p.name: p.buffer for p in program.inputs if p.buffer in program.origins}
    for name in wanted:
        value, buffer = values[name], buffers.get(name)
        if buffer is None or not value.uses():
            continue
        fed = ir.val(_GIVEN.format(name), dtype=value.dtype, shape=value.shape)
        for node, index in tuple(value.uses()):
            node.replace_input_with(index, fed)
        cut.graph.inputs.append(fed)
        given[str(fed.name)] = buffer
    return cut, given


def _read(
    program: Program, given: Mapping[str, str], memory: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the real values that the codes in memory stand for, per name of feed."""
    return {name: _content(program, buffer, memory) for name, buffer in given.items()}


def _content(program: Program, buffer: str, memory: Mapping[str, Array]) -> Array:
    origin = program.origins[buffer]
    return origin.encoding.dequantise(origin.read(memory[buffer]))


def layer_errors(built: Built, traced: Traced | None) -> list[dict[str, Any]]:
    """Return the errors of every stored value, worst first by what has been lost up to it."""
    if traced is None:
        return []
    planned = built.lowered.quantised.planned
    linear = _linear_layers(planned.ranged.reshaped.model)
    rows: list[dict[str, Any]] = []
    for index, call, buffer in stored_outputs(built.lowered.program):
        row = _errors(built.lowered.program, call, buffer, traced)
        if row is not None:
            views = [linear[n] for n in call.nodes if n in linear]
            weights = _weights(views[0], planned.plan) if views else None
            rows.append({"call": index, **row, "weights": weights})
    return sorted(rows, key=lambda row: row["sqnr_db"])


def stored_outputs(program: Program) -> Iterator[tuple[int, Call, str]]:
    """Yield index, call and buffer of every call whose first output is a known ONNX value."""
    for index, call in enumerate(program.calls):
        if call.outputs[0] in program.origins:
            yield index, call, call.outputs[0]


def _errors(program: Program, call: Call, buffer: str, traced: Traced) -> dict[str, Any] | None:
    origin = program.origins[buffer]
    if origin.value not in traced.real:
        return None
    real, own = traced.real[origin.value], traced.own[origin.value]
    got = np.stack([_content(program, buffer, m) for m in traced.memory])
    recoded = [b for b in call.inputs if b in program.origins]
    recoded = [b for b in recoded if program.origins[b].value == origin.value]
    if recoded:  # the same value in another encoding: nothing but the codes changed
        own = np.stack([_content(program, recoded[0], m) for m in traced.memory])
    return {
        "value": origin.value,
        "kernel": call.kernel.name,
        "nodes": list(call.nodes),
        "sqnr_db": sqnr_db(real, got),
        "local_sqnr_db": sqnr_db(own, got),
        "storage_sqnr_db": sqnr_db(real, origin.encoding.roundtrip(real)),
    }


def _linear_layers(model: ir.Model) -> dict[str, LinearView]:
    views = {label(node): linear_view(node) for node in model.graph}
    return {name: view for name, view in views.items() if view is not None}


def _weights(view: LinearView, plan: QuantPlan) -> dict[str, Any] | None:
    """Return how well the weights of a layer are stored.

    `peak_to_rms`: the largest weight of an output channel over the root mean square of that
    channel, in the worst channel: one step of the encoding is peak / 127.
    """
    value = view.node.inputs[view.weight_index]
    stored = constant(value)
    encoding = None if value is None else plan.encodings.get(str(value.name))
    if stored is None or encoding is None:
        return None
    rows = np.abs(np.moveaxis(stored, view.out_axis, 0).reshape(stored.shape[view.out_axis], -1))
    rms = np.sqrt(np.square(rows, dtype=np.float64).mean(axis=1))
    ratio = np.divide(rows.max(axis=1), rms, out=np.ones_like(rms), where=rms > 0)
    worst = int(np.argmax(ratio))
    return {
        "bits": encoding.bits,
        "sqnr_db": sqnr_db(stored, encoding.roundtrip(stored)),
        "peak_to_rms": float(ratio[worst]),
        "channel": worst,
    }
