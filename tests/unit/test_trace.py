"""The model after every pass, and which pass first moved the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgec as api
from edgec.compiler import pipeline
from edgec.compiler.core.errors import OptionError
from edgec.compiler.core.passbase import Context, Note, Outcome
from edgec.compiler.trace import Trace, tracing
from edgec.passes.bias_correction import BiasCorrection
from tests.small import cnn, cnn_samples, edgec, good, good_json, write_cnn


def compiled(trace: Trace, out: Path) -> None:
    api.compile(cnn(), "host", out, {"image": cnn_samples()}, watch=trace.watch, judge=trace.judge)


def test_every_model_is_sound_and_every_pass_is_listed(tmp_path: Path) -> None:
    with tracing(tmp_path / "dump", bisect=True) as trace:
        compiled(trace, tmp_path / "out")
    listed = (tmp_path / "dump" / "passes.txt").read_text().splitlines()
    names = [line.split()[1].rstrip(":") for line in listed]
    assert names[:3] == ["load", "upgrade", "rewrite_qoperators"] and names[-1] == "apply_plan"
    assert {t.name for t in pipeline.CANONICAL} <= set(names)
    files = sorted((tmp_path / "dump").glob("*.onnx"))
    assert [f.name for f in files] == [item.path.name for item in trace.dumped]
    assert files[0].name == "00-load.onnx" and files[-1].name.endswith("-apply_plan.onnx")
    for file in files:
        onnx.checker.check_model(onnx.load(file))
    quantised = (tmp_path / "out" / "model.quant.onnx").read_bytes()
    assert files[-1].read_bytes() == quantised
    assert [d.name for d in trace.drifts][-2:] == ["apply_plan", "lower"]
    assert trace.first(0.5) is None and trace.first(1e-9) is not None
    # Within rounding of ONNX Runtime, the program is what was quantised.
    assert abs(trace.drifts[-1].error - trace.drifts[-2].error) < 0.01


def test_a_pass_that_breaks_the_model_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(BiasCorrection):
        """Doubles a bias."""

        def apply(self, model: ir.Model, ctx: Context) -> Outcome:
            bias = model.graph.initializers["scores.in2"]
            assert bias.const_value is not None
            bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(10))
            return Outcome(changed=[Note("u", "broken")])

    def keep(model: ir.Model, correction: Any, context: Any, *_: Any) -> Any:
        candidate = model.clone()
        outcome = correction.apply(candidate, context)
        return candidate, pipeline.Step(correction.name, outcome, 0.0)

    monkeypatch.setattr(pipeline, "CORRECTIONS", (Broken(),))
    monkeypatch.setattr(pipeline, "try_correction", keep)
    with tracing(None, bisect=True) as trace:
        compiled(trace, tmp_path / "out")
    first = trace.first(0.05)
    assert first is not None and first.name == "bias_correction"
    assert "bias_correction first moved the outputs" in trace.verdict(0.05)
    assert trace.folder is not None and not trace.folder.exists()


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="not an empty folder"), tracing(tmp_path, bisect=False):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cnn(tmp_path)
    given = ("compile", "cnn.onnx", "--target", "host", "--calibration", "data.npz")
    found = good_json(*given, "-o", "a", "--dump", "d", "--bisect", "--tolerance", "0.0001%")
    assert found["bisect"]["first"] and len(found["dump"]) == len(list(Path("d").glob("*.onnx")))
    text = good(*given, "-o", "b", "--bisect").stdout
    assert "nothing moved the outputs by more than 0.05" in text and "after lower" in text
    plain = good_json(*given, "-o", "c")
    assert not {"bisect", "dump"} & set(plain)
    idle = edgec(*given, "-o", "e", "--tolerance", "1%")
    assert idle.exit_code == 2 and "--bisect only" in idle.stderr
    again = edgec(*given, "-o", "e", "--dump", "d")
    assert again.exit_code == 2 and "not an empty folder" in again.stderr
