"""What a user may ask of a compilation: typed, frozen, unknown keys refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .core.errors import OptionError
from .recipes import RecipeName


class CompileOptions(BaseModel):
    """Options of one compilation; every field has a sensible default.

    `recipe`: one of recipes.RECIPES; float32 quantises nothing and needs no calibration data.
    `calibration_method`: minmax, moving-average, percentile, entropy, mse (with `:parameter`), or
    auto: the one of minmax, percentile and mse with the lowest measured error.
    `shapes`: input name -> shape for models with symbolic dimensions. `samples`: most calibration
    samples used (None: all). `passes`, `no_passes`: optional passes to force or leave out.
    `max_flash_bytes`, `max_ram_bytes`: limits of the result, in place of the board's own;
    `max_drop`: largest loss of quality, as a fraction, by `drop_measure`: agreement (of the top 1
    with the float model), noise (share of the outputs' power) or a task metric on `evaluation`, a
    labelled .npz. `wide_activations`: 12 bits in int16 for attention operands, gated products and
    sums before norms: auto (where the measured gain is worth it), always or never; `wide`: shell
    patterns of the names of more tensors, or of the layers that make them. `patches`: the first
    layers run patch by patch, so that their images never exist whole: auto (where the RAM is too
    small without), always (where it takes less RAM) or never. `states`: input name ->
    the output that becomes it in the next run; the two get one encoding. `layouts`: build systems
    whose package the artifact shall be besides CMake's. `weights_file`: constants are a file that
    the caller maps into memory (host and aarch64).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    recipe: RecipeName = "int8"
    name: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = Field(default_factory=dict)
    calibration_method: str = "auto"
    wide_activations: Literal["auto", "always", "never"] = "auto"
    wide: tuple[str, ...] = ()
    patches: Literal["auto", "always", "never"] = "auto"
    states: Mapping[str, str] = Field(default_factory=dict)
    samples: int | None = Field(default=None, ge=1)
    seed: int = 0
    passes: tuple[str, ...] = ()
    no_passes: tuple[str, ...] = ()
    max_flash_bytes: int | None = Field(default=None, ge=1)
    max_ram_bytes: int | None = Field(default=None, ge=1)
    max_drop: float | None = Field(default=None, ge=0, le=1)
    drop_measure: str = "agreement"
    evaluation: Path | None = None
    layouts: tuple[Literal["zephyr", "platformio", "arduino"], ...] = ()
    weights_file: bool = False
    reference_samples: int = Field(default=8, ge=1)


def make_options(target: str, given: Mapping[str, Any]) -> CompileOptions:
    """Return the options of a compilation; raises OptionError for an unknown or unusable one."""
    try:
        return CompileOptions(target=target, **given)
    except ValidationError as error:
        first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] != "extra_forbidden":
        raise OptionError(f"option {name} = {given.get(name)!r} is not usable: {first['msg']}")
    near = difflib.get_close_matches(name, CompileOptions.model_fields, 1, 0.5)
    hint = (
        f"; did you mean {near[0]}?" if near else f": use {', '.join(CompileOptions.model_fields)}"
    )
    raise OptionError(f"there is no option '{name}'{hint}")
