"""The report holds the facts of the compilation it describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import edgec
from edgec.compiler import rehearsal, report
from edgec.compiler.api import Artifact
from edgec.compiler.core.graph import model_from_text
from tests.small import cnn, cnn_samples, qdq_cnn


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small network for the host, calibrated on real data."""
    out = tmp_path_factory.mktemp("report") / "out"
    return edgec.compile(cnn(), "host", out, {"image": cnn_samples()})


@pytest.fixture(scope="module")
def found(artifact: Artifact) -> dict[str, Any]:
    """report.json as written."""
    return json.loads((artifact.path / "report.json").read_text())


def test_written_report_is_the_returned_one(artifact: Artifact, found: dict[str, Any]) -> None:
    assert found == json.loads(report.to_json(artifact.report))
    assert list(found)[:2] == ["model", "calibration"] and found["model"] == "cnn"


def test_calibration_says_where_ranges_came_from(found: dict[str, Any]) -> None:
    assert found["calibration"] == "16 samples of the given calibration data"


def test_every_pass_is_accounted_for(found: dict[str, Any]) -> None:
    names = [step["name"] for step in found["passes"]]
    assert names[0] == "load" and names[-1] == "apply_plan"
    assert names.index("fold_constants") < names.index("cross_layer_equalisation")
    proved = [s for s in found["passes"] if s["output_error"] is not None]
    assert all(0 <= s["output_error"] <= 1e-5 for s in proved if s["changed"])
    (load,) = [s for s in found["passes"] if s["name"] == "load"]
    assert {"where": "image", "text": "batch axis batch set to 1"} in load["changed"]


def test_outputs_and_layers(found: dict[str, Any]) -> None:
    (row,) = found["outputs"]
    assert row["name"] == "scores" and row["max_steps"] <= 1 and row["sqnr_db"] > 25
    assert row["max_steps_double"] == 0 and found["not_in_double"] == ""
    assert found["reference"] == "ONNX Runtime"
    errors = [layer["sqnr_db"] for layer in found["layers"]]
    assert errors == sorted(errors) and len(errors) >= 2
    # Storing a value alone cannot be worse than everything up to it, but for chance.
    assert all(layer["local_sqnr_db"] > layer["sqnr_db"] - 3 for layer in found["layers"])


def test_a_model_that_cannot_be_computed_in_double_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: ir.Model) -> ir.Model:
        text = (
            '<ir_version: 8, opset_import: ["" : 17]> m '
            "(double[1,2,8,8] image) => (double[1,2,8,8] scores) { scores = Erf(image) }"
        )
        return model_from_text(text)

    monkeypatch.setattr(rehearsal, "in_double", refused)
    artifact = edgec.compile(cnn(), "host", tmp_path / "out", {"image": cnn_samples()})
    (row,) = artifact.report["outputs"]
    assert row["max_steps_double"] is None and "Erf" in artifact.report["not_in_double"]
    assert "not compared in double precision: ONNX Runtime" in report.to_text(artifact.report)
    assert artifact.check().quantised.max_steps_double is None


def test_the_report_says_who_stood_in_for_onnx_runtime(tmp_path: Path) -> None:
    model = model_from_text(
        '<ir_version: 8, opset_import: ["" : 17]> m (double[1, 4] x) => (double[1, 4] y)'
        "{ y = Erf(x) }"
    )
    artifact = edgec.compile(model, "host", tmp_path / "out", recipe="float32")
    assert artifact.report["reference"] == "ONNX's own evaluator"
    said = "in place of ONNX Runtime, which lacks an operator: ONNX's own evaluator"
    assert said in (artifact.path / "report.txt").read_text()


def test_memory_plan_holds_every_block(artifact: Artifact, found: dict[str, Any]) -> None:
    plan = found["memory"]
    assert plan["arena_bytes"] == artifact.manifest.memory.arena_bytes
    assert plan["lower_bound_bytes"] <= plan["arena_bytes"]
    for block in plan["blocks"]:
        assert block["offset"] >= 0 and block["offset"] + block["bytes"] <= plan["arena_bytes"]
        assert block["first_call"] <= block["last_call"]


def test_sizes_add_up(artifact: Artifact, found: dict[str, Any]) -> None:
    rows = found["size_by_layer"]
    assert sum(r["macs"] for r in rows) == artifact.manifest.macs
    assert sum(r["weights_bytes"] for r in rows) <= artifact.manifest.memory.weights_bytes
    assert sum(found["operators"].values()) == len(rows)


def test_timings_cover_the_stages(found: dict[str, Any]) -> None:
    stages = ["load", "canonicalise", "calibrate", "transform", "quantise", "lower", "generate"]
    assert list(found["timings_s"])[: len(stages)] == stages


def test_text_says_the_same(artifact: Artifact, found: dict[str, Any]) -> None:
    text = (artifact.path / "report.txt").read_text()
    assert text == report.to_text(found)
    for step in found["passes"]:
        assert f"  {step['name']}: {len(step['changed'])} changed" in text
    assert f"Arena: {found['memory']['arena_bytes']} bytes" in text
    assert "WARNING" not in text


def test_long_lists_are_cut_with_a_count(found: dict[str, Any]) -> None:
    notes = [{"where": f"n{i}", "text": "t"} for i in range(20)]
    step = {
        "name": "many", "changed": notes, "declined": notes, "seconds": 0.0, "output_error": None,
    }  # fmt: skip
    text = report.to_text({**found, "passes": [step]})
    assert "... 8 more in report.json" in text and "... 14 more in report.json" in text


def test_synthetic_data_is_a_warning(tmp_path: Any) -> None:
    made = edgec.compile(cnn(), "host", tmp_path / "out")
    assert made.report["calibration"].startswith("WARNING: 16 seeded synthetic samples")
    assert "WARNING" in (tmp_path / "out" / "report.txt").read_text()


def test_quantised_models_have_no_float_columns(tmp_path: Any) -> None:
    made = edgec.compile(qdq_cnn(), "host", tmp_path / "out")
    assert "already quantised" in made.report["calibration"]
    assert made.report["layers"] == [] and "sqnr_db" not in made.report["outputs"][0]
    assert "against float" not in report.to_text(made.report)


def test_only_plain_values_are_written() -> None:
    assert json.loads(report.to_json({"a": np.float32(0.5), "b": np.int64(3)})) == {
        "a": 0.5,
        "b": 3,
    }
    with pytest.raises(TypeError, match="does not belong"):
        report.to_json({"a": object()})
