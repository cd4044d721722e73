"""`edgec compile`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_common import (
    GATE_FAILED,
    PATH,
    Verb,
    print_json,
    shapes_by_name,
    share,
    size,
    states_by_name,
)
from .cli_options import model_options
from .core.units import size_text
from .terminal import print_table, progress

if TYPE_CHECKING:
    from .api import Artifact
    from .gates import GateVerdict

_WORST_LAYERS = 3


_SECTIONS = {
    "Calibration": ("calibration", "calibration_method", "samples", "seed"),
    "What is done": (
        "wide_activations",
        "wide",
        "patches",
        "passes",
        "no_passes",
        "shapes",
        "states",
        "name",
        "layouts",
        "weights_file",
    ),
    "Limits": ("max_flash", "max_ram", "max_drop", "drop_measure", "evaluation"),
    "Looking inside": ("dump", "bisect", "tolerance"),
    "Files of options": ("config", "save_config"),
}


def _saver(path: Path) -> Callable[[Mapping[str, Any]], None]:
    """Return what saves parameters as path; raises OptionError when it could not."""
    from . import config

    config.require_savable(path)
    return lambda given: config.save_config(path, config.config_text(given))


@click.command("compile", cls=Verb, sections=_SECTIONS)
@click.argument("model", type=PATH)
@model_options
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Folder to write; else NAME-TARGET.",
)
@click.option("--weights-file", is_flag=True, help="Constants as a file to map into memory.")
@click.option("--max-flash", type=size, help="Limit of code and constants; else the board's.")
@click.option("--max-drop", type=share, help="Largest loss of quality, for example 1%.")
@click.option(
    "--drop-measure",
    default="agreement",
    show_default=True,
    help="agreement (top 1 with float), noise (share of power) or a metric of `edgec check`.",
)
@click.option("--evaluation", type=PATH, help="Labelled .npz on which the loss is measured.")
@click.option(
    "--layout",
    "layouts",
    multiple=True,
    type=click.Choice(["zephyr", "platformio", "arduino"]),
    help="Make the artifact a package of this, too.",
)
@click.option("--dump", type=PATH, help="Folder for the model after every pass.")
@click.option("--bisect", is_flag=True, help="Say after which pass the outputs drifted first.")
@click.option("--tolerance", type=share, help="From where on it is drift.  [default: 5%]")
@click.option("--save-config", type=PATH, help="Save the options as such a file.")
@click.option("--overwrite", is_flag=True, help="Replace an artifact that is there already.")
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors.")
@click.pass_context
def compile_verb(
    ctx: click.Context,
    model: Path,
    target: str,
    output: Path | None,
    calibration: str | None,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    max_flash: int | None,
    max_ram: int | None,
    dump: Path | None,
    bisect: bool,
    tolerance: float | None,
    save_config: Path | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Compile MODEL (.onnx) into an artifact folder.

    Without --calibration the ranges come from random data and accuracy means nothing. When a
    limit does not hold, OUT stays as it was and the artifact is kept in OUT.failed.
    """
    by_name, options["states"] = shapes_by_name(shapes), states_by_name(options["states"])
    if tolerance is not None and not bisect:
        raise click.UsageError("--tolerance is of use with --bisect only.")
    from . import api
    from .core.errors import GateError
    from .frontend.source import c_identifier
    from .gates import static_gates
    from .trace import tracing

    save = None if save_config is None else _saver(save_config)
    out = output or Path(f"{options['name'] or c_identifier(model.stem)}-{target}")
    refused: Sequence[str] = ()
    with tracing(dump, bisect) as trace, progress(hidden=quiet or as_json) as report:
        try:
            artifact = api.compile(
                model, target, out, calibration, report, overwrite, trace.watch, trace.judge,
                shapes=by_name, max_flash_bytes=max_flash, max_ram_bytes=max_ram, **options,
            )  # fmt: skip
        except GateError as error:
            artifact, refused = api.Artifact.open(error.folder), error.problems
    if save is not None:
        save(ctx.params)
    gates = static_gates(artifact.manifest)
    warnings = _warnings(artifact.report)
    if as_json:
        print_json({**summary(artifact, gates, warnings), **trace.as_json(tolerance)})
    elif not quiet:
        _show(artifact, [*trace.rows(tolerance)], not refused)
    for text in (*warnings, *refused):
        click.echo(text, err=True)
    return GATE_FAILED if refused else 0


def _warnings(report: Mapping[str, Any]) -> list[str]:
    text = str(report["calibration"])
    synthetic = [text] if text.startswith("WARNING") else []
    return [*synthetic, *(f"WARNING: {found}" for found in report["calibration_lint"])]


def summary(
    artifact: Artifact, gates: Sequence[GateVerdict], warnings: Sequence[str]
) -> dict[str, Any]:
    """Return what --json prints."""
    manifest, report = artifact.manifest, artifact.report
    return {
        "passed": all(gate.passed for gate in gates),
        "artifact": str(artifact.path),
        "name": manifest.name,
        "target": manifest.target,
        "inputs": [port.model_dump(mode="json") for port in manifest.inputs],
        "outputs": [port.model_dump(mode="json") for port in manifest.outputs],
        "memory": manifest.memory.model_dump(mode="json"),
        "macs": manifest.macs,
        "errors_by_output": report["outputs"],
        "worst_layers": report["layers"][:_WORST_LAYERS],
        "calibration": report["calibration"],
        "warnings": list(warnings),
        "gates": [gate.model_dump(mode="json") for gate in gates],
        "timings_s": dict(manifest.timings_s),
    }


def _show(artifact: Artifact, traced: Sequence[Sequence[str]], all_good: bool) -> None:
    manifest, memory = artifact.manifest, artifact.manifest.memory
    rows = [[f"{manifest.name} for {manifest.target}", str(artifact.path)]]
    if memory.flash_bytes is not None:
        parts = f"code {size_text(memory.code_bytes or 0)}, constants "
        rows.append(
            ["flash", f"{size_text(memory.flash_bytes)} ({parts}{size_text(memory.weights_bytes)})"]
        )
    if memory.ram_bytes is not None:
        arena = f"arena {size_text(memory.arena_bytes)}; the stack comes on top"
        rows.append(["RAM", f"{size_text(memory.ram_bytes)} ({arena})"])
    if (patches := artifact.report["patches"]) is not None:
        rows.append(["patches", patches["text"]])
    rows += [[f"output {row['name']}", output_text(row)] for row in artifact.report["outputs"]]
    for index, row in enumerate(artifact.report["layers"][:_WORST_LAYERS]):
        where = ", ".join(row["nodes"]) or row["value"]
        rows.append(["" if index else "worst layers", f"{row['sqnr_db']:.1f} dB at {where}"])
    rows += map(list, traced)
    names = [n for n in ("report.html", "report.txt") if (artifact.path / n).is_file()]
    rows += [["report", str(artifact.path / names[0])]] if names else []
    if all_good:
        rows.append(["next", f"edgec check {artifact.path}"])
    print_table(rows)


def output_text(row: Mapping[str, Any]) -> str:
    """Return how far one output is from float and from ONNX Runtime, in words."""
    real = f"SQNR {row['sqnr_db']:.1f} dB against float, " if "sqnr_db" in row else ""
    from .metrics import steps_text

    steps = steps_text(row["max_steps"], row["max_steps_double"])
    return f"{real}at most {steps} from ONNX Runtime"
