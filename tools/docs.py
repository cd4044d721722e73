"""Write the generated parts of README.md and docs/ from the code; --check only compares."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from edgec.compiler.core import errors
from edgec.compiler.core.tools import Tool, install_line
from edgec.compiler.core.units import capacity_text
from edgec.compiler.inspect import list_passes
from edgec.compiler.lowering.gpu.codegen import have_gpu_form
from edgec.compiler.lowering.kernels import discover
from edgec.compiler.lowering.kernels.compare import RELATIONS
from edgec.compiler.lowering.matchers import MATCHERS
from edgec.compiler.recipes import RECIPES
from edgec.targets import cores, targets
from edgec.targets.spec import TargetSpec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.messages import OTHER, REFUSED, Message, messages  # noqa: E402

NODE_TESTS = ROOT / "tests" / "numeric" / "node_tests.json"


def main() -> int:
    """Rewrite what is stale; with --check, name it and return 1 instead.

    With --tour, first run the commands of README.md again and paste what they print.
    """
    if "--tour" in sys.argv[1:]:
        readme = ROOT / "README.md"
        readme.write_text(rerun(readme.read_text("utf-8")), "utf-8")
    check = "--check" in sys.argv[1:]
    stale = [name for name in PARTS if render(name) != (ROOT / name).read_text("utf-8")]
    for name in stale:
        if not check:
            (ROOT / name).write_text(render(name), "utf-8")
        print(f"docs: {name} {'is stale; run `python tools/docs.py`' if check else 'rewritten'}")
    return 1 if check and stale else 0


def render(name: str) -> str:
    """Return the text of a file with its generated parts made anew."""
    text = (ROOT / name).read_text("utf-8")
    for part, make in PARTS[name].items():
        text = replace_part(text, part, make(), name)
    return text


def replace_part(text: str, part: str, body: str, where: str) -> str:
    """Put body between `<!-- part -->` and `<!-- /part -->`."""
    start, end = f"<!-- {part} -->\n", f"<!-- /{part} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"docs: {where} needs exactly one {start.strip()} ... {end}")
    head, rest = text.split(start)
    return f"{head}{start}{body.strip()}\n{end}{rest.split(end)[1]}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def summary(module: str) -> str:
    """Return the first sentence of a module's docstring."""
    text = (importlib.import_module(module).__doc__ or "").strip().split("\n\n")[0]
    # A full stop inside brackets or a number ends no sentence.
    first = re.split(r"\.(?=\s|$)", " ".join(text.split()))[0]
    return first.replace("|", "\\|")


def results() -> str:
    """Return the table of docs/results.md, which the benchmark wrote."""
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    found = re.search(r"<!-- results -->\n(.*?)<!-- /results -->", text, re.DOTALL)
    if found is None:
        raise SystemExit("docs: docs/results.md has no <!-- results --> ... <!-- /results -->")
    return found[1]


def c_main() -> str:
    """Return examples/c_main/main.c as a code block."""
    return f"```c\n{(ROOT / 'examples/c_main/main.c').read_text('utf-8')}```"


def operators() -> str:
    """Return the ONNX operators that integer kernels compute, or that become views."""
    names = sorted({*MATCHERS, *RELATIONS})
    return f"{len(names)} ONNX operators on integers: {', '.join(names)}."


def pass_table() -> str:
    """Return one row per pass."""
    rows = [(f"`{p.name}`", p.kind, p.runs, p.summary.replace("|", "\\|")) for p in list_passes()]
    return table(("pass", "kind", "runs", "what it does"), rows)


def recipe_table() -> str:
    """Return one row per recipe."""
    rows = [(f"`{n}`", ", ".join(f"`{p}`" for p in r.passes), r.text) for n, r in RECIPES.items()]
    return table(("recipe", "passes it asks for", "what it does"), rows)


def kernel_table() -> str:
    """Return one row per integer kernel."""
    rows = [(f"`{k.name}`", summary(k.__module__)) for k in discover()]
    return table(("kernel", "what it computes"), rows)


def refused_on_gpus() -> str:
    """Return which kernels have no form for NVIDIA GPUs."""
    names = [
        f"`{k.name}`" for k in discover() if not have_gpu_form(case.kernel for case in k.cases())
    ]
    return f"Kernels that are refused: {', '.join(names) or 'none'}."


def target_table() -> str:
    """Return one row per core."""
    rows = [(f"`{s.name}`", s.description, s.isa, _device(s)) for s, _ in cores().values()]
    return table(("target", "device", "inner loops", "checked on"), rows)


def board_table() -> str:
    """Return one row per board."""
    rows = [
        (
            f"`{s.name}`",
            s.description,
            f"`{s.core}`",
            *map(capacity_text, (s.flash_bytes, s.ram_bytes)),
        )
        for s, _ in targets().values()
        if s.core
    ]
    return table(("target", "board", "core", "flash", "RAM"), rows)


DEVICES = {
    "host": "this machine, in process",
    "aarch64": "`qemu-aarch64 -cpu {}`",
    "cortex_m": "`qemu-system-arm -M {}`",
    "cuda": "the GPU, else its emulation {}",
}


def _device(spec: TargetSpec) -> str:
    where = spec.machine
    if spec.family == "cuda":
        where = f"under `qemu-aarch64 -cpu {spec.machine}`" if spec.machine else "on this machine"
    return DEVICES[spec.family].format(where)


def flag_table() -> str:
    """Return how the C of each target is compiled."""
    rows = [
        (f"`{s.name}`", _kernels(s) + f"`{' '.join([s.cc, s.optimisation, *s.cflags])}`")
        for s, _ in cores().values()
    ]
    return table(("target", "compiler and flags"), rows)


def _kernels(spec: TargetSpec) -> str:
    return f"NVRTC `{spec.cpu}`; host " if spec.family == "cuda" else ""


def tool_table() -> str:
    """Return one row per external program with the targets that need it."""
    users: dict[Tool, list[str]] = {}
    for name, (_, backend) in cores().items():
        for tool in dict.fromkeys((*backend.build_tools, *backend.check_tools)):
            users.setdefault(tool, []).append(f"`{name}`")
    rows = [
        (tool.name, tool.why, ", ".join(names), f"`{install_line([tool])}`")
        for tool, names in users.items()
    ]
    return table(("tool", "why", "targets", "Debian and Ubuntu, Python"), rows)


def support_table() -> str:
    """Return the counts of ONNX's node tests, and one row per operator."""
    rows: dict[str, dict[str, str]] = json.loads(NODE_TESTS.read_text("utf-8"))
    counts = Counter(row["status"] for row in rows.values())
    by_operator: dict[str, list[dict[str, str]]] = {}
    for row in rows.values():
        by_operator.setdefault(row["op"], []).append(row)
    lines = [support_row(op, by_operator[op]) for op in sorted(by_operator, key=str.lower)]
    total = f"{counts['passes']} of {len(rows)} tests pass, {counts['refused']} are refused"
    return f"{total}, {counts['wrong']} are wrong.\n\n" + table(
        ("operator", "integer kernel", "passes", "refused", "why, where refused"), lines
    )


def support_row(op: str, rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Return what is known of one operator, with the most frequent reasons."""
    refused = [row["reason"] for row in rows if row["status"] == "refused"]
    reasons = Counter(re.sub(r"\[[^\]]*\]|\s+", " ", short(text)) for text in refused)
    why = "; ".join(text.replace("|", "\\|") for text, _ in reasons.most_common(3))
    known = "yes" if op in {*MATCHERS, *RELATIONS} else ""
    return op, known, str(len(rows) - len(refused)), str(len(refused)), why


def short(reason: str) -> str:
    """Return a reason without the names of values and what only repeats the operator."""
    text = re.sub(r"^.*\(nor in float: (.*)\)$", r"\1", reason)
    return re.sub(r"^(\w+ )?'[^']*':? ", "", text)[:110]


def kind_table() -> str:
    """Return one row per exception, with what it means and its exit code."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    rows = [
        (f"`{kind.__name__}`", (kind.__doc__ or "").split("\n")[0], str(kind.exit_code))
        for kind in kinds
        if issubclass(kind, errors.EdgecError)
    ]
    return table(("exception", "what it means", "exit code"), rows)


# In the order of a compilation and a check.
MESSAGES: Mapping[str, str] = {
    "ModelError": "The model (ModelError)",
    REFUSED: "Operators that cannot be compiled (ModelError)",
    "DataError": "The data (DataError)",
    "OptionError": "Options, targets and folders (OptionError)",
    "GateError": "Limits (GateError)",
    "ToolMissingError": "Missing tools (ToolMissingError)",
    "DeviceError": "The device (DeviceError)",
    OTHER: "Around every verb",
}


def message_lists() -> str:
    """Return every sentence edgec can fail with, by exception."""
    return "\n".join(
        f"## Every sentence: {title[0].lower()}{title[1:]}\n\n"
        + "\n".join(f"* {quoted(m)}" for m in messages() if m.error == error)
        + "\n"
        for error, title in MESSAGES.items()
    )


def quoted(message: Message) -> str:
    """Return a sentence as code, whatever is in it."""
    fence = "``" if "`" in message.text else "`"
    return f"{fence}{message.text}{fence}"


def rerun(text: str) -> str:
    """Return text with the output under every `$ command` of its console blocks made anew."""
    with tempfile.TemporaryDirectory(prefix="edgec-tour-") as scratch:
        folder = Path(scratch)
        shutil.copytree(ROOT / "examples", folder / "examples")
        return re.sub(
            r"(?<=```console\n).*?(?=```)",
            lambda block: "".join(transcript(c, folder) for c in commands(block[0])),
            text,
            flags=re.DOTALL,
        )


def commands(block: str) -> list[str]:
    """Return the commands of a console block, continuation lines included."""
    return re.findall(r"^\$ ((?:.*\\\n)*.*\n)", block, re.MULTILINE)


def transcript(command: str, folder: Path) -> str:
    """Run a command of the tour in folder; return it with what it printed."""
    done = subprocess.run(
        ["bash", "-e", "-c", DEMO if command.strip() == "make demo" else command],
        cwd=folder,
        env={
            **os.environ, "COLUMNS": "100", "NO_COLOR": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"docs: `{command.strip()}` failed: {done.stdout}{done.stderr}")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return f"$ {command}" + "".join(f"{line}\n" for line in lines if line)


# The set-up is done: this runs in its environment.
DEMO = "python examples/demo.py"

PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {
        "results": results,
        "c_main": c_main,
        "operators": operators,
        "targets": target_table,
        "boards": board_table,
        "recipes": recipe_table,
        "passes": pass_table,
        "kernels": kernel_table,
    },
    "docs/errors.md": {"kinds": kind_table, "messages": message_lists},
    "docs/op-support.md": {"support": support_table},
    "docs/targets.md": {
        "targets": target_table,
        "boards": board_table,
        "flags": flag_table,
        "tools": tool_table,
    },
    "docs/cuda.md": {"refused": refused_on_gpus},
}

if __name__ == "__main__":
    sys.exit(main())
