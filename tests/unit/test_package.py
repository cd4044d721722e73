"""Artifacts are written whole, deterministically, and never over what is not one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgec
from edgec.compiler import package
from edgec.compiler.api import Artifact
from edgec.compiler.core.artifact import load_manifest, verify_files
from edgec.compiler.core.encoding import TensorEncoding
from edgec.compiler.core.errors import OptionError
from edgec.compiler.lowering.emit import CPort
from tests.small import cnn, cnn_samples


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small network for the host."""
    out = tmp_path_factory.mktemp("package") / "out"
    data = {"image": cnn_samples()}
    return edgec.compile(cnn(), "host", out, data, max_flash_bytes=1 << 20)


def test_content(artifact: Artifact) -> None:
    folder = artifact.path
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names >= {
        "manifest.json", "plan.json", "report.json", "report.html", "report.txt", "reference.npz",
        "model.float.onnx", "model.quant.onnx", "include/cnn.h", "src/cnn.c", "lib/libcnn.a",
        "lib/libcnn.so", "CMakeLists.txt",
    }  # fmt: skip
    assert "@NAME@" not in (folder / "CMakeLists.txt").read_text()
    assert not [n for n in names if n.endswith((".o", ".tmp"))]


def test_manifest_agrees_with_the_files(artifact: Artifact) -> None:
    manifest = load_manifest(artifact.path)
    assert manifest == artifact.manifest
    verify_files(artifact.path, manifest)
    assert manifest.gates.max_flash_bytes == 1 << 20 and manifest.seed == 0
    assert manifest.macs == 4 * 64 * 18 + 320
    memory = manifest.memory
    assert memory.flash_bytes and memory.ram_bytes and memory.code_bytes
    assert memory.flash_bytes == memory.code_bytes + memory.weights_bytes
    assert memory.ram_bytes >= memory.arena_bytes + 2 * 64 + 5
    (port,) = manifest.inputs
    assert (port.name, port.shape, port.dtype) == ("image", (1, 2, 8, 8), "int8")


def test_reference_holds_what_a_check_compares(artifact: Artifact) -> None:
    with np.load(artifact.path / "reference.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    kinds = {"expected", "quantised", "double", "real"}
    assert set(arrays) == {"codes/image"} | {f"{kind}/scores" for kind in kinds}
    assert len({len(a) for a in arrays.values()}) == 1
    assert arrays["expected/scores"].dtype == np.int8
    onnx.checker.check_model(onnx.load(artifact.path / "model.quant.onnx"))


def test_what_may_be_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    package.check_output(out, overwrite=False)
    out.mkdir()
    for overwrite in (False, True):
        with pytest.raises(OptionError, match="not an edgec artifact"):
            package.check_output(out, overwrite)
    (out / "manifest.json").write_text("{}")
    package.check_output(out, overwrite=True)
    with pytest.raises(OptionError, match="--overwrite"):
        package.check_output(out, overwrite=False)
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="not an edgec artifact"):
        package.check_output(dangling, overwrite=True)


def _artifact(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    return folder


def test_replacing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = _artifact(tmp_path / "out", "old")
    new = _artifact(tmp_path / ".out-1" / "out", "new")
    rename = Path.rename

    def stumble(path: Path, target: Path) -> Path:
        if path == new and target == out:
            raise OSError("no")
        return rename(path, target)

    replace = package._replace  # pyright: ignore[reportPrivateUsage]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stumble)
        with pytest.raises(OSError, match="no"):
            replace(new, out)
    assert (out / "manifest.json").read_text() == "old"
    replace(new, out)
    assert (out / "manifest.json").read_text() == "new"
    assert list((tmp_path / ".out-1").iterdir()) == []


def test_api_overwrites_only_artifacts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="not an edgec artifact"):
        edgec.compile(cnn(), "host", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_very_large_models_keep_their_weights_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cnn()
    package.save_model(model, tmp_path / "small.onnx")
    monkeypatch.setattr(package, "LARGEST_PROTO_BYTES", 100)
    package.save_model(model, tmp_path / "large.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "large.onnx", "large.onnx.data", "small.onnx",
    ]  # fmt: skip
    for name in ("small.onnx", "large.onnx"):
        read = ir.load(tmp_path / name).graph.initializers["v"].const_value
        wanted = model.graph.initializers["v"].const_value
        assert read is not None and wanted is not None
        np.testing.assert_array_equal(read.numpy(), wanted.numpy())


def test_command_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/edgec", "compile", "m.onnx"])
    assert package.command_line() == "edgec compile m.onnx"
    assert set(package.versions()) == set(package.PACKAGES)
    json.dumps(package.versions())


def test_ports_with_and_without_encoding() -> None:
    encoding = TensorEncoding(8, (0.5,), (-3,))
    coded = package.port_info(CPort("x:0", "x", "in", (1, 3), "int8", encoding))
    assert coded.encoding is not None and coded.encoding.zero_point == (-3,)
    plain = package.port_info(CPort("ids", "ids", "in", (4,), "int32", None))
    assert plain.encoding is None and plain.bits is None
