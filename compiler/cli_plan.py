"""`edgec plan`: the memory of a model, without building anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_common import GATE_FAILED, PATH, Verb, print_json, shapes_by_name, states_by_name
from .cli_options import model_options
from .core.units import size_text
from .terminal import print_table, progress

if TYPE_CHECKING:
    from .memory_map import MemoryMap

# Steps and blocks printed; --json has all.
_ROWS = 60
_BAR = 24


@click.command("plan", cls=Verb)
@click.argument("model", type=PATH)
@model_options
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors.")
def plan_verb(
    model: Path,
    target: str,
    calibration: str | None,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    max_ram: int | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Show what of MODEL lies where in RAM, step by step, and what would take less.

    The same as `edgec compile` would plan with the same options; nothing is compiled or written.
    """
    by_name, options["states"] = shapes_by_name(shapes), states_by_name(options["states"])
    from . import api
    from .memory_map import as_json as to_json

    with progress(hidden=quiet or as_json) as report:
        found = api.plan(
            model, target, calibration, report, shapes=by_name, max_ram_bytes=max_ram, **options
        )
    if as_json:
        print_json(to_json(found))
    elif not quiet:
        _show(found)
    if not found.fits:
        over = found.ram_bytes - (found.limit_bytes or 0)
        click.echo(
            f"FAILED --max-ram: RAM without the stack is {found.ram_bytes:,} bytes, {over:,} more "
            f"than the {found.limit_bytes:,} allowed.",
            err=True,
        )
    return 0 if found.fits else GATE_FAILED


def _show(found: MemoryMap) -> None:
    from .memory_map import content, where

    arena, program = found.arena, found.program
    parts = (
        f"arena {size_text(arena.size_bytes)}, inputs {size_text(found.inputs_bytes)}, outputs "
        f"{size_text(found.outputs_bytes)}; the stack comes on top"
    )
    rows = [[f"{found.name} for {found.target}", ""]]
    rows.append(["RAM", f"{size_text(found.ram_bytes)} ({parts})"])
    if found.limit_bytes is not None:
        rows.append(["limit", size_text(found.limit_bytes)])
    rows.append(["arena", f"{arena.size_bytes:,} bytes; no plan takes less than "
                          f"{arena.lower_bound_bytes:,}"])  # fmt: skip
    if (choice := found.lowered.choice) is not None:
        rows.append(["patches", choice.text])
    if program.calls:
        step = program.calls[arena.peak_call]
        rows.append(["fullest step", f"{arena.peak_call}: {where(step.nodes)}"])
    rows += [["", f"{size_text(b.size_bytes)} {content(program, b)}"] for b in found.peak[:4]]
    rows += [["would help", text] for text in found.advice]
    print_table(rows)
    click.echo("")
    print_table([*_steps(found)], ("step", "kernel", "alive", "", "layers"), right=(0, 2))
    click.echo("")
    print_table([*_blocks(found)], ("offset", "bytes", "steps", "content"), right=(0, 1))


def _steps(found: MemoryMap) -> Iterator[tuple[str, ...]]:
    """Yield what is alive in every step, or in the fullest of many."""
    from .memory_map import where

    alive, calls = found.arena.alive_bytes, found.program.calls
    shown = sorted(sorted(range(len(calls)), key=lambda i: -alive[i])[:_ROWS])
    most = max(alive, default=0) or 1
    for index in shown:
        bar = "#" * round(_BAR * alive[index] / most)
        call = calls[index]
        yield str(index), call.kernel.name, f"{alive[index]:,}", bar, where(call.nodes)
    if len(shown) < len(calls):
        yield "", "", "", "", f"{len(calls) - len(shown)} emptier steps: --json"


def _blocks(found: MemoryMap) -> Iterator[tuple[str, ...]]:
    """Yield every block of the arena, or the largest of many, by when they begin to live."""
    from .memory_map import content

    blocks = sorted(found.arena.blocks, key=lambda pair: -pair[0].size_bytes)
    shown = sorted(blocks[:_ROWS], key=lambda pair: (pair[0].first, pair[1]))
    for block, offset in shown:
        span = f"{block.first}" if block.first == block.last else f"{block.first}-{block.last}"
        yield f"{offset:,}", f"{block.size_bytes:,}", span, content(found.program, block)
    if len(shown) < len(blocks):
        yield "", "", "", f"{len(blocks) - len(shown)} smaller blocks: --json"
