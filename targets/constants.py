"""Constants given to the assembler as bytes: a C compiler takes a microsecond for every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Constant:
    """A symbol that other sources read, and the bytes that a device of its kind finds there."""

    symbol: str
    alignment: int
    content: bytes


def write_assembly(constants: Sequence[Constant], folder: Path, stem: str) -> Path:
    """Write folder/STEM.s and the bytes it includes; return its path.

    Every constant lies in a section of its own, as with -fdata-sections.
    """
    lines: list[str] = []
    offset = 0
    for constant in constants:
        symbol, size = constant.symbol, len(constant.content)
        lines += [
            f'    .section .rodata.{symbol},"a",%progbits',
            f"    .globl {symbol}",
            f"    .type {symbol}, %object",
            f"    .balign {constant.alignment}",
            f"{symbol}:",
            f'    .incbin "{stem}.bin", {offset}, {size}',
            f"    .size {symbol}, {size}",
        ]
        offset += size
    lines.append('    .section .note.GNU-stack,"",%progbits')
    (folder / f"{stem}.bin").write_bytes(b"".join(c.content for c in constants))
    path = folder / f"{stem}.s"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
