"""`edgec plan`: the plan that compiling makes, what is the peak, what would help; nothing built."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.compiler.cli import cli
from tests.e2e.test_patches import block
from tests.small import edgec, good, good_json, save, write_cnn


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save(block(), tmp_path / "block.onnx")


def test_it_is_the_plan_of_the_compilation(model: Path, tmp_path: Path) -> None:
    given = (model, "--target", "cortex-m4")
    found = good_json("plan", *given)
    assert [p.name for p in tmp_path.iterdir()] == [model.name]
    compiled = good_json("compile", *given, "-o", "out")
    assert found["arena_bytes"] == compiled["memory"]["arena_bytes"]
    ports = found["inputs_bytes"] + found["outputs_bytes"]
    assert found["ram_bytes"] == found["arena_bytes"] + ports == compiled["memory"]["ram_bytes"]
    assert found["macs"] == compiled["macs"]
    assert max(found["alive_bytes"]) == found["lower_bound_bytes"]
    at = found["peak"]["call"]
    assert found["alive_bytes"][at] == found["lower_bound_bytes"]
    assert "'Conv" not in found["peak"]["tensors"][0]["content"]
    assert len(found["calls"]) == len(found["alive_bytes"])
    assert found["patches"] is None and found["limit_bytes"] is None and found["passed"]


def test_its_advice_is_what_the_option_gives(model: Path) -> None:
    (advice,) = good_json("plan", model, "--target", "cortex-m4")["advice"]
    tried = good_json("plan", model, "--target", "cortex-m4", "--patches", "always")
    assert advice == f"--patches always: {tried['patches']['text']}."
    assert tried["arena_bytes"] == tried["patches"]["arena_bytes"] and not tried["advice"]
    never = good_json("plan", model, "--target", "cortex-m4", "--patches", "never")
    assert never["arena_bytes"] == tried["patches"]["arena_bytes_before"]


def test_a_limit_that_does_not_hold_fails(model: Path) -> None:
    found = edgec("plan", model, "--target", "cortex-m4", "--max-ram", "2K")
    assert found.exit_code == 1
    assert "FAILED --max-ram" in found.stderr and "more than the 2,048 allowed" in found.stderr
    assert "no split and tiles" in " ".join(found.stdout.split())


def test_the_text_shows_steps_and_places(model: Path) -> None:
    text = good("plan", model, "--target", "stm32f446").stdout
    assert "limit" in text and "128.0 KiB" in text
    assert "offset  bytes  steps  content" in " ".join(text.split("\n\n")[2].split("\n"))[:60]
    steps = [line for line in text.split("\n\n")[1].splitlines() if "conv2d" in line]
    assert len(steps) >= 2 and any("#" * 24 in line for line in text.splitlines())


def test_a_model_without_images_has_no_patches_to_advise(tmp_path: Path) -> None:
    path, data = write_cnn(tmp_path)
    found = good_json("plan", path, "--target", "cuda-sm80", "--calibration", data,
                      "--shape", "image=1,2,8,8")  # fmt: skip
    assert found["patches"] is None and found["advice"] == []


def test_options_are_those_of_compile() -> None:
    theirs = {p.name: p for p in cli.commands["compile"].params}
    for param in cli.commands["plan"].params:
        assert type(theirs[param.name]) is type(param)
        assert theirs[param.name].opts == param.opts
