"""`edgec report`: the page about an artifact, and all its devices side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from .cli_common import PATH, Verb, print_json


@click.command("report", cls=Verb)
@click.argument("artifacts", metavar="OUT...", type=PATH, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=PATH,
    help="File to write; else OUT/report.html, or NAME-report.html here for several OUT.",
)  # fmt: skip
def report_verb(artifacts: Sequence[Path], output: Path | None, as_json: bool) -> int:
    """Write the page about an artifact anew, with the verdicts of all devices side by side.

    The first OUT is what the page is about; the others are artifacts of the same model for other
    targets. What no `edgec check` has run yet says so.
    """
    from .page import write_page

    path = write_page(artifacts[0], artifacts[1:], output)
    if as_json:
        print_json({"report": str(path), "artifacts": [str(a) for a in artifacts]})
    else:
        click.echo(f"report  {path}")
    return 0
