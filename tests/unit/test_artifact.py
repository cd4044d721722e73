from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgec.compiler.core.artifact import (
    Manifest,
    PortInfo,
    hash_files,
    load_manifest,
    verify_files,
)
from edgec.compiler.core.errors import OptionError

PORT: dict[str, Any] = {
    "name": "x", "c_name": "x", "shape": [2, 3], "dtype": "int8", "elements": 6,
    "scale": 0.1, "zero_point": 4, "bits": 8,
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "name": "ids", "c_name": "ids", "shape": [3], "dtype": "int32", "elements": 3,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "m.c").write_text("int x;\n")
    (tmp_path / "reference.npz").write_bytes(b"data")
    data = {
        "schema_version": 1, "edgec_version": "0.1.0", "versions": {"gcc": "12"}, "command": "c",
        "seed": 3, "name": "m", "target": "host", "source_sha256": "0" * 64,
        "files": hash_files(tmp_path), "inputs": [PORT, PLAIN], "outputs": [PORT],
        "memory": {"arena_bytes": 128, "weights_bytes": 9}, "macs": 5, "timings_s": {"build": 0.5},
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    return tmp_path


def _edit(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**data, **changes}))


def test_manifest_survives_its_own_json(folder: Path) -> None:
    manifest = load_manifest(folder)
    again = Manifest.model_validate_json(manifest.to_json())
    assert again == manifest
    assert again.to_json() == manifest.to_json()


def test_port_knows_its_c_type_size_and_encoding(folder: Path) -> None:
    port, plain = load_manifest(folder).inputs
    assert (port.c_type, port.size_bytes) == ("int8_t", 6)
    assert (plain.c_type, plain.size_bytes, plain.encoding) == ("int32_t", 12, None)
    encoding = port.encoding
    assert encoding is not None
    assert encoding.quantise([0.0, 0.3, 1e9]).tolist() == [4, 7, 127]


def test_unsigned_port_has_an_unsigned_encoding() -> None:
    encoding = PortInfo.model_validate({**PORT, "dtype": "uint8"}).encoding
    assert encoding is not None
    assert encoding.limits == (0, 255)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"elements": 7}, "7 elements"),
        ({"scale": None}, "needs scale"),
        ({"dtype": "float16"}, "dtype"),
        ({"c_name": "a b"}, "c_name"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_port_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PortInfo.model_validate({**PORT, **changes})


def test_verify_names_what_changed_and_what_is_missing(folder: Path) -> None:
    manifest = load_manifest(folder)
    verify_files(folder, manifest)
    (folder / "src" / "m.c").write_text("int y;\n")
    (folder / "reference.npz").unlink()
    with pytest.raises(OptionError, match=r"reference.npz is missing, src/m.c was changed"):
        verify_files(folder, manifest)


def test_hashes_cover_every_file_but_the_manifest(folder: Path) -> None:
    assert list(hash_files(folder)) == ["reference.npz", "src/m.c"]


def test_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"not an artifact folder: it has no manifest.json"):
        load_manifest(tmp_path)
    with pytest.raises(OptionError, match="there is no such folder"):
        load_manifest(tmp_path / "absent")


def test_newer_schema_asks_for_an_upgrade(folder: Path) -> None:
    _edit(folder, schema_version=99, brand_new_field=1)
    with pytest.raises(OptionError, match=r"schema version 99.*upgrade edgec"):
        load_manifest(folder)


def test_damaged_manifest_names_the_field(folder: Path) -> None:
    _edit(folder, macs="many")
    with pytest.raises(OptionError, match="damaged: macs"):
        load_manifest(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(OptionError, match="is not JSON"):
        load_manifest(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(OptionError, match="damaged"):
        load_manifest(folder)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_listed_files_stay_inside_the_folder(folder: Path, path: str) -> None:
    _edit(folder, files={path: "0" * 64})
    with pytest.raises(OptionError, match="outside the artifact"):
        load_manifest(folder)


def test_manifest_is_frozen(folder: Path) -> None:
    manifest = load_manifest(folder)
    with pytest.raises(ValidationError):
        manifest.seed = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_scale_keeps_its_float32_value() -> None:
    scale = float(np.float32(0.1))
    port = PortInfo.model_validate({**PORT, "scale": scale})
    again = PortInfo.model_validate_json(port.model_dump_json())
    assert again.scale == scale
