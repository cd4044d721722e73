"""What report.html says, as plain text and drawings ready to be laid out by the template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import charts
from .advice import advise
from .core.artifact import Manifest
from .core.encoding import TensorEncoding
from .core.plan import QuantPlan
from .core.units import count_text, size_text, time_text
from .metrics import steps_text

# Longer tables are cut to what weighs most; the rest is in report.json.
SHOWN_LAYERS, SHOWN_TENSORS, SHOWN_COSTS = 40, 48, 60


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """What the page reads of one artifact; `verdicts` as `stored_verdicts` returns them."""

    name: str
    manifest: Manifest
    report: Mapping[str, Any]
    plan: QuantPlan
    verdicts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Tile:
    """One number of the first screen: what it is, the number, and what to hold it against."""

    title: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Column:
    """One device: rows of text in the order of DEVICE_ROWS, "" where nothing was measured."""

    title: str
    device: str
    state: str
    cells: tuple[str, ...]


DEVICE_ROWS = (
    "same bits as the reference", "layers with the same bits", "steps from ONNX Runtime",
    "SQNR against float", "same top-1", "task", "flash", "RAM", "stack", "instructions", "time",
    "limits",
)  # fmt: skip


def short(row: Mapping[str, Any]) -> str:
    """Return how the page calls a layer: its ONNX nodes without operator names, else its kernel."""
    names = [n.split("'")[1] if n.count("'") == 2 else n for n in row["nodes"]]
    return ", ".join(names) or row.get("value") or row["kernel"]


def operators(row: Mapping[str, Any]) -> str:
    """Return the operators of a layer's ONNX nodes and the kernel that computes them."""
    names = list(dict.fromkeys(n.split(" ")[0] for n in row["nodes"]))
    return f"{', '.join(names)} by {row['kernel']}" if names else str(row["kernel"])


def own_verdict(folder: Folder) -> Mapping[str, Any] | None:
    """Return the verdict that the first screen tells of: the first that ran the whole artifact."""
    return folder.verdicts[0] if folder.verdicts else None


def tiles(folder: Folder) -> list[Tile]:
    """Return how small, how fast, what was lost."""
    return [_flash(folder), _ram(folder), _speed(folder), _lost(folder)]


def _flash(folder: Folder) -> Tile:
    memory = folder.manifest.memory
    parameters = folder.report["parameters"]["float_bytes"]
    note = f"constants {size_text(memory.weights_bytes)}"
    if memory.code_bytes is not None:
        note = f"code {size_text(memory.code_bytes)}, {note}"
    if parameters:
        note += f"; float32 parameters were {size_text(parameters)}"
    value = "unknown" if memory.flash_bytes is None else size_text(memory.flash_bytes)
    return Tile("Flash", value, note)


def _ram(folder: Folder) -> Tile:
    memory, verdict = folder.manifest.memory, own_verdict(folder)
    measured = None if verdict is None else verdict["memory"]
    arena = f"arena {size_text(memory.arena_bytes)}"
    if measured is not None:
        stack = f"stack {size_text(measured['stack_bytes'])}"
        return Tile("RAM", size_text(measured["ram_bytes"]), f"{arena}, {stack}, inputs, outputs")
    value = "unknown" if memory.ram_bytes is None else size_text(memory.ram_bytes)
    return Tile("RAM", value, f"{arena}, inputs, outputs; the stack comes on top")


def _speed(folder: Folder) -> Tile:
    verdict, macs = own_verdict(folder), folder.manifest.macs
    work = f"{count_text(macs)} multiply-accumulates"
    if verdict is not None and verdict["instructions"] is not None:
        count = verdict["instructions"]
        each = f", {count / macs:.1f} instructions each" if macs else ""
        return Tile("Instructions", count_text(count), f"per inference; {work}{each}")
    if verdict is not None and verdict["time_s"] is not None:
        return Tile("Time", time_text(verdict["time_s"]), f"per inference here; {work}")
    return Tile("Work", count_text(macs), "multiply-accumulates; edgec check measures the speed")


def _lost(folder: Folder) -> Tile:
    verdict = own_verdict(folder)
    errors = [o["sqnr_db"] for o in folder.report["outputs"] if "sqnr_db" in o]
    noise = f"{min(errors):.1f} dB" if errors else ""
    if verdict is not None and verdict["task"] is not None:
        task = verdict["task"]
        note = f"{task['metric']}, float model {task['float_value']:.4g}"
        note += f"; outputs {noise} above their error" if noise else ""
        return Tile("Quality", f"{task['value']:.4g}", note)
    if noise:
        return Tile("Quality", noise, "outputs above their error, against the float model")
    most = max((o["max_steps"] for o in folder.report["outputs"]), default=0)
    return Tile("Quality", f"{most} steps", "from ONNX Runtime at most; the model came quantised")


def columns(folders: Iterable[Folder]) -> list[Column]:
    """Return the devices side by side; an artifact that none has run gets a column too."""
    found: list[Column] = []
    for folder in folders:
        found += [_ran(folder, verdict) for verdict in folder.verdicts]
        if not folder.verdicts:
            found.append(_not_run(folder))
    return found


def _not_run(folder: Folder) -> Column:
    memory = folder.manifest.memory
    cells = [""] * len(DEVICE_ROWS)
    cells[DEVICE_ROWS.index("flash")] = _bytes(memory.flash_bytes)
    cells[DEVICE_ROWS.index("RAM")] = _bytes(memory.ram_bytes)
    return Column(folder.manifest.target, "no device yet", "not run", tuple(cells))


def _bytes(count: int | None) -> str:
    return "" if count is None else f"{count:,} B"


def _ran(folder: Folder, verdict: Mapping[str, Any]) -> Column:
    quantised, real, task = verdict["quantised"], verdict["float"], verdict["task"]
    memory, gates = verdict["memory"], verdict["gates"]
    bits = {True: "yes", False: "NO", None: ""}[quantised["same_bits"]]
    static = folder.manifest.memory
    failed = [g["name"] for g in gates if not g["passed"]]
    cells = (
        bits,
        _same_layers(verdict),
        steps_text(quantised["max_steps"], quantised.get("max_steps_double")),
        "" if real is None else f"{real['sqnr_db']:.1f} dB",
        "" if real is None else f"{real['top1_agreement']:.2%}",
        "" if task is None else f"{task['value']:.4g} of {task['float_value']:.4g}",
        _bytes(static.flash_bytes if memory is None else memory["flash_bytes"]),
        _bytes(static.ram_bytes if memory is None else memory["ram_bytes"]),
        "" if memory is None else _bytes(memory["stack_bytes"]),
        "" if verdict["instructions"] is None else f"{verdict['instructions']:,.0f}",
        "" if verdict["time_s"] is None else time_text(verdict["time_s"]),
        f"failed: {', '.join(failed)}" if failed else f"{len(gates)} hold",
    )
    state = "passed" if verdict["passed"] else "failed"
    return Column(verdict["target"], verdict["device"], state, cells)


def _same_layers(verdict: Mapping[str, Any]) -> str:
    found = (verdict.get("layers") or {}).get("layers")
    return f"{sum(v['same_bits'] is True for v in found)} of {len(found)}" if found else ""


def layer_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the layers by what each loses of its own, worst first, with cause and remedy."""
    ordered = sorted(report["layers"], key=lambda row: row["local_sqnr_db"])
    return [
        {
            "name": short(row), "operators": operators(row), "call": row["call"],
            "own": _decibels(row["local_sqnr_db"]), "total": _decibels(row["sqnr_db"]),
            "stored": _decibels(row["storage_sqnr_db"]), "advice": advise(row, report),
        }
        for row in ordered[:SHOWN_LAYERS]
    ]  # fmt: skip


def _decibels(value: float) -> str:
    return "exact" if value >= 200 else f"{value:.1f}"


def profile(report: Mapping[str, Any]) -> str:
    """Return the drawing of every layer's error in execution order."""
    ordered = sorted(report["layers"], key=lambda row: row["call"])
    return charts.profile(
        [charts.Point(short(r), r["sqnr_db"], r["local_sqnr_db"]) for r in ordered]
    )


def tensor_cards(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stored values, those whose layer loses most first, with their histograms."""
    own = {row["call"]: row["local_sqnr_db"] for row in report["layers"]}
    ordered = sorted(report["tensors"], key=lambda t: own.get(t["call"], 200.0))
    return [
        {
            "name": t["value"], "drawing": charts.histogram(t), "bits": t["bits"],
            "stored": f"{t['low']:.3g} to {t['high']:.3g}",
            "seen": f"{t['seen_low']:.3g} to {t['seen_high']:.3g}",
            "clipped": f"{t['clipped_share']:.2%}",
            "levels": f"{t['levels']:.0f}",
            "loudest": _loudest(t["channels"]),
        }
        for t in ordered[:SHOWN_TENSORS]
    ]  # fmt: skip


def heat_maps(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pictures of outliers, before folding and after it where it changed anything."""
    rows = {t["value"]: t for t in report["tensors"]}
    found: list[dict[str, Any]] = []
    for picture in report["outlier_pictures"]:
        row = rows[picture["value"]]
        changed = picture["before"] is not None
        both = [("before folding", picture["before"], row["outliers_before"])] if changed else []
        both.append(("after folding" if changed else "", picture["after"], row["outliers"]))
        for when, drawn, facts in both:
            text = (
                f"loudest channel {facts['channel_ratio']:.1f} and token "
                f"{facts['token_ratio']:.1f} times the median"
            )
            label = f"magnitudes of {picture['value']} {when}"
            found.append(
                {"name": picture["value"], "when": when, "facts": text,
                 "drawing": charts.heat_map(drawn, label)}
            )  # fmt: skip
    return found


def _loudest(channels: Mapping[str, Any] | None) -> str:
    if channels is None:
        return ""
    ratio = channels["loudest_magnitude"] / max(channels["median_magnitude"], 1e-12)
    return f"{ratio:.1f} (channel {channels['loudest']})"


def memory_peak(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the drawing of the arena and what is alive when most is."""
    plan, steps = report["memory"], max(len(report["size_by_layer"]), 1)
    alive = plan["alive_bytes"] or [0]
    peak = alive.index(max(alive))
    found = [b for b in plan["blocks"] if b["first_call"] <= peak <= b["last_call"]]
    largest = sorted(found, key=lambda b: -b["bytes"])
    calls = report["size_by_layer"]
    return {
        "drawing": charts.memory(plan, steps, peak),
        "step": peak,
        "layer": short(calls[peak]) if calls else "",
        "bytes": alive[peak],
        "blocks": [{"name": ", ".join(b["buffers"]), "bytes": b["bytes"]} for b in largest],
    }


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What every layer cost on a device (`edgec check --layers`): `title` names the unit."""

    title: str
    device: str
    by_call: Mapping[int, float]


def measured_layers(folder: Folder) -> Measured | None:
    """Return the costs of the first device that measured layers: instructions, else time."""
    for verdict in folder.verdicts:
        found = (verdict.get("layers") or {}).get("layers") or []
        for key, title, factor in (("instructions", "instructions", 1), ("time_s", "µs", 1e6)):
            if found and all(layer[key] is not None for layer in found):
                device = f"{verdict['target']} on {verdict['device']}"
                costs = {layer["call"]: factor * layer[key] for layer in found}
                return Measured(title, device, costs)
    return None


def cost_rows(report: Mapping[str, Any], measured: Measured | None) -> dict[str, Any]:
    """Return constants, multiply-accumulates and, where measured, the cost of every layer.

    In execution order; of long models the heaviest layers only.
    """
    calls: Sequence[Mapping[str, Any]] = report["size_by_layer"]
    work = {c["call"]: c["macs"] for c in calls} if measured is None else measured.by_call
    all_bytes = max(sum(c["weights_bytes"] for c in calls), 1)
    all_work = max(sum(work.values()), 1e-9)

    def shares(call: Mapping[str, Any]) -> tuple[float, float]:
        return call["weights_bytes"] / all_bytes, work.get(call["call"], 0.0) / all_work

    heaviest = sorted(calls, key=lambda c: max(shares(c)), reverse=True)[:SHOWN_COSTS]
    rows = [
        {
            "name": short(c), "operators": operators(c), "bytes": c["weights_bytes"],
            "macs": c["macs"], "measured": None if measured is None else work.get(c["call"], 0.0),
            "bytes_bar": charts.bar(shares(c)[0]), "work_bar": charts.bar(shares(c)[1], "work"),
        }
        for c in sorted(heaviest, key=lambda c: c["call"])
    ]  # fmt: skip
    total = None if measured is None else sum(work.values())
    return {
        "rows": rows, "left_out": len(calls) - len(rows), "measured": measured, "total": total,
    }  # fmt: skip


def _type(encoding: TensorEncoding) -> str:
    name = encoding.dtype.name
    if encoding.bits == 4:
        return "int4"
    return name if encoding.fills_dtype else f"{encoding.bits} bits in {name}"


def _granularity(encoding: TensorEncoding) -> str:
    if encoding.axis is None:
        return "tensor"
    text = f"{len(encoding.scale)} channels of axis {encoding.axis}"
    blocks = encoding.blocks
    return (
        text if blocks is None else f"{text}, multipliers for each {blocks.size} of {blocks.axis}"
    )


def plan_rows(folder: Folder) -> list[dict[str, str]]:
    """Return one row per encoding; of a model that arrived quantised those of its ports."""
    ports = (*folder.manifest.inputs, *folder.manifest.outputs)
    encodings = dict(folder.plan.encodings) or {p.name: p.encoding for p in ports if p.encoding}
    rows: list[dict[str, str]] = []
    for name, coded in encodings.items():
        low, high = coded.limits
        one = coded.axis is None
        scale, zero = coded.scale, coded.zero_point
        rows.append(
            {
                "name": name,
                "type": _type(coded),
                "granularity": _granularity(coded),
                "scale": f"{scale[0]:.4g}" if one else f"{min(scale):.3g} to {max(scale):.3g}",
                "zero": f"{zero[0]}" if len(set(zero)) == 1 else f"{min(zero)} to {max(zero)}",
                "range": f"{(low - zero[0]) * scale[0]:.4g} to {(high - zero[0]) * scale[0]:.4g}"
                if one
                else f"±{max(scale) * high:.3g} at most",
            }
        )
    rows += [
        {
            "name": name, "type": "float32", "granularity": reason, "scale": "", "zero": "",
            "range": "",
        }
        for name, reason in folder.plan.kept_float.items()
    ]  # fmt: skip
    return rows
