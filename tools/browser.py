"""Open a page in headless Chromium: pictures of it, and an audit of what a reader would see."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PHONE, DESKTOP = 360, 1100
TIMEOUT_S = 120.0
# What each section of a report about a float model must show: CSS selector -> least number.
CONTENT: Mapping[str, Mapping[str, int]] = {
    "summary": {".tiles .value": 4, ".lost li": 1, "nav a": 7},
    "devices": {"tbody tr": 3, "thead th": 2},
    "layers": {"svg circle": 1, "tbody tr": 1, "figcaption": 1},
    "ranges": {".card": 1, ".card svg rect": 3, ".card dd": 4},
    "memory": {"svg rect": 1, "tbody tr": 1, "figcaption": 1},
    "costs": {"tbody tr": 1, "svg.bar": 2},
    "plan": {"tbody tr": 1, "tbody td": 6},
    "passes": {"details li": 1},
}
# Of WCAG 2.2, level AA, for text of normal size.
LEAST_CONTRAST = 4.5
LEAST_FONT_PX = 10.5
# Words a section has besides its heading, whatever the model.
LEAST_WORDS = 6

_SCRIPT = Path(__file__).parent / "audit.js"


def chromium() -> str | None:
    """Return the Chromium of this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def _run(*options: str, page: Path) -> str:
    program = chromium()
    if program is None:
        raise SystemExit("browser: there is no chromium; install it: sudo apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="edgec-chromium-") as profile:
        common = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        command = [program, *common, f"--user-data-dir={profile}", *options, page.as_uri()]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _scheme(dark: bool) -> str:
    return f"--blink-settings=preferredColorScheme={0 if dark else 1}"


def _framed(text: str, width: int, height: int) -> str:
    """Return a page that shows text in a frame: windows of Chromium are never below 500 pixels."""
    style = "border: 0; display: block"
    frame = (
        f'<iframe style="{style}" width="{width}" height="{height}" srcdoc="{html.escape(text)}">'
    )
    return f'<!doctype html><meta charset="utf-8"><body style="margin: 0">{frame}</iframe></body>'


def screenshot(page: Path, out: Path, width: int, height: int, dark: bool = False) -> None:
    """Save what a window of width x height pixels shows of page as PNG."""
    with tempfile.TemporaryDirectory(prefix="edgec-shot-") as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(_framed(page.read_text("utf-8"), width, height), encoding="utf-8")
        size = f"--window-size={width},{height}"
        _run(size, _scheme(dark), f"--screenshot={out.resolve()}", page=frame)


def print_pdf(page: Path, out: Path) -> None:
    """Print page into a PDF file."""
    _run("--no-pdf-header-footer", f"--print-to-pdf={out.resolve()}", page=page.resolve())


def audit(page: Path, width: int, dark: bool = False) -> dict[str, Any]:
    """Return what a reader of page at this width gets: see audit.js.

    The script goes into a copy: the page itself has none.
    """
    script = f"<script>{_SCRIPT.read_text(encoding='utf-8')}</script>"
    text = page.read_text(encoding="utf-8").replace("</body>", f"{script}</body>")
    with tempfile.TemporaryDirectory(prefix="edgec-audit-") as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(_framed(text, width, 2000), encoding="utf-8")
        dumped = _run("--window-size=1400,2000", _scheme(dark), "--dump-dom", page=frame)
    found = re.search(r'<pre id="audit">(.*?)</pre>', dumped, re.DOTALL)
    if found is None:
        raise RuntimeError(f"the audit of '{page}' left no answer")
    return json.loads(html.unescape(found[1]))


def problems(
    found: Mapping[str, Any], content: Mapping[str, Mapping[str, int]] = CONTENT
) -> list[str]:
    """Return one sentence per thing in an audit that a reader would stumble over."""
    said: list[str] = []
    if found["scroll_width"] > found["width"]:
        said.append(f"the page is {found['scroll_width']} px wide in {found['width']} px")
    said += [f"{what} lies outside the page" for what in found["outside"]]
    said += [f"texts overlap: {what}" for what in found["overlapping"]]
    for text in found["texts"]:
        if text["contrast"] < LEAST_CONTRAST:
            said.append(f"contrast {text['contrast']:.1f} of '{text['text']}' {text['colours']}")
        if text["font_px"] < LEAST_FONT_PX:
            said.append(f"'{text['text']}' is {text['font_px']:.1f} px small")
    for section, wanted in content.items():
        said += _missing(section, wanted, found["sections"].get(section))
    return said


def _missing(
    section: str, wanted: Mapping[str, int], found: Mapping[str, Any] | None
) -> Sequence[str]:
    if found is None:
        return [f"section {section} is missing"]
    said = [] if found["words"] >= LEAST_WORDS else [f"section {section} says nothing"]
    shown: Mapping[str, int] = found["shown"]
    for selector, least in wanted.items():
        count = shown.get(selector, 0)
        if count < least:
            said.append(f"section {section} shows {count} of '{selector}', at least {least} wanted")
    return said


def outside_references(text: str) -> list[str]:
    """Return what a page would load or run besides itself; a self-contained page has none."""
    patterns = (
        r"<script\b", r"<link\b", r"<img\b", r"<iframe\b", r"@import\b", r"url\(", r"\bsrc\s*=",
        r'href="(?!#)[^"]*"', r"\bon\w+=\"", r"javascript:",
    )  # fmt: skip
    return [m[0] for p in patterns for m in re.finditer(p, text, re.IGNORECASE)]
