"""What every verb of the command line shares: its switches, its values, how it fails."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from .core.errors import EdgecError, GateError, ModelError

GATE_FAILED, BAD_INPUT, TOOL_MISSING, BUG, INTERRUPTED, TERMINATED = 1, 2, 3, 70, 130, 143
# Reading is what says best why something cannot be read.
PATH = click.Path(readable=False, path_type=Path)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Most seconds the device may take.",
)
_DEVICES = (
    "auto, local, qemu, serial:PORT[@BAUD], rpc:HOST:PORT[:KEY] or rpc-tracker:HOST:PORT:KEY."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help=f"Where to run: {_DEVICES}"
)
devices_option = click.option(
    "--device", "devices", multiple=True, default=("auto",), show_default=True,
    help=f"Where to run, once or more: {_DEVICES}",
)  # fmt: skip
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Terminated(KeyboardInterrupt):
    """SIGTERM: like Ctrl-C, so that everything half made is cleaned up."""


class StoppedError(Exception):
    """A verb was interrupted; click would print an empty line for a KeyboardInterrupt."""

    def __init__(self, cause: KeyboardInterrupt) -> None:
        self.terminated = isinstance(cause, Terminated)
        super().__init__("stopped" if self.terminated else "interrupted")


@dataclass
class Session:
    """What error handling must know about the verb that ran."""

    as_json: bool = False
    debug: bool = False


def _set_json(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.ensure_object(Session).as_json = value
    return value


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.ensure_object(Session).debug = value
    return value


class Verb(click.Command):
    """A command with --json (passed on as `as_json`) and --debug that returns its exit code.

    `sections`: titles of its help and the options under each; the rest comes first.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections or {}
        self.params.append(
            click.Option(
                ["--json", "as_json"],
                is_flag=True,
                is_eager=True,
                callback=_set_json,
                help="Print one JSON object instead of text.",
            )
        )
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_set_debug,
                help="Show the Python traceback of an error.",
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under the titles of their sections."""
        titles = {name: title for title, names in self._sections.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {
            title: [] for title in ("Options", *self._sections)
        }
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                rows[titles.get(str(param.name), "Options")].append(record)
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb's function."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise StoppedError(error) from error


class Cli(click.Group):
    """The group of all verbs: suggests near names and turns every error into its exit code."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command args name; an unknown one fails with the nearest."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known = self.list_commands(ctx)
            near = difflib.get_close_matches(name, known, 1, 0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(known)}."
            raise click.UsageError(f"There is no command '{name}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "edgec",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the verb that args name and exit with its code; args None: those of the process."""
        session = Session()
        try:
            result = super().main(
                args, prog_name, complete_var, standalone_mode=False, obj=session, **extra
            )
            code = result if isinstance(result, int) else 0
        except BaseException as error:
            code = fail(error, session)
        sys.exit(code)


def fail(error: BaseException, session: Session) -> int:
    """Print what went wrong, one line per problem, and return the exit code."""
    code, found = describe(error)
    sentences = [" ".join(text.split()) for text in found]
    if session.debug:
        traceback.print_exception(error, file=sys.stderr)
    for sentence in sentences:
        click.echo(f"edgec: {sentence}", err=True)
    if session.as_json:
        print_json({"errors": sentences, "exit_code": code})
    return code


def describe(error: BaseException) -> tuple[int, Sequence[str]]:
    """Return the exit code of an error, and its sentences."""
    match error:
        case ModelError() | GateError():
            return error.exit_code, error.problems
        case EdgecError():
            return error.exit_code, [str(error)]
        case click.ClickException():
            return BAD_INPUT, [_usage(error)]
        case StoppedError():
            code = TERMINATED if error.terminated else INTERRUPTED
            return code, [f"{error}; nothing was left behind."]
        case click.Abort():  # before or after a verb ran
            return INTERRUPTED, ["interrupted."]
        case SystemExit():
            return error.code if isinstance(error.code, int) else BUG, []
        case OSError() if error.errno is not None:
            where = "" if error.filename is None else f": '{error.filename}'"
            return BAD_INPUT, [f"{os.strerror(error.errno)}{where}"]
        case MemoryError():
            return BUG, ["out of memory; use fewer --samples or a machine with more."]
        case _:
            text = str(error) or "no message"
            return BUG, [f"unexpected {type(error).__name__}: {text}; run again with --debug."]


def _usage(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{text} Try '{error.ctx.command_path} --help'."
    return text


def print_json(value: Mapping[str, Any]) -> None:
    """Print value as one JSON object on standard output."""
    click.echo(json.dumps(value, indent=1, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return value.tolist()
    return str(value)


def size(text: str) -> int:
    """Return the bytes that text names: 262144, 256K, 1.5M, 1MiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    bytes_ = 0 if found is None else float(found[1]) * _UNITS[found[2].upper()]
    if bytes_ < 1 or bytes_ != int(bytes_):
        raise click.BadParameter(
            f"'{text}' is no size; write whole bytes or a number with K, M or G "
            "(1K = 1024 bytes), for example 256K."
        )
    return int(bytes_)


def share(text: str) -> float:
    """Return the fraction that text names: 1% or 0.01."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", text.strip())
    value = -1.0 if found is None else float(found[1]) / (100 if found[2] else 1)
    # A bare 1 could mean 1 % or everything.
    if not 0 <= value <= 1 or (value == 1 and "%" not in text):
        raise click.BadParameter(f"'{text}' is no share; write for example 1% or 0.01.")
    return value


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the input name and sizes of NAME=1,3,224,224."""
    name, _, dims = text.rpartition("=")
    if not name or not re.fullmatch(r"[1-9]\d*([,x][1-9]\d*)*", dims):
        raise click.BadParameter(
            f"'{text}' is no shape; write an input's name and all its sizes, for example "
            "input=1,3,224,224."
        )
    return name, tuple(int(d) for d in re.split("[,x]", dims))


def state(text: str) -> tuple[str, str]:
    """Return (input, output) of INPUT=OUTPUT."""
    source, _, target = text.partition("=")
    if not source or not target:
        raise click.BadParameter(f"'{text}' is no state; write INPUT=OUTPUT.")
    return source, target


def states_by_name(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return --state options as a mapping; naming an input twice fails."""
    states: dict[str, str] = {}
    for source, target in given:
        if source in states:
            raise click.UsageError(f"--state names input '{source}' twice.")
        states[source] = target
    return states


def shapes_by_name(given: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """Return --shape options as a mapping; naming an input twice fails."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in given:
        if name in shapes:
            raise click.UsageError(f"--shape names input '{name}' twice.")
        shapes[name] = shape
    return shapes
