"""Write an artifact: everything into a temporary folder beside the target, renamed at the end."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..targets.backend import Backend
from ..targets.constants import Constant
from ..targets.harness import write_serial
from ..targets.memory import measure_static
from ..targets.spec import TargetSpec
from .core.artifact import (
    MANIFEST_NAME,
    REPORT_NAME,
    SCHEMA_VERSION,
    Manifest,
    MemoryInfo,
    PatchInfo,
    PortInfo,
    hash_files,
    weights_path,
)
from .core.errors import EdgecError, OptionError
from .gates import all_pass, flash_bytes, limits, memory_gates, ram_bytes, static_gates
from .layouts import write_layouts
from .lowering.emit import CModel, CPort
from .options import CompileOptions
from .page import write_page
from .report import calibration_text, to_json, to_text
from .stages import Built, Trial

C_RUNTIME = Path(__file__).resolve().parents[1] / "runtime" / "c" / "include"
# Larger models keep their weights beside the .onnx file: protobuf ends at 2 GB.
LARGEST_PROTO_BYTES = 1_500_000_000
PACKAGES = ("apache-tvm", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript")


def port_info(port: CPort) -> PortInfo:
    """Return what the manifest says of a public input or output."""
    dtype: Any = port.dtype  # one of the manifest's literals, which it verifies
    coded = port.encoding
    return PortInfo(
        name=port.name, c_name=port.c_name, shape=port.shape, dtype=dtype, elements=port.elements,
        scale=coded and coded.scale[0], zero_point=coded and coded.zero_point[0],
        bits=coded and coded.bits,
    )  # fmt: skip


def check_output(out: Path, overwrite: bool) -> None:
    """Raise OptionError if an artifact cannot be written to out.

    `overwrite`: an artifact may be replaced; anything else that exists never is.
    """
    if os.path.lexists(out):
        if not (out / MANIFEST_NAME).is_file():
            raise OptionError(
                f"'{out}' exists and is not an edgec artifact; choose another folder with -o."
            )
        if not overwrite:
            raise OptionError(
                f"'{out}' already holds an edgec artifact; pass --overwrite to replace it or "
                "choose another folder with -o."
            )
    parent = out.resolve().parent
    if parent.exists() and not parent.is_dir():
        raise OptionError(f"'{parent}' is not a folder; choose another with -o.")
    if not parent.is_dir():
        raise OptionError(f"the folder '{parent}' does not exist; create it or choose another.")
    if not os.access(parent, os.W_OK):
        raise OptionError(f"the folder '{parent}' is not writable; choose another with -o.")


def failed_path(out: Path) -> Path:
    """Return where an artifact that breaks a limit is kept to look at: OUT.failed beside OUT."""
    return out.with_name(f"{out.name}.failed")


def write_artifact(
    out: Path,
    built: Built,
    trial: Trial,
    report: Mapping[str, Any],
    options: CompileOptions,
    spec: TargetSpec,
    backend: Backend,
    edgec_version: str,
    drop: float | None = None,
) -> Manifest:
    """Write the artifact of a built model to out and return its manifest.

    `drop`: what was lost, where that is limited. Nothing of out is touched until everything
    succeeded; an artifact that breaks a limit goes to `failed_path`. Raises OptionError when the
    disk is full or otherwise refuses.
    """
    out = out.resolve()
    # Named before it exists: an interrupt may come right after it was made.
    scratch = out.parent / f".{out.name}-{secrets.token_hex(4)}"
    folder = scratch / out.name
    try:
        folder.mkdir(parents=True)
        manifest = _manifest(built, options, spec, report, edgec_version, drop)
        write_sources(folder, built.c_model, manifest.weights_file)
        _write_models(folder, built, trial, report)
        write_layouts(folder, manifest.name, options.layouts)
        manifest = _compile(folder, built, manifest, spec, backend)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        write_page(folder)
        failed = failed_path(out)
        good = all_pass(static_gates(manifest))
        _replace(folder, out if good else failed)
        if good and (failed / MANIFEST_NAME).is_file():
            shutil.rmtree(failed)  # of an earlier try
    except OSError as error:
        reason = error.strerror or str(error)
        raise OptionError(
            f"cannot write '{out}': {reason}; choose another folder with -o."
        ) from error
    finally:
        _discard(scratch)
    return manifest


def _discard(folder: Path) -> None:
    """Delete folder, also when the user interrupts that."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_sources(folder: Path, c_model: CModel, weights_file: str | None = None) -> None:
    """Write the generated C, the headers it includes and its file of constants below folder."""
    for path, text in c_model.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    if c_model.weights is not None and weights_file is not None:
        (folder / "lib").mkdir()
        (folder / weights_file).write_bytes(c_model.weights)
    for header in sorted(C_RUNTIME.glob("*.h")):
        shutil.copyfile(header, folder / "src" / header.name)


def _write_models(folder: Path, built: Built, trial: Trial, report: Mapping[str, Any]) -> None:
    quantised = built.lowered.quantised
    reshaped = quantised.planned.ranged.reshaped
    save_model(quantised.model, folder / "model.quant.onnx")
    if not reshaped.profiled.canonical.source.already_quantised:
        save_model(reshaped.model, folder / "model.float.onnx")
    (folder / "plan.json").write_text(quantised.planned.plan.to_json(), encoding="utf-8")
    (folder / REPORT_NAME).write_text(to_json(report), encoding="utf-8")
    (folder / "report.txt").write_text(to_text(report), encoding="utf-8")
    arrays: dict[str, Any] = {}
    for kind in ("codes", "expected", "quantised", "double", "real"):
        for name, array in getattr(trial, kind).items():
            arrays[f"{kind}/{name}"] = array
    with io.BytesIO() as buffer:
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        (folder / "reference.npz").write_bytes(buffer.getvalue())


def save_model(model: ir.Model, path: Path) -> None:
    """Save a model; weights of very large ones go beside it."""
    size = sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
    if size > LARGEST_PROTO_BYTES:
        ir.save(model, path, external_data=f"{path.name}.data")
        return
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _manifest(
    built: Built, options: CompileOptions, spec: TargetSpec, report: Mapping[str, Any],
    edgec_version: str, drop: float | None,
) -> Manifest:  # fmt: skip
    """Return the manifest as far as it is known before anything is compiled."""
    c_model, profiled = built.c_model, built.lowered.quantised.planned.ranged.reshaped.profiled
    source = profiled.canonical.source
    return Manifest(
        schema_version=SCHEMA_VERSION, edgec_version=edgec_version, versions=versions(),
        command=command_line(), seed=options.seed, name=source.name, target=spec.name,
        source_sha256=source.sha256, files={},
        inputs=tuple(port_info(p) for p in c_model.inputs),
        outputs=tuple(port_info(p) for p in c_model.outputs),
        memory=MemoryInfo(
            arena_bytes=c_model.arena.size_bytes, weights_bytes=c_model.weights_bytes
        ),
        macs=sum(c.kernel.macs() for c in built.lowered.on_device.calls),
        timings_s=report["timings_s"], isa=spec.isa, recipe=options.recipe,
        states=dict(built.lowered.program.states),
        calibration=calibration_text(built.lowered.quantised),
        gates=limits(options, spec), drop=drop,
        patches=_patch_info(built),
        weights_file=None if c_model.weights is None else weights_path(source.name),
        weights_file_bytes=len(c_model.weights or b""),
    )  # fmt: skip


def _patch_info(built: Built) -> PatchInfo | None:
    choice = built.lowered.choice
    if choice is None or choice.patches is None:
        return None
    return PatchInfo(**asdict(choice.patches))


def _compile(
    folder: Path, built: Built, manifest: Manifest, spec: TargetSpec, backend: Backend
) -> Manifest:
    """Compile the C, link the check program, weigh it; return the manifest with what it weighs."""
    name = manifest.name
    constants = [Constant(c.symbol, c.alignment, c.content) for c in built.c_model.constants]
    backend.compile_library(spec, folder, name, folder, constants)
    write_serial(spec, folder, name, manifest.inputs, manifest.outputs)
    memory = manifest.memory
    try:
        backend.link_check(spec, folder, name, manifest.inputs, manifest.outputs)
        weighed = measure_static(folder, spec, manifest)
    except EdgecError:
        # What breaks a limit by constants and arena alone may be too large for the emulator, too.
        if all_pass(memory_gates(manifest.gates, flash_bytes(manifest), ram_bytes(manifest))):
            raise
    else:
        file_bytes = manifest.weights_file_bytes
        update = {
            "flash_bytes": weighed.flash_bytes + file_bytes,
            "code_bytes": weighed.flash_bytes - (file_bytes == 0) * memory.weights_bytes,
            "ram_bytes": weighed.ram_bytes(0),
        }
        memory = memory.model_copy(update=update)
    return manifest.model_copy(update={"memory": memory, "files": hash_files(folder)})


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the result."""
    return {name: metadata.version(name) for name in PACKAGES}


def command_line() -> str:
    """Return the command as the user typed it, without the folder of the program."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _replace(folder: Path, out: Path) -> None:
    """Move the finished folder to out; an older artifact there goes away last."""
    if not out.exists():
        folder.rename(out)
        return
    old = folder.with_name(f"{folder.name}.old")
    out.rename(old)
    try:
        folder.rename(out)
    except BaseException:  # an interrupt too: the older artifact comes back
        old.rename(out)
        raise
    shutil.rmtree(old)
