"""Make the pictures of docs/report.md: the page of the digits network, photographed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import edgec
from tools import browser

ROOT = Path(__file__).resolve().parents[1]
DIGITS, PICTURES = ROOT / "examples" / "digits", ROOT / "docs" / "pictures"
TARGETS = ("cortex-m4", "cortex-m55", "aarch64", "host")
LARGEST_BYTES = 200_000


def main() -> int:
    """Write docs/pictures; fail where a picture is too large to commit."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgec-pictures-") as name:
        made = photograph(digits_page(Path(name)), PICTURES)
    large = [p for p in made if p.stat().st_size > LARGEST_BYTES]
    for path in large:
        print(f"pictures: {path} has {path.stat().st_size} bytes, more than {LARGEST_BYTES}")
    return 1 if large else 0


def photograph(page: Path, folder: Path) -> list[Path]:
    """Write a page into folder as PNG and return the files: desktop, phone in the dark, print."""
    desktop, phone, printed = (folder / f"report-{n}.png" for n in ("desktop", "phone", "print"))
    browser.screenshot(page, desktop, browser.DESKTOP, 1400)
    browser.screenshot(page, phone, browser.PHONE, 1500, dark=True)
    print_picture(page, printed)
    return [desktop, phone, printed]


def digits_page(folder: Path) -> Path:
    """Compile the digits network for all TARGETS, check it on each, and return the page of all."""
    artifacts: list[Path] = []
    for target in TARGETS:
        made = edgec.compile(
            DIGITS / "digits.onnx", target, folder / "digits", DIGITS / "calibration.npz"
        )
        made.check(data=DIGITS / "test.npz", layers=True)
        artifacts.append(made.path.rename(folder / target))
    return edgec.report(*artifacts, output=folder / "page.html")


def print_picture(page: Path, out: Path) -> None:
    """Save the second printed page as PNG."""
    pdf = out.with_suffix(".pdf")
    browser.print_pdf(page, pdf)
    command = ["pdftoppm", "-png", "-r", "80", "-f", "2", "-l", "2", "-singlefile"]
    subprocess.run([*command, str(pdf), str(out.with_suffix(""))], check=True)
    pdf.unlink()


if __name__ == "__main__":
    sys.exit(main())
