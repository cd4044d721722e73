"""`edgec bench` and `edgec compare`: what artifacts cost, and how two of them differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .cli_common import (
    PATH,
    Verb,
    devices_option,
    print_json,
    shape,
    shapes_by_name,
    timeout_option,
)
from .core.units import number_text, size_text, time_text
from .terminal import print_table

if TYPE_CHECKING:
    from .bench import Bench
    from .compare import Comparison, LayerPair
    from .layer_check import LayerVerdict


@click.command("bench", cls=Verb)
@click.argument("artifacts", metavar="OUT...", nargs=-1, required=True, type=PATH)
@click.option("--layers/--no-layers", default=True, show_default=True, help="Measure every layer.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=20, show_default=True,
    help="Runs per sample where time is measured.",
)  # fmt: skip
@devices_option
@timeout_option
def bench_verb(
    artifacts: Sequence[Path], layers: bool, repeat: int, devices: Sequence[str],
    timeout_s: float, as_json: bool,
) -> int:  # fmt: skip
    """Say what an inference costs: instructions on emulators, time on real devices, per layer."""
    from .bench import bench_artifact

    found = [
        bench_artifact(path, layers, repeat, timeout_s, device)
        for path in artifacts
        for device in devices
    ]
    if as_json:
        print_json({"artifacts": [b.model_dump(mode="json") for b in found]})
        return 0
    header = ("artifact", "target", "device", "instructions", "per MAC", "time", "flash", "RAM")
    print_table([_bench_row(b) for b in found], header, right=(3, 4, 5, 6, 7))
    for bench in found:
        if bench.layers:
            where = f" on {bench.device}" if len(devices) > 1 else ""
            print(f"\n{bench.artifact}{where}: layers, in execution order")
            print_layers(bench.layers)
    return 0


def _bench_row(bench: Bench) -> list[str]:
    count = bench.instructions
    return [
        bench.artifact, bench.target, bench.device, number_text(count),
        "-" if count is None or not bench.macs else f"{count / bench.macs:.2f}",
        _time(bench.time.median_s if bench.time else None),
        _size(bench.flash_bytes), _size(bench.ram_bytes),
    ]  # fmt: skip


def print_layers(layers: Sequence[LayerVerdict]) -> None:
    """Print one line per layer: its cost, its share of the sum, instructions per MAC."""
    counted = [layer.instructions for layer in layers if layer.instructions is not None]
    timed = [layer.time_s for layer in layers if layer.time_s is not None]
    total = sum(counted or timed)
    rows: list[list[str]] = []
    for layer in layers:
        cost = layer.instructions if counted else layer.time_s
        rows.append(
            [
                str(layer.call), layer.function,
                number_text(cost) if counted else _time(cost),
                "-" if cost is None or not total else f"{cost / total:.1%}",
                "-" if layer.instructions is None or not layer.macs
                else f"{layer.instructions / layer.macs:.2f}",
                ", ".join(layer.nodes),
            ]
        )  # fmt: skip
    kind = "instructions" if counted else "time"
    print_table(rows, ("call", "function", kind, "share", "per MAC", "nodes"), right=(0, 2, 3, 4))


@click.command("compare", cls=Verb)
@click.argument("first", metavar="A", type=PATH)
@click.argument("second", metavar="B", type=PATH)
@click.option("--data", type=PATH, help="Inputs to compare on: .npz or a folder of .npy.")
@click.option("--layers/--no-layers", default=True, show_default=True, help="Measure every layer.")
@click.option("--samples", type=click.IntRange(min=1), help="Most samples to run.")
@click.option("--shape", "shapes", type=shape, multiple=True, help="Shape of an open input.")
@timeout_option
def compare_verb(
    first: Path, second: Path, data: Path | None, layers: bool, samples: int | None,
    shapes: Sequence[tuple[str, tuple[int, ...]]], timeout_s: float, as_json: bool,
) -> int:  # fmt: skip
    """Compare two artifacts or models: size, cost, how far apart their answers are.

    Without --data: the reference inputs of an artifact, or synthetic ones for two models.
    """
    by_name = shapes_by_name(shapes)
    from .compare import compare

    found = compare(first, second, data, layers, samples, by_name, timeout_s)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _show_comparison(found)
    return 0


def _show_comparison(found: Comparison) -> None:
    a, b = found.first, found.second
    rows = [
        ["", a.path, b.path, "B / A"],
        ["kind", a.target or a.kind, b.target or b.kind, ""],
        _ratio_row("MACs", a.macs, b.macs, number_text),
        _ratio_row("weights", a.weights_bytes, b.weights_bytes, _size),
        _ratio_row("flash", a.flash_bytes, b.flash_bytes, _size),
        _ratio_row("RAM", a.ram_bytes, b.ram_bytes, _size),
        _ratio_row("arena", a.arena_bytes, b.arena_bytes, _size),
        _ratio_row("instructions", a.instructions, b.instructions, number_text),
        _ratio_row("time", a.time_s, b.time_s, _time),
        ["SQNR to own float", _decibel(a.sqnr_db), _decibel(b.sqnr_db), ""],
    ]
    print_table([row for row in rows if row[1:3] != ["-", "-"]], right=(1, 2, 3))
    print(f"\noutputs of B against A, {found.samples} samples, {found.inputs}")
    for out in found.outputs:
        text = f"SQNR {out.sqnr_db:.1f} dB, cosine {out.cosine:.5f}, at most {out.max_abs:.4g} "
        text += f"apart, top-1 the same in {out.top1_agreement:.2%}"
        name = out.name if out.name == out.other else f"{out.name} / {out.other}"
        print_table([[name, "the same" if out.same else text]])
    if found.layers:
        print(f"\nlayers: {found.unit}")
        print_table(
            [_pair_row(pair, found.unit) for pair in found.layers],
            ("A", "B", "B / A", "nodes"),
            right=(0, 1, 2),
        )


def _pair_row(pair: LayerPair, unit: str | None) -> list[str]:
    show = number_text if unit == "instructions" else _time
    _, a, b, ratio = _ratio_row("", pair.first, pair.second, show)
    return [a, b, ratio, ", ".join(pair.nodes)]


def _ratio_row(
    name: str, a: float | None, b: float | None, show: Callable[[float | None], str]
) -> list[str]:
    return [name, show(a), show(b), f"{b / a:.2f}" if a and b is not None else ""]


def _size(value: float | None) -> str:
    return "-" if value is None else size_text(int(value))


def _time(value: float | None) -> str:
    return "-" if value is None else time_text(value)


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"
