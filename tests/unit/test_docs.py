"""Generated documentation is fresh, its links lead somewhere, the generator refuses nonsense."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgec.compiler.core import errors
from edgec.compiler.lowering.kernels import discover as kernels
from edgec.passes import discover as passes
from edgec.targets import targets
from tools import docs
from tools.messages import messages, unread

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


EXPLAINED = re.findall(
    r"^\| (``?)(.+?)\1 \| ", (ROOT / "docs/errors.md").read_text(encoding="utf-8"), re.MULTILINE
)


def test_every_explained_sentence_is_one_that_the_code_says() -> None:
    texts = {m.text for m in messages()} | {e.__name__ for e in errors_of_edgec()}
    assert len(EXPLAINED) > 30
    assert [text for _, text in EXPLAINED if text not in texts] == []


def errors_of_edgec() -> list[type[errors.EdgecError]]:
    return [errors.EdgecError, *errors.EdgecError.__subclasses__()]


def test_the_sentence_of_every_raise_is_read_from_the_code() -> None:
    # These hand on a sentence that was read where it was made, or the system's own.
    matchers = ("binary", "kronecker", "linear", "pooling", "recurrent", "rows")
    handed_on = {
        *(f"compiler/lowering/matchers/{m}.py: f'{{label(node)}}: {{reason}}'" for m in matchers),
        "compiler/lowering/islands.py: reason",
        "compiler/lowering/lower.py: [str(reason)]",
        "compiler/lowering/rescale.py: f\"'{request.hint}': {reason}\"",
        "compiler/cli_common.py: str(error)",
        "compiler/cli_common.py: f'{os.strerror(error.errno)}{where}'",
    }
    assert set(unread()) == handed_on
    found = {m.text: m for m in messages()}
    example = found["'…' is empty; download or export the model again"]
    assert (example.error, example.where) == ("ModelError", "compiler/frontend/source.py")
    assert example.matches("'a.onnx' is empty; download or export the model again")
    assert not example.matches("'a.onnx' is full; download or export the model again")
