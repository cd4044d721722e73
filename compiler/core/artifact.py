"""manifest.json of an artifact folder: what was built, for which target, with which files."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .encoding import TensorEncoding
from .errors import OptionError

if TYPE_CHECKING:  # whoever only loads artifacts does without onnx
    import onnx_ir as ir

SCHEMA_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
REPORT_NAME: Final = "report.json"
REPORT_PAGE: Final = "report.html"
VERDICTS: Final = "verdicts"
# Checks add to these, so the manifest, which is about what was compiled, lists them not.
_LIVING: Final = frozenset({MANIFEST_NAME, REPORT_PAGE, VERDICTS})

DType = Literal[
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"
]
C_TYPES: Final[Mapping[str, str]] = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "uint32": "uint32_t",
    "int64": "int64_t",
    "uint64": "uint64_t",
    "float32": "float",
    "float64": "double",
}


def stored_dtype(kind: ir.DataType | None) -> str | None:
    """Return the NumPy name of what memory holds for an ONNX type; None if C has no such type.

    Booleans are bytes.
    """
    name = None if kind is None else np.dtype(kind.numpy()).name
    if name == "bool":
        return "uint8"
    return name if name in C_TYPES else None


class Record(BaseModel):
    """Frozen data that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PortInfo(Record):
    """One public input or output: a contiguous array of `elements` values in ONNX order.

    `scale`, `zero_point`, `bits`: its per-tensor encoding; all None for plain numbers.
    """

    name: str
    c_name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    shape: tuple[int, ...]
    dtype: DType
    elements: int = Field(ge=1)
    scale: float | None = None
    zero_point: int | None = None
    bits: int | None = None

    @model_validator(mode="after")
    def _agrees(self) -> PortInfo:
        if math.prod(self.shape) != self.elements:
            raise ValueError(f"port '{self.name}': {self.elements} elements, shape {self.shape}")
        given = [field is not None for field in (self.scale, self.zero_point, self.bits)]
        if any(given) != all(given):
            raise ValueError(f"port '{self.name}' needs scale, zero_point and bits, or none")
        return self

    @property
    def c_type(self) -> str:
        """C type of one element."""
        return C_TYPES[self.dtype]

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole array."""
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def encoding(self) -> TensorEncoding | None:
        """The encoding of the stored codes, or None when the values are plain numbers."""
        if self.scale is None or self.zero_point is None or self.bits is None:
            return None
        signed = not self.dtype.startswith("u")
        return TensorEncoding(self.bits, (self.scale,), (self.zero_point,), None, signed)


class MemoryInfo(Record):
    """Bytes the model needs; None where they were not measured.

    `flash_bytes`: code and constants; `ram_bytes`: arena, inputs and outputs, statics, stack.
    """

    arena_bytes: int
    weights_bytes: int
    code_bytes: int | None = None
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    stack_bytes: int | None = None


class Gates(Record):
    """Limits the artifact is checked against; None where the user set none.

    `max_drop`: largest loss of quality by `drop_measure`, as a fraction; see compiler/drop.py.
    """

    max_flash_bytes: int | None = None
    max_ram_bytes: int | None = None
    max_drop: float | None = None
    drop_measure: str = "agreement"


class PatchInfo(Record):
    """Which calls run patch by patch: 0 to `last`, on rows x columns pixels of what that makes."""

    last: int
    rows: int
    columns: int


class Manifest(Record):
    """Everything manifest.json says; `files` maps paths inside the folder to SHA-256 in hex.

    `calibration`: where the ranges came from, in words; `isa`: the inner loops of the C;
    `recipe`: as in CompileOptions; `states`: input name -> the output that
    the caller passes as that input to the next run;
    `drop`: what was lost by `gates.drop_measure` when it was compiled, None if nobody asked;
    `patches`: None where every layer is computed whole;
    `layers`: how many calls a layered build notes (see compiler/layers.py), 0 as shipped.
    """

    schema_version: int
    edgec_version: str
    versions: Mapping[str, str]
    command: str
    seed: int
    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    target: str
    source_sha256: str
    files: Mapping[str, str]
    inputs: tuple[PortInfo, ...]
    outputs: tuple[PortInfo, ...]
    memory: MemoryInfo
    macs: int
    timings_s: Mapping[str, float]
    isa: str = "generic"
    recipe: str = "int8"
    states: Mapping[str, str] = Field(default_factory=dict)
    calibration: str = ""
    gates: Gates = Gates()
    drop: float | None = None
    weights_file: str | None = None
    weights_file_bytes: int = 0
    patches: PatchInfo | None = None
    layers: int = 0

    @property
    def windows_per_sample(self) -> int:
        """Counted stretches per inference: one, or before, between and after the noted calls."""
        return self.layers + 3 if self.layers else 1

    @field_validator("files")
    @classmethod
    def _inside(cls, files: Mapping[str, str]) -> Mapping[str, str]:
        for path in map(PurePosixPath, files):
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"file '{path}' lies outside the artifact")
        return files

    def to_json(self) -> str:
        """Return the text of manifest.json, keys sorted."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def weights_path(name: str) -> str:
    """Return where in an artifact the constants of model `name` lie that are a file."""
    return f"lib/{name}.weights"


def arena_macro(name: str) -> str:
    """Return the macro by which NAME.h of model `name` gives the bytes of its arena."""
    return f"{name.upper()}_ARENA_BYTES"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Return path -> SHA-256 of every file below folder that stays as it was compiled, sorted.

    Left out: manifest.json itself, and report.html and verdicts/, which every check rewrites.
    """
    found = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
    kept = {path.as_posix(): file for path, file in found.items() if path.parts[0] not in _LIVING}
    return {name: hash_file(kept[name]) for name in sorted(kept)}


def model_id(files: Mapping[str, str]) -> int:
    """Return 32 bits that tell one model's C from another's: files as `hash_files` returns them."""
    sources = sorted(f"{name} {sha256}" for name, sha256 in files.items() if name[:4] == "src/")
    return zlib.crc32("\n".join(sources).encode())


def load_manifest(folder: Path) -> Manifest:
    """Read manifest.json of an artifact folder; raises OptionError saying what is wrong."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        why = "it has no manifest.json" if folder.is_dir() else "there is no such folder"
        raise OptionError(
            f"'{folder}' is not an artifact folder: {why}; give the folder that "
            "`edgec compile -o` wrote."
        )
    return _parse(path, path.read_text(encoding="utf-8"))


def _parse(path: Path, text: str) -> Manifest:
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise OptionError(f"'{path}' is not JSON ({error}); compile the model again.") from None
    version: Any = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise OptionError(
            f"'{path}' has schema version {version}, this edgec reads up to {SCHEMA_VERSION}; "
            "upgrade edgec."
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise OptionError(
            f"'{path}' is damaged: {where}: {first['msg']}; compile the model again."
        ) from None


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raise OptionError naming every listed file that is missing or was changed."""
    problems: list[str] = []
    for name, expected in manifest.files.items():
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif hash_file(folder / name) != expected:
            problems.append(f"{name} was changed")
    if problems:
        raise OptionError(
            f"artifact '{folder}' is not as it was compiled: {', '.join(problems)}; "
            "compile the model again."
        )
