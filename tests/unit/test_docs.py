"""Generated documentation is fresh, its links lead somewhere, the generator refuses nonsense."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgec.compiler.lowering.kernels import discover as kernels
from edgec.passes import discover as passes
from edgec.targets import targets
from tools import docs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [p for p in ROOT.rglob("*.md") if not {".venv", "build"} & set(p.parts)]


@pytest.mark.parametrize("name", docs.PARTS)
def test_generated_parts_are_fresh(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert docs.render(name) == text, "run `python tools/docs.py`"


def test_readme_names_every_target_pass_and_kernel() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = [*targets(), *(p.name for p in passes()), *(k.name for k in kernels())]
    assert [name for name in wanted if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith("https://")]
    assert [f for f in files if not (page.parent / f).exists()] == []


def test_replace_part_keeps_everything_else() -> None:
    text = "head\n<!-- a -->\nold\n<!-- /a -->\ntail\n"
    assert (
        docs.replace_part(text, "a", "new\n", "x") == "head\n<!-- a -->\nnew\n<!-- /a -->\ntail\n"
    )
    again = docs.replace_part(text, "a", "old", "x")
    assert again == text


@pytest.mark.parametrize("text", ["none", "<!-- a -->\nno end", "<!-- a -->\n<!-- /a -->" * 2])
def test_replace_part_wants_exactly_one(text: str) -> None:
    with pytest.raises(SystemExit, match="exactly one"):
        docs.replace_part(text, "a", "new", "page")


def test_commands_take_continuation_lines() -> None:
    block = "$ one --two \\\n    three\nsaid\n$ four\nsaid $ five\n"
    assert docs.commands(block) == ["one --two \\\n    three\n", "four\n"]


def test_rerun_pastes_what_commands_print() -> None:
    text = "a\n```console\n$ echo 1 \\\n  2\nold\n$ ls examples/digits/train.py\n```\nb\n"
    made = "a\n```console\n$ echo 1 \\\n  2\n1 2\n$ ls examples/digits/train.py\n"
    assert docs.rerun(text) == made + "examples/digits/train.py\n```\nb\n"


def test_rerun_refuses_a_command_that_fails() -> None:
    with pytest.raises(SystemExit, match="`false` failed"):
        docs.rerun("```console\n$ false\n```\n")


def test_summary_is_the_first_sentence_of_a_module() -> None:
    assert docs.summary("edgec.compiler.core.encoding") == (
        "How a tensor is stored, and the one rule by which integers are rescaled: pure data"
    )
