"""The options that say what becomes of a model, for every verb that quantises one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from .cli_common import PATH, shape, size, state
from .recipes import RECIPES


def _load_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make what the file says the defaults of all other options."""
    if path is not None:
        from .config import parameters, read_config

        ctx.default_map = parameters(read_config(path))
    return path


_OPTIONS = (
    click.option("--target", required=True, help="Device to compile for; see `edgec targets`."),
    click.option(
        "--recipe",
        type=click.Choice(list(RECIPES)),
        default="int8",
        show_default=True,
        help="Bits and passes by a name; see `edgec recipes`.",
    ),
    click.option("--calibration", help="Real inputs: an .npz file or a folder of .npy files."),
    click.option(
        "--calibration-method",
        default="auto",
        show_default=True,
        help="auto (lowest error), minmax, moving-average, percentile[:P], entropy[:N] or mse[:N].",
    ),
    click.option(
        "--wide-activations",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="12 bits in int16 for attention operands, gated products and sums before norms.",
    ),
    click.option(
        "--patches",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="The first layers patch by patch; auto: where the RAM is too small without.",
    ),
    click.option(
        "--wide", multiple=True, help="More of them, by name or pattern of layer or tensor."
    ),
    click.option(
        "--state",
        "states",
        type=state,
        multiple=True,
        help="IN=OUT: input IN is output OUT of the run before; the two get one encoding.",
    ),
    click.option("--samples", type=click.IntRange(min=1), help="Most calibration samples used."),
    click.option("--shape", "shapes", type=shape, multiple=True, help="Shape of an open input."),
    click.option("--name", help="C name of the model; else from the file name."),
    click.option("--pass", "passes", multiple=True, help="Optional pass to force."),
    click.option("--no-pass", "no_passes", multiple=True, help="Optional pass to leave out."),
    click.option(
        "--max-ram", type=size, help="Limit of all RAM, for example 96K; else the board's."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of synthetic data."),
    click.option(
        "--config",
        type=PATH,
        is_eager=True,
        expose_value=False,
        callback=_load_config,
        help="TOML file of options; those given here come first.",
    ),
)


def model_options(verb: Callable[..., int]) -> Callable[..., int]:
    """Add the options to a verb, in the order of their list."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb
