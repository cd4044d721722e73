"""Run an artifact on a user's data, where the artifact belongs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ..runtime.devices import open_device
from ..targets import find_target
from .core.artifact import Manifest, load_manifest, verify_files
from .frontend.columns import npz_columns, open_npy
from .frontend.data import open_data
from .lowering.program import Array
from .ports import decode_port
from .sequence import device_sequence


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Outputs of a run: real values per name, [samples, *shape]; `time_s` where measured."""

    manifest: Manifest
    samples: int
    outputs: Mapping[str, Array]
    instructions: float | None
    time_s: float | None


def run_artifact(
    artifact: Path, data: Path, timeout_s: float = 600.0, device: str = "auto"
) -> Answer:
    """Run every sample of data (.npz, or .npy for one input) and return the real outputs.

    Values mean what they mean to the ONNX model: of a model with integer inputs integers are
    codes. Floats are always quantised by the input's encoding.
    Raises OptionError for a damaged artifact, DataError when data does not fit, DeviceError.
    """
    manifest = load_manifest(artifact)
    verify_files(artifact, manifest)
    spec, _ = find_target(manifest.target)
    feeds = list(open_data(data, _readers_model(artifact, manifest, data)))
    with open_device(spec, timeout_s, device) as runner:
        result = device_sequence(runner, artifact, manifest, feeds)
    outputs = {p.name: decode_port(p, result.outputs[p.name]) for p in manifest.outputs}
    return Answer(
        manifest, len(feeds), outputs, result.instructions_per_inference, result.time_s
    )  # fmt: skip


def _readers_model(artifact: Path, manifest: Manifest, data: Path) -> ir.Model:
    """Return the compiled ONNX model, its coded inputs made float where data holds floats."""
    model = ir.load(artifact / "model.quant.onnx")
    floats = _float_arrays(data)
    for value, port in zip(model.graph.inputs, manifest.inputs, strict=True):
        if port.encoding is not None and (floats is None or port.name in floats):
            value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def _float_arrays(data: Path) -> set[str] | None:
    """Return which arrays of data hold floats; None when its only array does."""
    if data.suffix == ".npz" and data.is_file():
        kinds = {name: column.dtype.kind for name, column in npz_columns(data).items()}
    elif data.suffix == ".npy" and data.is_file():
        kinds = {data.stem: open_npy(data).dtype.kind}
    else:
        return set()  # a folder, or nothing: whatever is wrong is said when it is opened
    floats = {name for name, kind in kinds.items() if kind == "f"}
    return None if len(kinds) == 1 and floats else floats
