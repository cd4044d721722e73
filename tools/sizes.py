"""Print the sizes of files and functions; fail above the caps."""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("compiler", "passes", "runtime", "targets", "tests", "tools", "examples")
SUFFIXES = (".py", ".c", ".h")
# Budgets of size in lines: medians are aims, caps are limits.
FILE_CAP, FUNCTION_CAP = 500, 80
FILE_MEDIAN, FUNCTION_MEDIAN = 120, 10


@dataclass(frozen=True, slots=True)
class Size:
    """Lines of one file or Python function."""

    where: str
    lines: int


def source_files(root: Path = ROOT) -> list[Path]:
    """Return every Python and C file of the project, sorted."""
    found = (p for folder in FOLDERS for p in (root / folder).rglob("*") if p.suffix in SUFFIXES)
    return sorted(p for p in found if "__pycache__" not in p.parts)


def file_sizes(files: Iterable[Path], root: Path = ROOT) -> list[Size]:
    """Return the lines of each file."""
    return [Size(str(f.relative_to(root)), len(f.read_text("utf-8").splitlines())) for f in files]


def function_sizes(files: Iterable[Path], root: Path = ROOT) -> Iterator[Size]:
    """Yield the lines of each Python function, decorators left out."""
    for file in files:
        if file.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield Size(f"{file.relative_to(root)}:{node.lineno} {node.name}", lines)


def over(sizes: Iterable[Size], cap: int) -> list[Size]:
    """Return those above cap, largest first."""
    return sorted((s for s in sizes if s.lines > cap), key=lambda s: -s.lines)


def _line(what: str, sizes: list[Size], median: int, cap: int) -> str:
    middle = statistics.median(s.lines for s in sizes)
    largest = max(sizes, key=lambda s: s.lines)
    return (
        f"sizes: {len(sizes)} {what}, median {middle:g} lines (aim {median}), "
        f"largest {largest.lines} (cap {cap}): {largest.where}"
    )


def main() -> int:
    """Print both distributions; return 1 when anything is above its cap."""
    files = source_files()
    by_file, by_function = file_sizes(files), list(function_sizes(files))
    print(_line("files", by_file, FILE_MEDIAN, FILE_CAP))
    print(_line("functions", by_function, FUNCTION_MEDIAN, FUNCTION_CAP))
    large = over(by_file, FILE_CAP) + over(by_function, FUNCTION_CAP)
    for size in large:
        print(f"sizes: {size.where} has {size.lines} lines: split it")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main())
