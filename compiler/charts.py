"""The drawings of report.html: inline SVG that flows with the page.

There is no viewBox: across, places are percentages of the width, so that a drawing fits a phone and
a sheet of paper while text and strokes keep their size; downwards they are pixels. Colours are
classes of page.css.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROFILE_HEIGHT, HISTOGRAM_HEIGHT, MEMORY_HEIGHT = 220, 56, 260
HEAT_LEVELS = 6  # shades of a heat map
# A drawing is read from this width on, in pixels; texts that would not fit there are left out.
_NARROWEST = 320
_CHARACTER = 6.6  # pixels of a character at the size of labels
_TOP, _BOTTOM = 14, 18  # pixels above and below the plot of a profile


@dataclass(frozen=True, slots=True)
class Point:
    """One layer in the error profile: decibels up to it and of its own."""

    name: str
    total_db: float
    own_db: float


def bar(share: float, tone: str = "") -> str:
    """Return a bar that fills `share` of its cell."""
    width = 100 * min(max(share, 0.0), 1.0)
    rect = f'<rect class="{tone}" width="{width:.1f}%" height="100%"/>'
    return f'<svg class="bar" aria-hidden="true">{rect}</svg>'


def profile(points: Sequence[Point]) -> str:
    """Return decibels over the layers in execution order: a line of totals, a dot for each own."""
    highest = max((p.own_db for p in points), default=0.0)
    top = 10 * math.ceil(min(max(highest, 40.0), 70.0) / 10)
    lowest = min((min(p.total_db, p.own_db) for p in points), default=0.0)
    bottom = 10 * math.floor(min(max(lowest, -10.0), 20.0) / 10)

    def across(index: int) -> float:
        return 8 + 92 * (index + 0.5) / len(points)

    def down(decibels: float) -> float:
        share = (top - min(max(decibels, bottom), top)) / (top - bottom)
        return _TOP + share * (PROFILE_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<line class="grid" x1="0" x2="100%" y1="{down(db):.1f}" y2="{down(db):.1f}"/>'
        f'<text x="0" y="{down(db) - 3:.1f}">{db}{" dB" if db == top else ""}</text>'
        for db in range(bottom, top + 1, 10)
    ]
    for index in range(1, len(points)):
        before, after = points[index - 1], points[index]
        parts.append(
            f'<line class="total" x1="{across(index - 1):.2f}%" y1="{down(before.total_db):.1f}" '
            f'x2="{across(index):.2f}%" y2="{down(after.total_db):.1f}"/>'
        )
    for index, point in enumerate(points):
        text = f"{point.name}: {point.own_db:.1f} dB of its own, {point.total_db:.1f} dB in all"
        parts.append(
            f'<circle class="own" cx="{across(index):.2f}%" cy="{down(point.own_db):.1f}" r="3.5">'
            f"<title>{escape(text)}</title></circle>"
        )
    foot = PROFILE_HEIGHT - 2
    parts.append(f'<text x="8%" y="{foot}">first layer</text>')
    parts.append(f'<text x="100%" y="{foot}" text-anchor="end">last</text>')
    return _svg("profile", PROFILE_HEIGHT, "Error of every layer, in execution order", parts)


def heat_map(drawn: Mapping[str, Any], label: str) -> str:
    """Return magnitudes [tokens, channels] as cells that are darker where they are larger.

    `drawn`: of `outliers.heat_map`; one path per level, whose shade is in page.css.
    """
    cells = np.frombuffer(base64.b64decode(drawn["cells"]), np.uint8)
    levels = cells.reshape(drawn["rows"], drawn["columns"]).astype(int) * HEAT_LEVELS // 255
    paths = [
        f'<path class="heat{level}" d="{"".join(_runs(levels == level))}"/>'
        for level in range(1, HEAT_LEVELS + 1)
    ]
    box = f'viewBox="0 0 {drawn["columns"]} {drawn["rows"]}" preserveAspectRatio="none"'
    return f'<svg class="heat" role="img" aria-label="{escape(label)}" {box}>{"".join(paths)}</svg>'


def _runs(marked: NDArray[np.bool_]) -> Iterator[str]:
    """Yield a rectangle for every run of marked cells in a row."""
    for y, row in enumerate(marked):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            yield f"M{start} {y}h{stop - start}v1h-{stop - start}z"


def histogram(tensor: Mapping[str, Any]) -> str:
    """Return how often values occur (bar heights are logarithms), and the range that is stored."""
    found = tensor["histogram"]
    low, width = found["low"], found["high"] - found["low"]
    most = math.log1p(max(found["counts"]) or 1)
    step = 100 / len(found["counts"])
    plot = HISTOGRAM_HEIGHT - 6
    parts: list[str] = []
    for index, count in enumerate(found["counts"]):
        if count:
            height = max(plot * math.log1p(count) / most, 1.0)
            middle = low + width * (index + 0.5) / len(found["counts"])
            tone = "in" if tensor["low"] <= middle <= tensor["high"] else "out"
            parts.append(
                f'<rect class="{tone}" x="{index * step:.2f}%" y="{plot - height:.1f}" '
                f'width="{step * 0.86:.2f}%" height="{height:.1f}"/>'
            )
    start, end = (100 * (tensor[k] - low) / width for k in ("low", "high"))
    start, end = max(start, 0.0), min(end, 100.0)
    y = HISTOGRAM_HEIGHT - 3
    parts.append(f'<line class="range" x1="{start:.2f}%" x2="{end:.2f}%" y1="{y}" y2="{y}"/>')
    return _svg("histogram", HISTOGRAM_HEIGHT, f"Histogram of {tensor['value']}", parts)


def memory(plan: Mapping[str, Any], steps: int, peak: int) -> str:
    """Return every block of the arena: across its lifetime in steps, upwards its addresses."""
    scale = (MEMORY_HEIGHT - 18) / max(plan["arena_bytes"], 1)
    parts: list[str] = []
    for index, block in enumerate(plan["blocks"]):
        x = 100 * block["first_call"] / steps
        width = 100 * (block["last_call"] + 1 - block["first_call"]) / steps
        height = block["bytes"] * scale
        y = MEMORY_HEIGHT - 18 - block["offset"] * scale - height
        name = ", ".join(block["buffers"])
        said = f"{name}: {block['bytes']:,} bytes at {block['offset']:,}, "
        said += f"steps {block['first_call']} to {block['last_call']}"
        parts.append(
            f'<rect class="block {"even" if index % 2 else "odd"}" x="{x:.2f}%" y="{y:.1f}" '
            f'width="{width:.2f}%" height="{max(height, 0.5):.1f}">'
            f"<title>{escape(said)}</title></rect>"
        )
        text = f"{block['bytes']:,}"
        if height >= 13 and width * _NARROWEST / 100 > (len(text) + 1) * _CHARACTER:
            parts.append(f'<text x="{x + 0.8:.2f}%" y="{y + 11:.1f}">{text}</text>')
    middle, foot = 100 * (peak + 0.5) / steps, MEMORY_HEIGHT - 3
    line = f'x1="{middle:.2f}%" x2="{middle:.2f}%" y1="0" y2="{MEMORY_HEIGHT - 18}"'
    parts.append(f'<line class="peak" {line}/>')
    parts.append(f'<text x="0" y="{foot}">step 0</text>')
    parts.append(f'<text x="100%" y="{foot}" text-anchor="end">step {steps - 1}</text>')
    return _svg("memory", MEMORY_HEIGHT, "The arena over time", parts)


def _svg(kind: str, height: int, label: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" width="100%" '
        f'height="{height}">\n{body}\n</svg>'
    )
