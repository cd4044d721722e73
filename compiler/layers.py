"""A layered build: an artifact's own C with a note, after every call, of what the call wrote.

The notes are two more outputs of the model, so that a layered build runs wherever the artifact
does: a CRC per call, and its time where the device has a clock. Counting devices count each call.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..runtime.devices.base import Device, RunResult
from ..targets import find_target
from ..targets.harness import write_serial
from .core.artifact import MANIFEST_NAME, Manifest, PortInfo, hash_files
from .core.errors import DeviceError, OptionError
from .lowering.emit import function_names
from .lowering.fusion import lower_fused
from .lowering.patches import Patches, patched
from .lowering.program import Array, Call, Param, Program

SUMS, TICKS, VALUES = "edgec_sums", "edgec_ticks", "edgec_values"
_PORT_FOLDER = Path(__file__).resolve().parents[1] / "runtime" / "c" / "port"
_SUPPORT = ("edgec_crc.h", "edgec_layers.h", "edgec_layers.c")
_CALL = re.compile(r"^    (\w+)\((.*)\);$", re.M)
_LINUX_TICKS = 1e9


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """The calls of an artifact in order: the program they come from and their C functions."""

    program: Program
    functions: Sequence[str]
    isa: str

    def written(self, index: int) -> list[Param]:
        """Return the parameters that call `index` writes results to."""
        return [p for p in self.program.calls[index].kernel.params(self.isa) if p.role == "output"]


@dataclass(frozen=True, slots=True, eq=False)
class LayerRun:
    """What a layered build noted: CRCs [samples, calls] and the mean of every call.

    `instructions`: per call on a counting device, else None; `times_s`: median per call, without
    the cost of looking at the clock; None without a clock. `values`: raw bytes [samples, bytes] of
    the call whose results were asked for.
    """

    result: RunResult
    sums: Array
    instructions: Array | None
    times_s: Array | None
    values: Array | None


def find_layers(artifact: Path, manifest: Manifest) -> Layers:
    """Return the calls of an artifact.

    Raises OptionError for a GPU, and when the C is not of this edgec.
    """
    if manifest.isa == "cuda":
        raise OptionError(
            f"'{artifact}' is for a GPU, whose layers cannot be looked at one by one; leave layers "
            "out, or compile the model for the host: the bits are the same."
        )
    program = lower_fused(ir.load(artifact / "model.quant.onnx"), manifest.recipe)
    if (info := manifest.patches) is not None:
        program = patched(program, Patches(info.last, info.rows, info.columns))
    _, functions = function_names(program)
    layers = Layers(program, functions, manifest.isa)
    _run_body(artifact, manifest, layers)
    return layers


def build_layered(
    artifact: Path, manifest: Manifest, layers: Layers, folder: Path, values_of: int | None = None
) -> Manifest:
    """Build the layered artifact in an empty folder and return its manifest.

    `values_of`: the call whose results become an output, too. Raises as compiling does.
    """
    outputs = [*manifest.outputs, *_note_ports(layers, values_of)]
    for part in ("include", "src"):
        shutil.copytree(artifact / part, folder / part)
    for name in _SUPPORT:
        shutil.copyfile(_PORT_FOLDER / name, folder / "src" / name)
    if manifest.weights_file is not None:
        (folder / "lib").mkdir()
        shutil.copyfile(artifact / manifest.weights_file, folder / manifest.weights_file)
    _rewrite(folder, manifest, layers, values_of)
    spec, backend = find_target(manifest.target)
    backend.compile_library(spec, folder, manifest.name, folder)
    backend.link_check(spec, folder, manifest.name, manifest.inputs, outputs)
    write_serial(spec, folder, manifest.name, manifest.inputs, outputs)
    count = len(layers.functions)
    update = {"outputs": tuple(outputs), "layers": count, "files": hash_files(folder)}
    layered = manifest.model_copy(update=update)
    (folder / MANIFEST_NAME).write_text(layered.to_json(), encoding="utf-8")
    return layered


def run_layered(
    device: Device, folder: Path, manifest: Manifest, codes: Mapping[str, Array]
) -> LayerRun:
    """Run a layered build on inputs (stored integers, [samples, *shape] per name)."""
    result = device.run(folder, manifest, codes)
    outputs = result.outputs
    values = outputs.get(VALUES)
    return LayerRun(
        result, outputs[SUMS].view(np.uint32), _instructions(result, manifest),
        _times(outputs[TICKS].view(np.uint32), result), values,
    )  # fmt: skip


def _instructions(result: RunResult, manifest: Manifest) -> Array | None:
    """Return the mean instructions of every call: its window less the empty one."""
    if result.windows is None:
        return None
    counts = np.array(result.windows)
    if counts.shape[1] != manifest.windows_per_sample:
        raise DeviceError(
            f"the device counted {counts.shape[1]} stretches per sample, expected "
            f"{manifest.windows_per_sample}; report it."
        )
    return (counts[:, 2:-1] - counts[:, 1:2]).mean(axis=0)


def _times(ticks: Array, result: RunResult) -> Array | None:
    """Return the median of every call; the first number is that of an empty stretch.

    The clock of an emulator says nothing about the device.
    """
    if result.instructions is not None or not ticks.any():
        return None
    middle = np.median(ticks.astype(np.float64), axis=0)
    return np.maximum(middle[1:] - middle[0], 0.0) / (result.ticks_per_second or _LINUX_TICKS)


def _note_ports(layers: Layers, values_of: int | None) -> list[PortInfo]:
    count = len(layers.functions)
    ports = [_port(SUMS, "int32", count), _port(TICKS, "int32", count + 1)]
    if values_of is not None:
        ports.append(_port(VALUES, "uint8", sum(p.size_bytes for p in layers.written(values_of))))
    return ports


def _port(name: str, dtype: str, elements: int) -> PortInfo:
    data = {"name": name, "c_name": name, "shape": (elements,), "dtype": dtype}
    return PortInfo.model_validate({**data, "elements": elements})


def _run_body(artifact: Path, manifest: Manifest, layers: Layers) -> tuple[str, str]:
    """Return the C of a model before and inside its run function, whose calls are the layers'."""
    text = (artifact / "src" / f"{manifest.name}.c").read_text(encoding="utf-8")
    head, prototype, body = text.partition(f"int32_t {manifest.name}_run(")
    if tuple(m[1] for m in _CALL.finditer(body)) != tuple(layers.functions):
        raise OptionError(
            f"'{artifact}' was compiled by edgec {manifest.edgec_version}, whose layers are not "
            "those of this edgec; compile the model again."
        )
    return head, prototype + body


def _rewrite(folder: Path, manifest: Manifest, layers: Layers, values_of: int | None) -> None:
    """Add the notes to NAME.c and their parameters to both prototypes."""
    head, body = _run_body(folder, manifest, layers)
    numbered = iter(range(len(layers.functions)))
    arguments = [found[2].split(", ") for found in _CALL.finditer(body)]
    cleared = _clearings(layers, arguments)

    def noted(found: re.Match[str]) -> str:
        index = next(numbered)
        call = layers.program.calls[index]
        places = _places(arguments[index], call, layers.isa)
        return _note(found[0], index, places, index == values_of, cleared.get(index + 1, ""))

    body = _CALL.sub(noted, body)
    empty = "    edgec_layer_stop();\n    edgec_layer_start();\n"
    empty += f"    {TICKS}[0] = edgec_layer_stop();\n    edgec_layer_start();\n"
    body = re.sub(
        r"^(    uint8_t \*const memory = .*;\n)", rf"\1{empty}", body, count=1, flags=re.M
    )
    extra = f"int32_t *{SUMS}, int32_t *{TICKS}" + (
        f", uint8_t *{VALUES}" if values_of is not None else ""
    )
    source, header = (
        folder / "src" / f"{manifest.name}.c",
        folder / "include" / f"{manifest.name}.h",
    )
    text = f'#include "edgec_layers.h"\n#include <string.h>\n{head}{_wider(body, manifest, extra)}'
    source.write_text(text, encoding="utf-8")
    header.write_text(_wider(header.read_text("utf-8"), manifest, extra), encoding="utf-8")


def _wider(text: str, manifest: Manifest, extra: str) -> str:
    """Return text with more parameters after the last output in the prototype of the model."""
    last = manifest.outputs[-1].c_name
    wider, count = re.subn(
        rf"(int32_t {manifest.name}_run\([^)]*\*{last})(?=[,)])", rf"\1, {extra}", text
    )
    assert count == 1, f"{count} prototypes of {manifest.name}_run"
    return wider


def _places(arguments: Sequence[str], call: Call, isa: str) -> list[tuple[str, int]]:
    """Return the C expression and the bytes of everything a call writes."""
    params = call.kernel.params(isa)
    pairs = zip(arguments, params, strict=True)
    return [(place, p.size_bytes) for place, p in pairs if p.role == "output"]


def _clearings(layers: Layers, arguments: Sequence[Sequence[str]]) -> dict[int, str]:
    """Return the C that clears a buffer, per call that is the first to write a tile into it.

    Sums are over whole rows: what lies between a tile's rows must be what NumPy has there.
    """
    found: dict[int, str] = {}
    seen: set[str] = set()
    for index, call in enumerate(layers.program.calls):
        part = layers.program.buffers[call.outputs[0]]
        if part.part_of and part.part_of not in seen:
            seen.add(part.part_of)
            ((place, _),) = _places(arguments[index], call, layers.isa)
            size_bytes = layers.program.buffers[part.part_of].size_bytes
            found[index] = f"    memset({place} - {part.start}, 0, {size_bytes});"
    return found


def _note(
    call: str, index: int, places: Sequence[tuple[str, int]], with_values: bool, clear: str
) -> str:
    crc = "0"
    for place, size_bytes in places:
        crc = f"edgec_crc32({crc}, {place}, {size_bytes})"
    lines = [call, f"    {TICKS}[{index + 1}] = edgec_layer_stop();"]
    lines.append(f"    {SUMS}[{index}] = (int32_t){crc};")
    offset = 0
    for place, size_bytes in places if with_values else ():
        lines.append(f"    memcpy({VALUES} + {offset}, {place}, {size_bytes});")
        offset += size_bytes
    lines += [clear] if clear else []
    return "\n".join([*lines, "    edgec_layer_start();"])
