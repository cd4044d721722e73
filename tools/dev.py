"""Check the project: the same commands here, in `make` and in CI."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# Pointed at the links in edgec/, pyright analyses nothing and reports success.
PYRIGHT_LEAST_FILES = 80


def run(*command: str) -> int:
    """Run a tool of the virtual environment in the project root; returns its exit code."""
    print(f"+ {' '.join(command)}", flush=True)
    return subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, check=False).returncode


def pyright() -> int:
    """Check types; fail on any finding and when too few files were analysed."""
    print("+ pyright", flush=True)
    command = [str(BIN / "pyright"), "--outputjson"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        print(done.stdout + done.stderr + "pyright did not run: it needs Node.js (nodejs)")
        return 3
    problems = pyright_problems(json.loads(done.stdout))
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


def pyright_problems(output: dict[str, Any]) -> list[str]:
    """Return one line per finding of pyright's JSON, and one when it saw too few files."""
    analysed = output["summary"]["filesAnalyzed"]
    problems = [
        f"{d['file']}:{d['range']['start']['line'] + 1}: {d['severity']}: {d['message']}"
        for d in output["generalDiagnostics"]
    ]
    print(f"pyright: {analysed} files, {len(problems)} findings")
    if analysed < PYRIGHT_LEAST_FILES:
        problems.append(
            f"pyright analysed {analysed} files, expected at least {PYRIGHT_LEAST_FILES}: "
            "look at include and exclude in pyproject.toml"
        )
    return problems


def lint() -> int:
    """Formatting, rules, types, layers, sizes and generated documentation."""
    return first_failure(
        lambda: run("ruff", "format", "--check"),
        lambda: run("ruff", "check"),
        pyright,
        lambda: run("lint-imports"),
        lambda: run("python", "tools/sizes.py"),
        lambda: run("python", "tools/docs.py", "--check"),
    )


def tests() -> int:
    """Every test, on two processes."""
    # Stealing: the few tests that take a minute must not all wait for one worker.
    return run("pytest", "-n", "2", "--dist", "worksteal", "-q")


def check() -> int:
    """Lint, then test; both run, so that one call shows everything."""
    return first_failure(lint, tests)


def format_code() -> int:
    """Rewrite formatting, what ruff can mend, and generated documentation."""
    return first_failure(
        lambda: run("ruff", "format"),
        lambda: run("ruff", "check", "--fix"),
        lambda: run("python", "tools/docs.py"),
    )


def first_failure(*steps: Callable[[], int]) -> int:
    """Run every step and return the first exit code that is not 0."""
    codes = [step() for step in steps]
    return next((code for code in codes if code), 0)


COMMANDS = {"check": check, "lint": lint, "test": tests, "format": format_code}


def main(arguments: Sequence[str]) -> int:
    """Run the named command."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(f"usage: python tools/dev.py {'|'.join(COMMANDS)}")
        return 2
    start = perf_counter()
    code = COMMANDS[arguments[0]]()
    outcome = "all good" if code == 0 else "FAILED"
    print(f"{arguments[0]}: {outcome} ({perf_counter() - start:.0f} s)")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
