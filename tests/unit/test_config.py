"""Options as a file: what is read, what is refused, and that saving and reading agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgec.compiler.cli_compile import compile_verb
from edgec.compiler.config import KEYS, config_text, parameters, read_config, tomllib
from edgec.compiler.core.errors import OptionError
from tests.small import edgec, good, good_json, write_cnn

FULL = """
model = "cnn.onnx"
target = "stm32f446"
calibration = "data.npz"
calibration-method = "percentile:99"
wide-activations = "never"
patches = "never"
samples = 5
name = "net"
no-pass = ["bias-correction"]
max-flash = "512K"
max-ram = 131072
max-drop = "50%"
seed = 3
[shape]
image = [1, 2, 8, 8]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "edgec.toml").write_text(text)
    return folder / "edgec.toml"


def test_every_key_is_an_option_of_compile() -> None:
    options = {flag.lstrip("-") for p in compile_verb.params for flag in p.opts}
    per_call = {
        "o", "q", "quiet", "json", "debug", "overwrite", "config", "save-config", "dump", "bisect",
        "tolerance",
    }  # fmt: skip
    assert set(KEYS) == options - per_call


def test_parameters_are_those_of_the_command_line(tmp_path: Path) -> None:
    found = parameters(read_config(write(tmp_path, FULL)))
    assert found["shapes"] == ["image=1,2,8,8"] and found["no_passes"] == ["bias-correction"]
    assert found["samples"] == "5" and found["max_ram"] == "131072"
    assert set(found) <= {p.name for p in compile_verb.params}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max-rum = 3", "there is no key 'max-rum'; did you mean max-ram"),
        ("max_ram = 3", "there is no key 'max_ram'; did you mean max-ram"),
        ("zzz = 3", "there is no key 'zzz'; use model, target"),
        ("samples = 'many'", "samples = 'many' is not usable"),
        ("samples = true", "samples = True is not usable"),
        ("shape = {x = ['a']}", "shape = "),
        ("wide-activations = 'maybe'", "wide-activations = 'maybe' is not usable"),
        ("samples = ", "is not TOML"),
    ],
    ids=str,
)
def test_wrong_files_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=sentence):
        read_config(write(tmp_path, text))


def test_what_is_saved_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cnn(tmp_path)
    write(tmp_path, FULL)
    first = good_json(
        "compile", "--config", "edgec.toml", "--target", "host", "-o", "a", "--max-ram", "1M",
        "--save-config", "saved.toml",
    )  # fmt: skip
    # The command line comes first.
    assert first["target"] == "host" and first["name"] == "net"
    saved = tomllib.loads((tmp_path / "saved.toml").read_text())
    assert saved == tomllib.loads(FULL) | {
        "target": "host", "output": "a", "max-flash": 512 << 10, "max-ram": 1 << 20,
        "drop-measure": "agreement", "recipe": "int8",
    }  # fmt: skip
    good("compile", "--config", "saved.toml", "-o", "b", "-q")
    for name in ("plan.json", "src/net.c", "src/net_weights.c"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    gates = json.loads((tmp_path / "b" / "manifest.json").read_text())["gates"]
    assert gates["max_ram_bytes"] == 1 << 20 and gates["max_drop"] == 0.5


def test_values_are_judged_as_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cnn(tmp_path)
    write(tmp_path, "max-ram = '3 apples'")
    wrong = edgec("compile", "cnn.onnx", "--target", "host", "--config", "edgec.toml")
    assert wrong.exit_code == 2 and "'3 apples' is no size" in wrong.stderr
    missing = edgec("compile", "cnn.onnx", "--target", "host", "--config", "none.toml")
    assert missing.exit_code == 2 and "none.toml" in missing.stderr
    other = edgec("compile", "cnn.onnx", "--target", "host", "--save-config", "cnn.onnx")
    assert other.exit_code == 2 and "must end in .toml" in other.stderr
    lost = edgec("compile", "cnn.onnx", "--target", "host", "--save-config", "no/x.toml")
    assert lost.exit_code == 2 and "does not exist" in lost.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"cnn.onnx", "data.npz", "edgec.toml"}


def test_empty_options_are_left_out() -> None:
    text = config_text({"target": "host", "passes": (), "samples": None, "max_drop": 0.015})
    assert tomllib.loads(text) == {"target": "host", "max-drop": "1.5%"}
