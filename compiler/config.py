"""The options of a compilation as a TOML file: keys are options without the dashes in front."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .core.errors import OptionError
from .recipes import RecipeName

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _dashed(field: str) -> str:
    return field.rstrip("_").replace("_", "-")


class CompileConfig(BaseModel):
    """What a file may hold; sizes and shares are written as on the command line, or as numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=_dashed)

    model: str | None = None
    target: str | None = None
    output: str | None = None
    recipe: RecipeName | None = None
    calibration: str | None = None
    calibration_method: str | None = None
    wide_activations: Literal["auto", "always", "never"] | None = None
    patches: Literal["auto", "always", "never"] | None = None
    wide: list[str] = Field(default_factory=list)
    samples: int | None = None
    shape: dict[str, list[int]] = Field(default_factory=dict)
    state: dict[str, str] = Field(default_factory=dict)
    name: str | None = None
    pass_: list[str] = Field(default_factory=list)
    no_pass: list[str] = Field(default_factory=list)
    layout: list[Literal["zephyr", "platformio", "arduino"]] = Field(default_factory=list)
    max_flash: str | int | None = None
    max_ram: str | int | None = None
    max_drop: str | float | None = None
    drop_measure: str | None = None
    evaluation: str | None = None
    seed: int | None = None
    weights_file: bool | None = None


KEYS = tuple(map(_dashed, CompileConfig.model_fields))
# The parameter of the command line that a field fills, where it has another name.
_PARAMETERS = {
    "shape": "shapes", "state": "states", "pass_": "passes", "no_pass": "no_passes",
    "layout": "layouts",
}  # fmt: skip


def read_config(path: Path) -> CompileConfig:
    """Return what a TOML file says; raises OptionError naming the key that is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(
            f"'{path}' is not TOML: {error}; mend it or leave --config out."
        ) from None
    try:
        return CompileConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, KEYS, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(KEYS)}."
        raise OptionError(f"'{path}': there is no key '{key}'; {hint}")
    raise OptionError(f"'{path}': {key} = {data[key]!r} is not usable: {first['msg']}.")


def parameters(config: CompileConfig) -> dict[str, Any]:
    """Return config as values of the command line's parameters, those that it sets."""
    found: dict[str, Any] = {}
    for field, value in config.model_dump(exclude_unset=True).items():
        texts: list[str] | None = None
        if field == "shape":
            texts = [f"{n}={','.join(map(str, s))}" for n, s in value.items()]
        elif field == "state":
            texts = [f"{source}={target}" for source, target in value.items()]
        plain = str(value) if isinstance(value, int | float) else value
        found[_PARAMETERS.get(field, field)] = texts or plain
    return found


def config_text(given: Mapping[str, Any]) -> str:
    """Return TOML that sets what `given`, parameters of the command line, sets."""
    fields = {_PARAMETERS.get(f, f): f for f in CompileConfig.model_fields}
    data: dict[str, Any] = {}
    for parameter, field in fields.items():
        value = given.get(parameter)
        if value is None or value is False or value == ():
            continue
        data[_dashed(field)] = _plain(field, value)
    text = (
        "# edgec compile --config FILE: as on the command line, which comes first where both say.\n"
    )
    return text + tomli_w.dumps(data)


def _plain(field: str, value: Any) -> Any:
    match value:
        case _ if field == "shape":
            return {name: list(dims) for name, dims in value}
        case _ if field == "state":
            return dict(value)
        case float():
            return f"{100 * value:g}%"
        case tuple() | list():
            return list(value)
        case Path():
            return str(value)
        case _:
            return value


def save_config(path: Path, text: str) -> None:
    """Write text to path whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def require_savable(path: Path) -> None:
    """Raise OptionError when a configuration cannot be saved as path."""
    if path.suffix != ".toml":
        raise OptionError(f"'{path}' must end in .toml, the only form options are saved in.")
    if not path.resolve().parent.is_dir():
        raise OptionError(f"the folder '{path.resolve().parent}' does not exist; create it.")
