"""Numbers as people read them."""

from __future__ import annotations


def size_text(size_bytes: int) -> str:
    """Return bytes for people: 3.8 KiB."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    for unit, factor in (("KiB", 1 << 10), ("MiB", 1 << 20)):
        if size_bytes < 1000 * factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes / (1 << 30):.2f} GiB"


def capacity_text(size_bytes: int | None) -> str:
    """Return the size of a memory: 512 KiB, 1 MiB; "-" when it is not known."""
    if size_bytes is None:
        return "-"
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes % factor == 0:
            return f"{size_bytes // factor} {unit}"
    return f"{size_bytes} B"


def number_text(value: float | None) -> str:
    """Return a count for people: 1,234,567; "-" for None."""
    return "-" if value is None else f"{value:,.0f}"


def time_text(seconds: float) -> str:
    """Return a duration for people: 1.23 ms."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def count_text(count: float) -> str:
    """Return a count for people, three digits and a factor: 783 k, 5.69 M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor * 0.9995:
            return f"{_three(count / factor)} {letter}"
    return f"{count:.0f}"


def _three(value: float) -> str:
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}"
