"""The page says what was measured, needs nothing from outside, and keeps verdicts side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.compiler import charts, page_facts
from edgec.compiler.api import Artifact
from edgec.compiler.core.artifact import load_manifest, verify_files
from edgec.compiler.core.errors import OptionError
from edgec.compiler.core.units import count_text, size_text, time_text
from edgec.compiler.page import page, read_folder
from edgec.compiler.verdicts import require_writable, store_verdict, stored_verdicts
from tests.small import cnn, cnn_samples, good, good_json, qdq_cnn
from tests.small import edgec as run
from tools.browser import outside_references


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small network for the host, not yet checked."""
    out = tmp_path_factory.mktemp("page") / "out"
    return edgec.compile(cnn(), "host", out, {"image": cnn_samples()})


@pytest.fixture
def copy(artifact: Artifact, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(artifact.path, tmp_path / "copy")
    return tmp_path / "copy"


def text_of(artifact: Path) -> str:
    return (artifact / "report.html").read_text(encoding="utf-8")


def test_page_needs_nothing_from_outside(artifact: Artifact) -> None:
    assert outside_references(text_of(artifact.path)) == []
    assert outside_references('<img src="a.png"><a href="#x">') == ["<img", "src="]
    assert outside_references('<b style="background: url(x)" onclick="x()">') != []


def test_page_of_an_unchecked_artifact_says_so(artifact: Artifact) -> None:
    text = text_of(artifact.path)
    assert "Not run" in text and "edgec check out" in text
    assert text == page(artifact.path)


def test_every_layer_tensor_and_encoding_is_there(artifact: Artifact) -> None:
    text, report = text_of(artifact.path), artifact.report
    for row in report["layers"]:
        assert f'data-of="own">{row["local_sqnr_db"]:.1f}<' in text
    for row in report["size_by_layer"]:
        assert f'<td class="n">{row["weights_bytes"]:,} B</td>' in text
    plan = json.loads((artifact.path / "plan.json").read_text())
    assert all(f"<td>{name}</td>" in text for name in plan["encodings"])
    assert text.count('<div class="card">') == len(report["tensors"])
    assert text.count("<circle") == len(report["layers"])
    assert text.count('class="block') == len(report["memory"]["blocks"])


def test_layers_come_worst_first(artifact: Artifact) -> None:
    own = [r["own"] for r in page_facts.layer_rows(artifact.report)]
    assert own == [
        f"{v:.1f}" for v in sorted(r["local_sqnr_db"] for r in artifact.report["layers"])
    ]


def test_names_are_escaped(copy: Path) -> None:
    found = json.loads((copy / "report.json").read_text())
    renamed = found["tensors"][0]["value"]
    for row in (*found["tensors"], *found["outlier_pictures"]):
        row["value"] = "<b>&\"'" if row["value"] == renamed else row["value"]
    found["size_by_layer"][0]["nodes"] = ["Conv '<i>'"]
    (copy / "report.json").write_text(json.dumps(found))
    text = page(copy)
    assert '<b>&"' not in text and "&lt;b&gt;&amp;" in text and "<i>" not in text


def test_check_keeps_its_verdict_and_the_artifact_stays_whole(copy: Path) -> None:
    verdict = good_json("check", copy)
    (kept,) = stored_verdicts(copy)
    assert kept == verdict and [p.name for p in (copy / "verdicts").iterdir()] == [
        "host-this-machine.json"
    ]
    text = text_of(copy)
    assert "Not run" not in text and ">Passed<" in text
    assert time_text(verdict["time_s"]) in text
    verify_files(copy, load_manifest(copy))
    again = good_json("check", copy)
    assert stored_verdicts(copy) == [again]


def test_no_store_leaves_the_folder_alone(copy: Path) -> None:
    before = text_of(copy)
    good("check", copy, "--no-store")
    assert text_of(copy) == before and not (copy / "verdicts").exists()


def test_devices_stand_side_by_side(copy: Path, artifact: Artifact, tmp_path: Path) -> None:
    verdict = good_json("check", copy)
    other: dict[str, Any] = {
        **verdict, "target": "cortex-m9", "device": "bench", "passed": False,
        "instructions": 1234.0, "gates": [{**verdict["gates"][0], "passed": False}],
    }  # fmt: skip
    store_verdict(copy, other)
    out = tmp_path / "beside.html"
    good("report", copy, artifact.path, "-o", out)
    columns = page_facts.columns([read_folder(copy), read_folder(artifact.path)])
    assert [(c.title, c.state) for c in columns] == [
        ("cortex-m9", "failed"), ("host", "passed"), ("host", "not run"),
    ]  # fmt: skip
    text = out.read_text()
    assert "1,234" in text and "failed: bits_differ_from_reference" in text


def test_costs_of_layers_as_the_device_measured_them(copy: Path) -> None:
    assert page_facts.measured_layers(read_folder(copy)) is None
    assert "edgec check copy --layers" in page(copy)
    verdict = good_json("check", copy, "--layers")
    measured = page_facts.measured_layers(read_folder(copy))
    assert measured is not None and measured.title == "µs"
    layers = verdict["layers"]["layers"]
    assert measured.by_call == {v["call"]: pytest.approx(v["time_s"] * 1e6) for v in layers}
    text = text_of(copy)
    assert f"{len(layers)} of {len(layers)}" in text and "µs per inference on host" in text
    for layer in layers:
        layer["instructions"] = 1000.0 * (layer["call"] + 1)
    store_verdict(copy, verdict)
    counted = page_facts.measured_layers(read_folder(copy))
    assert counted is not None and counted.title == "instructions"
    assert counted.by_call[1] == 2000 and ">2,000<" in page(copy)


def test_a_later_check_keeps_what_only_an_earlier_one_measured(copy: Path) -> None:
    full = {
        "target": "t",
        "device": "d",
        "passed": True,
        "layers": {"layers": []},
        "task": {"a": 1},
    }
    store_verdict(copy, full)
    store_verdict(copy, {**full, "passed": False, "layers": None, "task": {"a": 2}})
    (kept,) = stored_verdicts(copy)
    assert kept == {**full, "passed": False, "task": {"a": 2}}


def test_report_verb_says_where(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert good_json("report", copy)["report"] == str(copy / "report.html")
    monkeypatch.chdir(copy.parent)
    assert good("report", copy, copy).stdout.strip() == "report  cnn-report.html"
    assert (copy.parent / "cnn-report.html").is_file()
    assert edgec.report(copy, output=copy.parent / "a.html") == copy.parent / "a.html"


def test_quantised_models_have_a_page_too(tmp_path: Path) -> None:
    edgec.compile(qdq_cnn(), "host", tmp_path / "out")
    text = text_of(tmp_path / "out")
    assert "arrived quantised" in text and "<circle" not in text
    assert "int8" in text and 'class="block' in text


def test_refusals(copy: Path, tmp_path: Path, artifact: Artifact) -> None:
    assert run("report", tmp_path).exit_code == 2
    found = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**found, "source_sha256": "1" * 64}))
    with pytest.raises(OptionError, match="another model"):
        edgec.report(artifact.path, copy)
    with pytest.raises(OptionError, match="choose another file"):
        edgec.report(copy, output=tmp_path / "none" / "a.html")
    store_verdict(copy, {"target": "a", "device": "b", "passed": True}).write_text("{}")
    with pytest.raises(OptionError, match="not a verdict"):
        edgec.report(copy)
    (copy / "report.json").write_text("{}")
    with pytest.raises(OptionError, match="older edgec"):
        edgec.report(copy)
    (copy / "report.json").write_text("no")
    with pytest.raises(OptionError, match="no readable"):
        edgec.report(copy)


def test_a_folder_that_cannot_be_written(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_access(path: str, mode: int) -> bool:
        return False

    monkeypatch.setattr("os.access", no_access)
    with pytest.raises(OptionError, match="--no-store"):
        require_writable(copy)
    with pytest.raises(OptionError, match="--no-store"):
        edgec.check(copy)
    assert edgec.check(copy, store=False).passed
    (copy / "verdicts").write_text("a file")
    with pytest.raises(OptionError, match="cannot keep"):
        store_verdict(copy, {"target": "a", "device": "b"})


def test_histogram_marks_what_lies_outside() -> None:
    counts = [0, 3, 0, 9]
    shape = {"low": -2.0, "high": 2.0, "counts": counts}
    drawn = charts.histogram({"value": "v", "low": -1.0, "high": 1.0, "histogram": shape})
    assert drawn.count('class="in"') == 1 and drawn.count('class="out"') == 1
    assert 'x1="25.00%" x2="75.00%"' in drawn


def test_bars_and_numbers() -> None:
    assert 'width="100.0%"' in charts.bar(7) and 'width="0.0%"' in charts.bar(-1)
    assert [count_text(n) for n in (7, 999, 1000, 247936, 5.69e6, 1.34e8, 2e9)] == [
        "7", "999", "1.00 k", "248 k", "5.69 M", "134 M", "2.00 G",
    ]  # fmt: skip
    assert size_text(999) == "999 B" and size_text(1 << 20) == "1.0 MiB"


def test_memory_peak_is_the_fullest_step(artifact: Artifact) -> None:
    found = page_facts.memory_peak(artifact.report)
    assert found["bytes"] == artifact.report["memory"]["lower_bound_bytes"]
    sizes = [b["bytes"] for b in found["blocks"]]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) >= found["bytes"]
