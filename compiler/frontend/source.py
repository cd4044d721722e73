"""From a file or an object in memory to a private onnx_ir model and the hash of where it came."""

from __future__ import annotations

import hashlib
import keyword
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from ..core.errors import ModelError
from .shapes import undefined_reads

Readable = str | os.PathLike[str] | onnx.ModelProto | ir.Model

# Files that people pass by mistake, told apart by their first bytes.
_OTHER_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` to get the model"),
    (0, b"PK\x03\x04", "a zip archive (PyTorch or Keras?); export it to ONNX first"),
    (4, b"TFL3", "a TensorFlow Lite model; convert it to ONNX first, for example with tf2onnx"),
    (0, b"\x89HDF", "an HDF5 file (Keras?); convert it to ONNX first, for example with tf2onnx"),
    (0, b"\x80\x02", "a Python pickle (PyTorch?); export it to ONNX first"),
    (4, b"ORTM", "an ONNX Runtime .ort file; pass the .onnx file it was made from"),
)
# Python's own list covers the keywords both share.
_C_KEYWORDS = frozenset(
    {"auto", "case", "char", "const", "default", "do", "double", "enum", "extern", "float", "goto"}
    | {"inline", "int", "long", "main", "register", "restrict", "short", "signed", "sizeof"}
    | {"static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile"}
)
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that nobody else holds, its C name and the SHA-256 of what it was read from."""

    model: ir.Model
    name: str
    sha256: str


def open_model(source: Readable) -> Opened:
    """Read source with all its weights in memory; raises ModelError listing what is wrong.

    Constant nodes become initializers. Weights are taken only from files inside the folder of
    the model: a model must not be able to read other files of the machine.
    """
    if isinstance(source, ir.Model):
        if dangling := undefined_reads(source):
            raise ModelError(dangling)
        model = source.clone()
        name, sha256 = model.graph.name, _hash_model(model)
    elif isinstance(source, onnx.ModelProto):
        model = _deserialise(source, "the given ModelProto")
        name, sha256 = model.graph.name, _hash_model(model)
    else:
        path = Path(source)
        model = _read(path)
        name, sha256 = path.stem, _hash_files([path])
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    if files := _load_external(model):
        sha256 = _hash_files(files, sha256)
    return Opened(model, c_identifier(name or "model"), sha256)


def c_identifier(text: str) -> str:
    """Return text as a C identifier: other characters become `_`, keywords get one appended."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    if not name or name[0].isdigit() or name.startswith("_"):
        name = f"m{'' if name.startswith('_') else '_'}{name}"  # C reserves leading underscores
    return f"{name}_" if name in _C_KEYWORDS or keyword.iskeyword(name) else name


def _read(path: Path) -> ir.Model:
    if not path.exists():
        raise ModelError(f"'{path}' does not exist; give the path of an .onnx file")
    if path.is_dir():
        raise ModelError(f"'{path}' is a folder; give the path of the .onnx file in it")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise ModelError(f"'{path}' is empty; download or export the model again")
    for offset, magic, kind in _OTHER_KINDS:
        if head[offset:].startswith(magic):
            raise ModelError(f"'{path}' is {kind}")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, UnicodeDecodeError) as error:
        raise ModelError(_unreadable(f"'{path}'")) from error
    model = _deserialise(proto, f"'{path}'")
    ir.external_data.set_base_dir(model.graph, path.resolve().parent)
    return model


def _unreadable(what: str) -> str:
    return f"{what} is cut off or not an ONNX model; download or export the model again"


def _deserialise(proto: onnx.ModelProto, what: str) -> ir.Model:
    # Almost any bytes parse as an empty protobuf message; a real model has these fields.
    if not proto.HasField("graph") or not proto.opset_import or not proto.ir_version:
        raise ModelError(_unreadable(what))
    if not proto.graph.output:
        raise ModelError(f"{what} has no graph outputs, so there is nothing to compute")
    try:
        return ir.from_proto(proto)
    except Exception as error:
        # onnx_ir wraps whatever went wrong; its last cause is the useful sentence.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().split("\n")[0]
        raise ModelError(f"{what} is damaged ({reason}); export the model again") from error


def tensors(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield every initializer of model, subgraphs and functions included, with its content."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _load_external(model: ir.Model) -> list[Path]:
    """Load external weights into memory and return their files in name order."""
    found = [(v, t) for v, t in tensors(model) if isinstance(t, ir.ExternalTensor)]
    problems = [problem for _, tensor in found if (problem := _external_problem(tensor))]
    if problems:
        raise ModelError(list(dict.fromkeys(problems)))
    for value, tensor in found:
        try:
            # A copy: a memory map would tie the model to a file that may change under it.
            data = tensor.numpy().copy()
        except (OSError, ValueError) as error:
            raise ModelError(f"external weight '{tensor.name}': {error}") from error
        value.const_value = ir.Tensor(data, dtype=tensor.dtype, name=tensor.name)
    return sorted({Path(tensor.path) for _, tensor in found})


def _external_problem(tensor: ir.ExternalTensor) -> str | None:
    """Return why the file of tensor cannot be used, or None."""
    where = f"external weight '{tensor.name}' in '{tensor.location}'"
    if not tensor.base_dir:
        return f"{where}: a model in memory has no folder to look in; pass the path of its file"
    base, path = Path(tensor.base_dir).resolve(), Path(tensor.path).resolve()
    if os.path.isabs(tensor.location) or not path.is_relative_to(base):
        return f"{where} lies outside the model's folder '{base}'; move the data file into it"
    if not path.is_file():
        return f"{where} is missing; put the data file into '{base}'"
    end = (tensor.offset or 0) + max(tensor.length or 0, tensor.nbytes)
    size = path.stat().st_size
    if end > size:
        return f"{where} is cut off: {end} bytes needed, {size} there; copy the file again"
    if (tensor.length or tensor.nbytes) != tensor.nbytes:
        return f"{where} says {tensor.length} bytes but its shape needs {tensor.nbytes}"
    return None


def _hash_files(paths: Iterable[Path], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _hash_model(model: ir.Model) -> str:
    """Hash a model in memory, weights one by one: protobuf cannot serialise more than 2 GB."""
    digest = hashlib.sha256()
    for graph in model.graphs():
        for name in sorted(graph.initializers):
            tensor = graph.initializers[name].const_value
            if tensor is not None and not isinstance(tensor, ir.ExternalTensor):
                digest.update(f"{name}:{tensor.dtype}:{tensor.shape};".encode())
                text = isinstance(tensor, ir.StringTensor)
                digest.update(repr(tensor.string_data()).encode() if text else tensor.tobytes())
    proto = ir.to_proto(model)
    proto.graph.ClearField("initializer")
    digest.update(proto.SerializeToString(deterministic=True))
    return digest.hexdigest()
