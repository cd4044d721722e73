"""What a compilation did, as data: report.json, and the text of report.txt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx_ir as ir

from .calibration_lint import lint
from .core.passbase import Note
from .frontend.reference import ONNX_RUNTIME
from .losses import Traced, layer_errors
from .lowering.memory import Arena
from .lowering.patches import Choice
from .lowering.program import Program
from .metrics import sqnr_db, steps, steps_text
from .outliers import pictures
from .ports import decode_port
from .stages import Built, Quantised, Step, Trial, all_steps
from .tensors import tensor_facts

# Types of weights, also of models that arrive quantised; their scales count for nothing much.
_WEIGHTS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8)


# Values whose outliers report.txt lists.
OUTLIERS = 12


def make_report(
    built: Built, trial: Trial, traced: Traced | None, timings: Mapping[str, float]
) -> dict[str, Any]:
    """Return report.json as a dictionary."""
    quantised = built.lowered.quantised
    profiled = quantised.planned.ranged.reshaped.profiled
    tensors = tensor_facts(built, traced)
    return {
        "model": profiled.canonical.source.name,
        "calibration": calibration_text(quantised),
        "calibration_lint": lint(profiled),
        "parameters": parameters(profiled.canonical.model),
        "passes": [_step(s) for s in all_steps(quantised)],
        "float_islands": list(built.lowered.program.notes),
        "operators": operator_counts(built.lowered.on_device),
        "outputs": output_errors(built, trial),
        "reference": trial.engine,
        "not_in_double": trial.not_in_double,
        "layers": layer_errors(built, traced),
        "tensors": tensors,
        "outlier_pictures": pictures(tensors, traced.real, traced.before) if traced else [],
        "memory": memory_plan(built.c_model.arena),
        "patches": patch_facts(built.lowered.choice),
        "size_by_layer": size_by_layer(built),
        "timings_s": {k: round(v, 4) for k, v in timings.items()},
    }


def parameters(model: ir.Model) -> dict[str, int]:
    """Return how many weights a canonical model has, and their bytes as float32."""
    arrays = [v.const_value for v in model.graph.initializers.values()]
    count = sum(a.size for a in arrays if a is not None and a.dtype in _WEIGHTS)
    return {"count": int(count), "float_bytes": 4 * int(count)}


def calibration_text(quantised: Quantised) -> str:
    """Return where the ranges came from, in one sentence."""
    profiled = quantised.planned.ranged.reshaped.profiled
    if profiled.canonical.source.already_quantised:
        return "the model was already quantised; its own encodings are kept as they are"
    if not quantised.planned.plan.encodings:
        return "nothing is quantised: every value has the type that the model gives it"
    if profiled.synthetic:
        return (
            f"WARNING: {profiled.sample_count} seeded synthetic samples, no real data: ranges, and "
            "so accuracy, mean nothing; pass --calibration"
        )
    return f"{profiled.sample_count} samples of the given calibration data"


def _notes(notes: Iterable[Note]) -> list[dict[str, str]]:
    return [{"where": n.where, "text": n.text} for n in notes]


def _step(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "changed": _notes(step.outcome.changed),
        "declined": _notes(step.outcome.declined),
        "seconds": round(step.seconds, 4),
        "output_error": step.error,
    }


def operator_counts(program: Program) -> dict[str, int]:
    """Return how often each integer kernel is called."""
    return dict(sorted(Counter(call.kernel.name for call in program.calls).items()))


def output_errors(built: Built, trial: Trial) -> list[dict[str, Any]]:
    """Return, per output, the distance of the program from ONNX Runtime and from float."""
    rows: list[dict[str, Any]] = []
    for port in built.lowered.program.outputs:
        expected, quantised = trial.expected[port.name], trial.quantised[port.name]
        row: dict[str, Any] = {"name": port.name, "max_steps": 0, "share_within_1": 1.0}
        row["max_steps_double"] = None
        if expected.dtype.kind != "f":
            distance = steps(expected, quantised)
            row["max_steps"] = distance.max_steps
            row["share_within_1"] = distance.share_within_1
            if port.name in trial.double:
                row["max_steps_double"] = steps(expected, trial.double[port.name]).max_steps
        real = trial.real.get(port.name)
        if real is not None and real.dtype.kind == "f":
            row["sqnr_db"] = sqnr_db(real, decode_port(port, expected))
        rows.append(row)
    return rows


def memory_plan(arena: Arena) -> dict[str, Any]:
    """Return the arena: size, lower bound, and every block with its lifetime."""
    blocks = [
        {
            "buffers": list(block.members),
            "offset": offset,
            "bytes": block.size_bytes,
            "first_call": block.first,
            "last_call": block.last,
        }
        for block, offset in sorted(arena.blocks, key=lambda pair: (pair[0].first, pair[1]))
    ]
    return {
        "arena_bytes": arena.size_bytes,
        "lower_bound_bytes": arena.lower_bound_bytes,
        "alive_bytes": list(arena.alive_bytes),
        "blocks": blocks,
    }


def patch_facts(choice: Choice | None) -> dict[str, Any] | None:
    """Return what was decided about patches; None: nothing had to be."""
    return None if choice is None else {**asdict(choice), "text": choice.text}


def size_by_layer(built: Built) -> list[dict[str, Any]]:
    """Return constants and multiply-accumulates of every call, in execution order."""
    return [
        {
            "call": index,
            "kernel": call.kernel.name,
            "function": function,
            "nodes": list(call.nodes),
            "weights_bytes": size,
            "macs": call.kernel.macs(),
        }
        for index, (call, function, size) in enumerate(
            zip(
                built.lowered.on_device.calls,
                built.c_model.functions,
                built.c_model.weights_bytes_by_call,
                strict=True,
            )
        )
    ]


def to_json(report: Mapping[str, Any]) -> str:
    """Return the text of report.json."""
    return json.dumps(report, indent=1, sort_keys=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} does not belong in a report")


def to_text(report: Mapping[str, Any]) -> str:
    """Return report.txt: the same facts, for people."""
    lines = [f"edgec report: {report['model']}", "", f"Calibration: {report['calibration']}"]
    lines += [f"  suspicious: {text}" for text in report["calibration_lint"]]
    lines += ["", "Passes"]
    for step in report["passes"]:
        error = step["output_error"]
        proof = "" if error is None else f", outputs moved {error:.1e}"
        lines.append(
            f"  {step['name']}: {len(step['changed'])} changed, {len(step['declined'])} declined"
            f" ({step['seconds']:.2f} s{proof})"
        )
        lines += [f"    + {n['where']}: {n['text']}" for n in step["changed"][:12]]
        if len(step["changed"]) > 12:
            lines.append(f"    + ... {len(step['changed']) - 12} more in report.json")
        lines += [f"    - {n['where']}: {n['text']}" for n in step["declined"][:6]]
        if len(step["declined"]) > 6:
            lines.append(f"    - ... {len(step['declined']) - 6} more in report.json")
    lines += ["", "Integer kernels"]
    lines += [f"  {count:4} x {name}" for name, count in report["operators"].items()]
    if report["float_islands"]:
        lines += ["", "Not on integers"]
        lines += [f"  {note}" for note in report["float_islands"]]
    lines += ["", "Outputs on the reference samples"]
    for row in report["outputs"]:
        real = f", SQNR {row['sqnr_db']:.1f} dB against float" if "sqnr_db" in row else ""
        lines.append(
            f"  {row['name']}: at most "
            f"{steps_text(row['max_steps'], row['max_steps_double'])} from ONNX Runtime, "
            f"{row['share_within_1']:.2%} within 1{real}"
        )
    if report["reference"] != ONNX_RUNTIME:
        lines.append(f"  in place of ONNX Runtime, which lacks an operator: {report['reference']}")
    if report["not_in_double"]:
        lines.append(f"  not compared in double precision: {report['not_in_double']}")
    lines += _layer_lines(report["layers"])
    lines += _outlier_lines(report["tensors"])
    memory = report["memory"]
    if report["patches"] is not None:
        lines += ["", f"Patches: {report['patches']['text']}"]
    lines += [
        "",
        f"Arena: {memory['arena_bytes']} bytes (no plan takes less than "
        f"{memory['lower_bound_bytes']})",
    ]
    lines += [
        f"  {b['offset']:8} +{b['bytes']:<8} calls {b['first_call']}..{b['last_call']}: "
        + ", ".join(b["buffers"])
        for b in memory["blocks"]
    ]
    lines += ["", "Layers: constants, multiply-accumulates"]
    lines += [
        f"  {r['call']:4} {r['function']:22} {r['weights_bytes']:9} B {r['macs']:10} MAC  "
        + ", ".join(r["nodes"])
        for r in report["size_by_layer"]
    ]
    lines += ["", "Time"]
    lines += [f"  {name:12} {seconds:7.2f} s" for name, seconds in report["timings_s"].items()]
    return "\n".join(lines) + "\n"


def _layer_lines(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    if not layers:
        return []
    lines = [
        "",
        "Values, worst first: SQNR of all so far, of what the layer itself adds, of storing it",
    ]
    lines += [
        f"  {row['sqnr_db']:7.1f} {row['local_sqnr_db']:7.1f} {row['storage_sqnr_db']:7.1f} dB"
        f"  {row['kernel']:18} "
        f"{row['value']}"
        for row in layers[:40]
    ]
    return lines


def _outlier_lines(tensors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the values with the loudest channels: after folding, and before where that differs."""
    rows = [row for row in tensors if row["outliers"] is not None]
    rows = sorted(rows, key=lambda row: -row["outliers"]["channel_ratio"])[:OUTLIERS]
    if not rows:
        return []
    lines = ["", "Outliers: loudest over median channel, token; kurtosis; persistent channels"]
    for row in rows:
        now = _outliers(row["outliers"])
        before = _outliers(row["outliers_before"] or row["outliers"])
        was = "" if before == now else f"  (was {before.strip()})"
        lines.append(f"  {now}  {row['value']}{was}")
    return lines


def _outliers(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['channel_ratio']:6.1f} {facts['token_ratio']:6.1f} {facts['kurtosis']:8.1f} "
        f"{facts['persistent_channels']:4}"
    )
