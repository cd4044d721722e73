"""What people see: tables on standard output, progress on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough for file names in a pipe or a log, where nobody says how wide a line may be.
_WIDTH_WITHOUT_TERMINAL = 160

Report = Callable[[str, float], None]


def console(stderr: bool = False) -> Console:
    """Return a console that prints text as it is: no markup, no emoji, colours on a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(
        stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False, width=width
    )  # fmt: skip


def print_table(
    rows: Iterable[Sequence[str]], header: Sequence[str] = (), right: Sequence[int] = ()
) -> None:
    """Print rows of cells in columns; `right`: columns of numbers."""
    from rich.table import Table

    body = list(rows)
    table = Table(box=None, show_header=bool(header), pad_edge=False, padding=(0, 2, 0, 0))
    for index in range(max(map(len, [*body, header]), default=0)):
        justify = "right" if index in right else "left"
        table.add_column(header[index] if index < len(header) else "", justify=justify)
    for row in body:
        table.add_row(*row)
    screen = console()
    with screen.capture() as captured:
        screen.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


@contextmanager
def progress(hidden: bool) -> Generator[Report]:
    """Yield what reports (stage, 0 at its start and 1 at its end) on standard error.

    Live on a terminal, a line per stage under NO_COLOR, silent when hidden, under CI or in a pipe.
    """
    if hidden or os.environ.get("CI") or not sys.stderr.isatty():
        yield lambda stage, done: None
        return
    clock = _StageClock()
    if os.environ.get("NO_COLOR"):
        yield lambda stage, done: _line(clock, stage, done)
        return
    screen = console(stderr=True)
    with screen.status("starting") as status:

        def report(stage: str, done: float) -> None:
            seconds = clock.report(stage, done)
            if seconds is None:
                status.update(stage)
            else:
                screen.print(f"  {stage:14}{seconds:7.2f} s", style="dim")

        yield report


def _line(clock: _StageClock, stage: str, done: float) -> None:
    seconds = clock.report(stage, done)
    if seconds is not None:
        print(f"  {stage:14}{seconds:7.2f} s", file=sys.stderr, flush=True)


class _StageClock:
    """Measures stages from their reports."""

    def __init__(self) -> None:
        self._start: dict[str, float] = {}

    def report(self, stage: str, done: float) -> float | None:
        """Return the seconds stage took when it is done, else None."""
        now = time.perf_counter()
        if done < 1:
            self._start[stage] = now
            return None
        return now - self._start.get(stage, now)
