"""Compile the bundled network for three devices, check it on each, print one table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import edgec
from edgec.compiler.check import Verdict
from edgec.compiler.core.errors import EdgecError, ToolMissingError

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits"
TARGETS = ("host", "aarch64", "cortex-m4")
COLUMNS = (
    "target", "device", "accuracy", "float", "flash B", "RAM B", "instr.", "same\nbits",
)  # fmt: skip


@dataclass
class Demo:
    """What was found so far."""

    console: Console
    verdicts: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, targets: tuple[str, ...], folder: Path) -> None:
        """Compile and check for every target; one that cannot be done does not stop the rest."""
        folder.mkdir(parents=True, exist_ok=True)
        for target in targets:
            with self.console.status(f"{target}: compile and check on 500 images"):
                try:
                    self.verdicts[target] = compile_and_check(target, folder / target)
                except ToolMissingError as error:
                    self.missing[target] = str(error)
                except EdgecError as error:
                    self.failed[target] = str(error)

    def table(self) -> Table:
        """Return one row per target that was checked."""
        title = "digits.onnx in int8, 500 test images; instructions per inference"
        table = Table(*COLUMNS, title=title, box=SIMPLE_HEAD, padding=0)
        for verdict in self.verdicts.values():
            table.add_row(*cells(verdict))
        return table

    def side_by_side(self, folder: Path) -> Path:
        """Write one page about all artifacts that were checked and return where."""
        artifacts = [folder / target for target in self.verdicts]
        return edgec.report(*artifacts, output=folder / "report.html")

    @property
    def exit_code(self) -> int:
        """0 all good, 1 a check failed, 3 a tool is missing."""
        if self.failed or not all(v.passed for v in self.verdicts.values()):
            return 1
        return 3 if self.missing else 0


def compile_and_check(target: str, out: Path) -> Verdict:
    """Compile digits.onnx to out and run the test images where it belongs."""
    artifact = edgec.compile(
        DIGITS / "digits.onnx", target, out, calibration=DIGITS / "calibration.npz"
    )
    return artifact.check(data=DIGITS / "test.npz")


def cells(verdict: Verdict) -> tuple[str, ...]:
    """Return the row of a verdict; a dash where the device does not measure."""
    task, memory = verdict.task, verdict.memory
    assert task is not None
    return (
        verdict.target,
        verdict.device.replace(" ", "\n"),
        f"{task.value:.1%}",
        f"{task.float_value:.1%}",
        "-" if memory is None else f"{memory.flash_bytes:,}",
        "-" if memory is None else f"{memory.ram_bytes:,}",
        "-" if verdict.instructions is None else f"{verdict.instructions:,.0f}",
        "yes" if verdict.quantised.same_bits else "NO",
    )


def main() -> int:
    """Run the demo into build/demo."""
    console = Console()
    demo = Demo(console)
    demo.run(TARGETS, ROOT / "build" / "demo")
    console.print(demo.table())
    for target, reason in (*demo.missing.items(), *demo.failed.items()):
        console.print(f"{target} left out: {reason}", style="bold red", highlight=False)
    if demo.verdicts:
        page = demo.side_by_side(ROOT / "build" / "demo")
        console.print(f"The artifacts are in build/demo; look at {page.relative_to(ROOT)} first.")
    return demo.exit_code


if __name__ == "__main__":
    sys.exit(main())
