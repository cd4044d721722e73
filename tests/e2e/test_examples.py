"""The bundled network, the demo, and every command and line of Python that README.md shows."""

from __future__ import annotations

import io
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rich.console import Console

from edgec.compiler.check import Verdict
from edgec.compiler.core.errors import DeviceError, ToolMissingError
from edgec.compiler.frontend.reference import Reference
from examples import demo
from tools import docs

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_network_is_small_and_keeps_what_the_compiler_must_fold() -> None:
    path = DIGITS / "digits.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert path.stat().st_size < 200_000
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 9 and kinds["Clip"] == 7 and kinds["Add"] == 2
    assert any(a.name == "group" and a.i > 1 for n in model.graph.node for a in n.attribute)


def test_network_is_accurate_on_the_bundled_images() -> None:
    with np.load(DIGITS / "test.npz", allow_pickle=False) as data:
        images, labels = data["image"], data["labels"]
    assert images.shape == (500, 1, 8, 8) and sorted(set(labels.tolist())) == list(range(10))
    network = Reference(ir.load(DIGITS / "digits.onnx"))
    answers = [np.argmax(network.run({"image": image[None]})["logits"]) for image in images]
    assert np.mean(np.array(answers) == labels) >= 0.975


def test_calibration_images_are_no_test_images() -> None:
    with np.load(DIGITS / "test.npz", allow_pickle=False) as data:
        test = {image.tobytes() for image in data["image"]}
    with np.load(DIGITS / "calibration.npz", allow_pickle=False) as data:
        calibration = {image.tobytes() for image in data["image"]}
    assert len(calibration) == 128 and not test & calibration


def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed(made: Console) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


@pytest.mark.qemu_aarch64
@pytest.mark.qemu_cortex_m
def test_demo_loses_nothing_on_three_devices(tmp_path: Path) -> None:
    shown = demo.Demo(console())
    shown.run(demo.TARGETS, tmp_path)
    assert not shown.missing and not shown.failed and shown.exit_code == 0
    assert list(shown.verdicts) == ["host", "aarch64", "cortex-m4"]
    scores = [v.task.value for v in shown.verdicts.values() if v.task]
    assert len(set(scores)) == 1 and scores[0] >= 0.975
    assert all(v.quantised.same_bits for v in shown.verdicts.values())
    shown.console.print(shown.table())
    assert "mps2-an386" in printed(shown.console)


def test_demo_goes_on_without_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = demo.compile_and_check

    def without_arm(target: str, out: Path) -> Verdict:
        if target == "cortex-m4":
            raise ToolMissingError("no compiler; install with: sudo apt-get install it")
        return real(target, out)

    monkeypatch.setattr(demo, "compile_and_check", without_arm)
    shown = demo.Demo(console())
    shown.run(("cortex-m4", "host"), tmp_path)
    assert list(shown.verdicts) == ["host"]
    assert "apt-get install it" in shown.missing["cortex-m4"]
    assert shown.exit_code == 3


def test_demo_reports_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(target: str, out: Path) -> Verdict:
        raise DeviceError(f"{target} hangs")

    monkeypatch.setattr(demo, "compile_and_check", broken)
    shown = demo.Demo(console())
    shown.run(("host",), tmp_path)
    assert shown.failed == {"host": "host hangs"} and shown.exit_code == 1


def words(text: str) -> list[str]:
    """What a console shows, without numbers, spacing, rules, and which layers are worst."""
    lines = [line for line in text.splitlines() if " dB at " not in line]
    masked = re.sub(r"-?\d[\d.,]*", "N", "\n".join(lines)).replace("steps", "step").replace("─", "")
    return masked.split()


@pytest.mark.slow
@pytest.mark.qemu_aarch64
@pytest.mark.qemu_cortex_m
def test_every_command_of_the_readme_prints_what_it_shows() -> None:
    again = docs.rerun(README)
    assert len(re.findall(r"^\$ ", README, re.MULTILINE)) >= 6
    assert words(again) == words(README), "run `python tools/docs.py --tour`"


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    logits = names["logits"]
    assert isinstance(logits, np.ndarray) and logits.shape == (1, 10)
    assert isinstance(verdict := names["verdict"], Verdict) and verdict.passed
