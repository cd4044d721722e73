"""The page as a browser shows it: complete, legible, inside its width, in light, dark and print."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

import edgec
from tests.small import cnn, cnn_samples, qdq_cnn
from tools import browser, pictures

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the small network, checked on the host, with a second artifact beside."""
    folder = tmp_path_factory.mktemp("chromium")
    made = edgec.compile(cnn(), "host", folder / "host", {"image": cnn_samples()})
    made.check()
    shutil.copytree(made.path, folder / "unchecked")
    shutil.rmtree(folder / "unchecked" / "verdicts")
    return edgec.report(made.path, folder / "unchecked", output=made.path / "page.html")


@pytest.mark.parametrize(
    ("width", "dark"), [(browser.PHONE, True), (browser.DESKTOP, False)], ids=["phone", "desktop"]
)
def test_nothing_is_missing_cut_off_or_illegible(page: Path, width: int, dark: bool) -> None:
    found = browser.audit(page, width, dark)
    assert found["width"] == width and found["scripts"] == 0
    assert browser.problems(found) == []
    shown, report = found["sections"], json.loads((page.parent / "report.json").read_text())
    assert shown["layers"]["shown"]["svg circle"] == len(report["layers"])
    assert shown["ranges"]["shown"][".card"] == len(report["tensors"])
    assert shown["costs"]["shown"]["tbody tr"] == len(report["size_by_layer"])
    assert shown["devices"]["shown"]["thead th"] == 1 + 2
    colours = {re.sub(r".* on ", "", t["colours"]) for t in found["texts"]}
    paper = "21,23,26" if dark else "255,255,255"
    assert paper in colours


def test_a_quantised_model_has_every_section(tmp_path: Path) -> None:
    made = edgec.compile(qdq_cnn(), "host", tmp_path / "out")
    found = browser.audit(made.path / "report.html", browser.PHONE)
    without_float = {"layers": {}, "ranges": {}, "summary": {".tiles .value": 4}}
    assert browser.problems(found, {**browser.CONTENT, **without_float}) == []


def edited(page: Path, folder: Path, edits: Mapping[str, str]) -> Path:
    """Return a copy of page in which every pattern was replaced."""
    text = page.read_text(encoding="utf-8")
    for old, new in edits.items():
        text, count = re.subn(old, new, text, flags=re.DOTALL)
        assert count, old
    (folder / "page.html").write_text(text, encoding="utf-8")
    return folder / "page.html"


def test_empty_sections_are_noticed(page: Path, tmp_path: Path) -> None:
    body = r'(<section id="{}"[^>]*>\s*(?:<h2>[^<]*</h2>)?).*?(</section>)'
    edits = {body.format(section): r"\1\2" for section in browser.CONTENT}
    said = browser.problems(browser.audit(edited(page, tmp_path, edits), browser.DESKTOP))
    for section in browser.CONTENT:
        assert f"section {section} says nothing" in said
        assert sum(f"section {section} shows 0 of" in sentence for sentence in said) >= 1


def test_one_empty_section_is_noticed_alone(page: Path, tmp_path: Path) -> None:
    edits = {r'(<figure>\s*)<svg class="profile".*?</svg>': r"\1"}
    said = browser.problems(browser.audit(edited(page, tmp_path, edits), browser.DESKTOP))
    assert said == ["section layers shows 0 of 'svg circle', at least 1 wanted"]


def test_faults_are_noticed(page: Path, tmp_path: Path) -> None:
    edits = {
        '<section id="plan">': '<section id="other">',
        "max-width: 60rem": "min-width: 90rem",
        "--soft: #5c636e": "--soft: #cccccc",
        r"svg text \{ font-size: 11px": "svg text { font-size: 6px",
    }
    found = browser.problems(browser.audit(edited(page, tmp_path, edits), browser.PHONE))
    for said in ("section plan is missing", "px wide", "contrast", "px small"):
        assert any(said in sentence for sentence in found), said


def test_pictures_of_the_docs(page: Path, tmp_path: Path) -> None:
    sizes = {}
    for path in pictures.photograph(page, tmp_path):
        png = path.read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 20_000  # a blank one is far smaller
        sizes[path.stem] = tuple(int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert sizes["report-desktop"] == (browser.DESKTOP, 1400)
    assert sizes["report-phone"] == (browser.PHONE, 1500)
    width, height = sizes["report-print"]
    assert width < height
    assert {p.name for p in pictures.PICTURES.glob("report-*.png")} == {f"{s}.png" for s in sizes}


def test_print_has_few_pages(page: Path, tmp_path: Path) -> None:
    browser.print_pdf(page, tmp_path / "page.pdf")
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
