"""The command line. Imports click only: everything heavy waits until a verb runs."""

from __future__ import annotations

import signal
from types import FrameType

import click

from .cli_check import check_verb, run_verb
from .cli_common import BAD_INPUT, Cli, Terminated
from .cli_compile import compile_verb
from .cli_info import doctor_verb, inspect_verb, passes_verb, recipes_verb, targets_verb
from .cli_measure import bench_verb, compare_verb
from .cli_plan import plan_verb
from .cli_report import report_verb
from .version import __version__


@click.group(
    "edgec",
    cls=Cli,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="edgec", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> int:
    """Compile ONNX models to small integer C for edge devices, and prove what was lost.

    Exit codes: 0 good, 1 done but a gate failed or the device did, 2 bad input or options, 3 a
    tool is missing, 70 a bug of edgec, 130 and 143 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return BAD_INPUT
    return 0


_VERBS = (
    compile_verb, plan_verb, check_verb, run_verb, report_verb, bench_verb, compare_verb,
    inspect_verb, targets_verb, passes_verb, recipes_verb, doctor_verb,
)  # fmt: skip
for _verb in _VERBS:
    cli.add_command(_verb)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def main() -> None:
    """Run the command line of this process and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    cli.main()


if __name__ == "__main__":
    main()
