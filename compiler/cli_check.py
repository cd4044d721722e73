"""`edgec check` and `edgec run`: what an artifact answers where it belongs."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_common import (
    GATE_FAILED,
    PATH,
    Verb,
    describe,
    device_option,
    devices_option,
    print_json,
    timeout_option,
)
from .core.errors import OptionError
from .core.units import number_text, size_text, time_text
from .terminal import print_table

if TYPE_CHECKING:
    from .api import Checked
    from .check import Verdict
    from .execute import Answer
    from .gates import GateVerdict
    from .layer_check import LayersVerdict

_SHOWN_SAMPLES, _SHOWN_VALUES, _SHOWN_FUNCTIONS, _SHOWN_LAYERS = 5, 3, 12, 12


@click.command("check", cls=Verb)
@click.argument("artifact", metavar="OUT", type=PATH)
@click.option(
    "--data",
    type=PATH,
    help="Labelled .npz to measure a metric.",
)
@click.option(
    "--metric",
    default="accuracy",
    show_default=True,
    help="accuracy, auc, max_abs, nll, spearman or sqnr_db.",
)
@click.option("--labels", default="labels", show_default=True, help="Array of data with labels.")
@click.option("--samples", type=click.IntRange(min=1), help="Most samples of data to run.")
@click.option("--profile", is_flag=True, help="Count instructions per function (emulators).")
@click.option(
    "--layers", is_flag=True, help="Compare what every layer writes; name the first to differ."
)
@click.option(
    "--store/--no-store", default=True, show_default=True,
    help="Keep the verdict in OUT and show it in OUT/report.html.",
)  # fmt: skip
@click.option("--keep", type=PATH, help="Keep the build for --layers here, to flash it.")
@devices_option
@timeout_option
def check_verb(
    artifact: Path, as_json: bool, keep: Path | None, devices: Sequence[str], **options: Any
) -> int:
    """Run an artifact where it belongs; say what was lost.

    With several --device, those of other machines (rpc) work at the same time.
    """
    if keep is not None:
        if not options["layers"]:
            raise click.UsageError("--keep goes with --layers.")
        from .package import check_output

        check_output(keep, overwrite=True)
    from .api import check, check_each

    page = artifact / "report.html" if options["store"] else None
    if len(devices) > 1:
        return _tell_each(check_each(artifact, devices, keep=keep, **options), page, as_json)
    verdict = check(artifact, device=devices[0], keep=keep, **options)
    if options["profile"] and verdict.profile is None:
        click.echo(f"edgec: no profile: {verdict.device} counts no instructions", err=True)
    if as_json:
        print_json(verdict.model_dump(mode="json"))
    else:
        _show_verdict(verdict, page)
    return 0 if verdict.passed else GATE_FAILED


def _tell_each(found: Sequence[Checked], page: Path | None, as_json: bool) -> int:
    """Print what came of every device and return the exit code: of the first error, if any."""
    verdicts = [c.verdict for c in found if c.verdict is not None]
    failures = [(c.device, *describe(c.error)) for c in found if c.error is not None]
    errors = [f"--device {device}: {text}" for device, _, said in failures for text in said]
    for error in errors:
        click.echo(f"edgec: {error}", err=True)
    passed = not failures and all(v.passed for v in verdicts)
    if as_json:
        dumped = [v.model_dump(mode="json") for v in verdicts]
        print_json({"passed": passed, "verdicts": dumped, "errors": errors})
    else:
        for index, verdict in enumerate(verdicts):
            if index:
                click.echo()
            _show_verdict(verdict, page if verdict is verdicts[-1] else None)
    return failures[0][1] if failures else 0 if passed else GATE_FAILED


def _show_verdict(verdict: Verdict, page: Path | None) -> None:
    from .metrics import steps_text

    title = f"{verdict.target} on {verdict.device}, {verdict.samples} reference samples"
    rows = [["PASSED" if verdict.passed else "FAILED", title]]
    quantised = verdict.quantised
    steps = steps_text(quantised.max_steps, quantised.max_steps_double)
    text = f"at most {steps} apart, {quantised.share_within_1:.2%} within 1"
    rows.append(["ONNX Runtime", text])
    if quantised.same_bits is not None:
        rows.append(["reference", "same bits" if quantised.same_bits else "DIFFERENT bits"])
    if (real := verdict.float) is not None:
        text = f"SQNR {real.sqnr_db:.1f} dB, cosine {real.cosine:.5f}, "
        text += f"at most {real.max_abs:.4g} apart, top-1 the same in {real.top1_agreement:.2%}"
        rows.append(["float model", text])
    if (task := verdict.task) is not None:
        rows.append([task.metric, f"{task.value:.4f}, float model {task.float_value:.4f}"])
    rows += _cost_rows(verdict)
    rows += [[f"gate {gate.name}", _gate_text(gate)] for gate in verdict.gates]
    if verdict.layers is not None:
        rows += _layer_rows(verdict.layers)
    rows += [] if page is None else [["report", str(page)]]
    print_table(rows)


def _layer_rows(found: LayersVerdict) -> list[list[str]]:
    """Return a summary, one line per layer that is not the same, and the first that differs."""
    same = sum(layer.same_bits is True for layer in found.layers)
    rows = [["layers", f"{same} of {len(found.layers)} with the same bits"]]
    others = [layer for layer in found.layers if layer.same_bits is not True]
    for layer in others[:_SHOWN_LAYERS]:
        where = f"{layer.function}  {', '.join(layer.nodes)}"
        bits = "float, other last digits" if layer.same_bits is None else "DIFFERENT bits"
        rows.append([f"  layer {layer.call}", f"{bits}  {where}"])
    if len(others) > _SHOWN_LAYERS:
        rows.append(["", f"... {len(others) - _SHOWN_LAYERS} more with --json"])
    if (first := found.first_difference) is not None:
        extent = ""
        if first.share is not None:
            extent = f" in {first.share:.2%} of its values, at most {first.max_steps} steps,"
        name = ", ".join(first.nodes) or first.function
        text = f"layer {first.call}, {first.function} for {name},{extent} on sample {first.sample}"
        rows.append(["first difference", text])
    return rows


def _cost_rows(verdict: Verdict) -> list[list[str]]:
    rows: list[list[str]] = []
    if (memory := verdict.memory) is not None:
        parts = f"arena {size_text(memory.arena_bytes)}, stack {size_text(memory.stack_bytes)}"
        rows.append(["flash", f"{size_text(memory.flash_bytes)} ({memory.flash_bytes} bytes)"])
        rows.append(["RAM", f"{size_text(memory.ram_bytes)} ({parts})"])
    if verdict.instructions is not None:
        rows.append(["instructions", f"{number_text(verdict.instructions)} per inference"])
    if verdict.time_s is not None:
        rows.append(["time", f"{time_text(verdict.time_s)} per inference"])
    costs = sorted((verdict.profile or {}).items(), key=lambda item: -item[1])
    rows += [[f"  {name}", f"{count:,.0f}"] for name, count in costs[:_SHOWN_FUNCTIONS]]
    return rows


def _gate_text(gate: GateVerdict) -> str:
    state = "passed" if gate.passed else "FAILED"
    return f"{state}: {_number(gate.value)}, at most {_number(gate.limit)} allowed"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


@click.command("run", cls=Verb)
@click.argument("artifact", metavar="OUT", type=PATH)
@click.option(
    "--input", "data", required=True, type=PATH,
    help="An .npz file with an array per input, [samples, ...]; .npy for one input.",
)  # fmt: skip
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Save the outputs as .npz, too.",
)
@device_option
@timeout_option
def run_verb(
    artifact: Path, data: Path, output: Path | None, device: str, timeout_s: float, as_json: bool
) -> int:
    """Run an artifact on your inputs, here or on its emulator.

    Inputs are what the ONNX model takes: they are quantised where it is float; integers for a
    model with integer inputs are its codes. Outputs are real values.
    """
    _check_output(output)
    from .execute import run_artifact

    answer = run_artifact(artifact, data, timeout_s, device)
    if output is not None:
        _save(output, answer.outputs)
    if as_json:
        print_json(_summary(answer, output))
    else:
        _show_answer(answer, output)
    return 0


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix != ".npz":
        raise OptionError(f"'{output}' must end in .npz, the only form outputs are saved in.")
    if not output.resolve().parent.is_dir():
        raise OptionError(f"the folder '{output.resolve().parent}' does not exist; create it.")


def _save(output: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to output whole or not at all."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    part = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        part.write_bytes(buffer.getvalue())
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def top_values(sample: Any) -> list[dict[str, float]]:
    """Return place (in the flat array) and value of the largest elements of one output."""
    import numpy as np

    flat = np.asarray(sample).reshape(-1)
    order = np.argsort(-flat.astype(np.float64), kind="stable")[:_SHOWN_VALUES]
    return [{"index": int(i), "value": float(flat[i])} for i in order]


def _summary(answer: Answer, output: Path | None) -> dict[str, Any]:
    return {
        "target": answer.manifest.target,
        "samples": answer.samples,
        "outputs": [
            {
                "name": name,
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "top": [top_values(sample) for sample in array],
            }
            for name, array in answer.outputs.items()
        ],
        "instructions": answer.instructions,
        "time_s": answer.time_s,
        "saved": None if output is None else str(output),
    }


def _show_answer(answer: Answer, output: Path | None) -> None:
    rows: list[list[str]] = []
    for name, array in answer.outputs.items():
        shape = "x".join(map(str, array.shape[1:])) or "scalar"
        rows.append([name, f"{shape} {array.dtype}", f"{answer.samples} samples"])
        for index, sample in enumerate(array[:_SHOWN_SAMPLES]):
            best = ", ".join(f"[{v['index']}] {v['value']:.5g}" for v in top_values(sample))
            rows.append(["", f"sample {index}", f"largest {best}"])
    if output is not None:
        rows.append(["saved", str(output)])
    print_table(rows)
