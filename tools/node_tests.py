"""Run ONNX's own backend node tests through the compiler and the C it makes for the host.

Every test passes, or is refused in words, or is wrong: a crash or another answer. With --record,
write tests/numeric/node_tests.json; else compare with it. Inputs that say how something is computed
(shapes, axes, weights) have to be constants for an ahead-of-time compiler: a test that is refused
as it is runs again with them frozen, and the record says which.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgec.compiler.api import run_stages
from edgec.compiler.core.artifact import SCHEMA_VERSION, Manifest, MemoryInfo
from edgec.compiler.core.errors import EdgecError
from edgec.compiler.options import CompileOptions
from edgec.compiler.package import port_info, write_sources
from edgec.compiler.pipeline import Clock
from edgec.compiler.ports import decode_port, encode_port
from edgec.compiler.stages import Built
from edgec.runtime.native import NativeModel
from edgec.targets import find_target
from edgec.targets.toolchain import COMMON_FLAGS

RECORD = Path(__file__).resolve().parents[1] / "tests" / "numeric" / "node_tests.json"
WORKERS = 2
PASSES, REFUSED, WRONG = "passes", "refused", "wrong"
# What holds codes is compiled as the quantised model it is; all else in float.
_CODED = re.compile(r"Quantize|QLinear|Integer$")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test; `frozen`: inputs that had to be constants."""

    status: str
    reason: str = ""
    frozen: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the row of the record."""
        row: dict[str, Any] = {"status": self.status}
        if self.reason:
            row["reason"] = self.reason
        if self.frozen:
            row["frozen"] = list(self.frozen)
        return row


class DifferentError(Exception):
    """The compiled model answers something else than the test expects."""


def main(arguments: Sequence[str]) -> int:
    """Run all tests (or those named), print the counts; 1 if one is wrong or fell back."""
    names = [a for a in arguments if not a.startswith("-")]
    outcomes = run_all(names)
    counts = count(outcomes.values())
    print(", ".join(f"{n} {status}" for status, n in counts.items()), "of", len(outcomes))
    wrong = [f"{name}: {o.reason}" for name, o in outcomes.items() if o.status == WRONG]
    record = read_record()
    fallen = [
        f"{name} passed before: {o.reason}"
        for name, o in outcomes.items()
        if o.status != PASSES and record.get(name, Outcome("")).status == PASSES
    ]
    if names:
        print("\n".join(f"{name}: {o}" for name, o in outcomes.items()))
    print("\n".join([*wrong, *fallen]))
    if "--record" in arguments and not names:
        write_record(outcomes)
    return 1 if wrong or fallen else 0


def write_record(outcomes: Mapping[str, Outcome]) -> None:
    """Write one line per test: its operator and its outcome."""
    lines = [
        f"{json.dumps(name)}: {json.dumps({'op': operator(name), **outcomes[name].to_json()})}"
        for name in sorted(outcomes)
    ]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def operator(name: str) -> str:
    """Return which operator a test is about; tests of function bodies have many nodes."""
    nodes = cases()[name].model.graph.node
    if "_expanded" in name:
        name = name.split("_expanded")[0]
        return operator(name) if name in cases() else nodes[-1].op_type
    return max(nodes, key=lambda n: len(n.input)).op_type if nodes else "none"


def read_record() -> dict[str, Outcome]:
    """Return the recorded outcome per test."""
    if not RECORD.is_file():
        return {}
    rows: dict[str, dict[str, Any]] = json.loads(RECORD.read_text("utf-8"))
    return {
        name: Outcome(row["status"], row.get("reason", ""), tuple(row.get("frozen", ())))
        for name, row in rows.items()
    }


def count(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return how many tests have each status."""
    found: dict[str, int] = {PASSES: 0, REFUSED: 0, WRONG: 0}
    for outcome in outcomes:
        found[outcome.status] += 1
    return found


@cache
def cases() -> dict[str, Any]:
    """Return ONNX's node tests by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators overflow on purpose
        from onnx.backend.test.loader import load_model_tests

        return {case.name: case for case in load_model_tests(kind="node")}


def run_all(names: Sequence[str] = ()) -> dict[str, Outcome]:
    """Run the named tests, or all, in worker processes."""
    chosen = list(names) or list(cases())
    if len(chosen) < 2 * WORKERS:
        return {name: run_case(name) for name in chosen}
    with ProcessPoolExecutor(WORKERS) as pool:
        return dict(zip(chosen, pool.map(run_case, chosen, chunksize=8), strict=True))


def run_case(name: str) -> Outcome:
    """Run one test, with more of its inputs frozen each time it is refused."""
    case = cases()[name]
    refused = None
    for frozen in _freezes(case):
        outcome = _attempt(case, frozen)
        if outcome.status != REFUSED:
            return outcome
        refused = outcome
    assert refused is not None
    return refused


def _freezes(case: Any) -> Iterator[tuple[str, ...]]:
    """Yield the inputs to freeze: none, those that hold integers, all but the first."""
    yield ()
    inputs = [(v.name, v.type.tensor_type.elem_type) for v in case.model.graph.input]
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    integers = tuple(n for n, kind in inputs[1:] if kind not in floats)
    rest = tuple(n for n, _ in inputs[1:])
    for frozen in dict.fromkeys((integers, rest)):
        if frozen:
            yield frozen


def _attempt(case: Any, frozen: tuple[str, ...]) -> Outcome:
    recipes = ["float32"]
    if any(_CODED.search(node.op_type) for node in case.model.graph.node):
        recipes.insert(0, "int8")
    refused = None
    for recipe in recipes:
        try:
            _run(case, frozen, recipe)
            return Outcome(PASSES, frozen=frozen)
        except EdgecError as error:
            refused = refused or Outcome(REFUSED, first_line(error))
        except DifferentError as error:
            return Outcome(WRONG, f"{recipe}: {first_line(error)}", frozen)
        except Exception as error:
            return Outcome(WRONG, f"{recipe}: {type(error).__name__}: {first_line(error)}", frozen)
    assert refused is not None
    return refused


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _run(case: Any, frozen: tuple[str, ...], recipe: str) -> None:
    """Compile the test's model and run its data; raises DifferentError when answers differ."""
    for given, expected in case.data_sets:
        inputs, outputs = map(_array, given), map(_array, expected)
        model, feeds = _with_constants(case.model, list(inputs), frozen)
        options = CompileOptions(target="host", name="node", recipe=recipe)  # type: ignore
        spec, _ = find_target("host")
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = run_stages(model, [feeds], options, spec, Clock())
        with tempfile.TemporaryDirectory(prefix="edgec-node-") as folder:
            got = _executed(Path(folder), built, feeds)
        _compare(case, built, got, list(outputs))


def _array(value: Any) -> Any:
    """Return the array in a TensorProto; anything else as it is."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _with_constants(
    model: onnx.ModelProto, inputs: Sequence[Any], frozen: Sequence[str]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a copy of model in which the frozen inputs are constants, and the other inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    feeds = {v.name: a for v, a in zip(model.graph.input, inputs, strict=True)}
    for name in frozen:
        if isinstance(feeds[name], np.ndarray | np.generic):
            held = np.asarray(feeds.pop(name))
            copy.graph.initializer.append(onnx.numpy_helper.from_array(held, name))
    kept = [v for v in copy.graph.input if v.name in feeds]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    return copy, feeds


def _executed(folder: Path, built: Built, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Compile the C of a built model, run it on feeds; stored values per output name."""
    model = built.c_model
    write_sources(folder, model)
    _compile_library(folder)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION, edgec_version="", versions={}, command="", seed=0,
        name="node", target="host", source_sha256="", files={},
        inputs=tuple(map(port_info, model.inputs)), outputs=tuple(map(port_info, model.outputs)),
        memory=MemoryInfo(arena_bytes=model.arena.size_bytes, weights_bytes=model.weights_bytes),
        macs=0, timings_s={},
    )  # fmt: skip
    native = NativeModel(folder, manifest)
    stored = [encode_port(p, np.asarray(feeds[p.name])) for p in manifest.inputs]
    answers = native.call([np.ascontiguousarray(s) for s in stored], poison=0x5A)
    return dict(zip((p.name for p in manifest.outputs), answers, strict=True))


def _compile_library(folder: Path) -> None:
    """Compile lib/libnode.so as the host target does, but nothing else of an artifact."""
    spec, _ = find_target("host")
    (folder / "lib").mkdir()
    sources = [f"src/{name}.c" for name in ("node", "node_weights")]
    options = [*COMMON_FLAGS, *spec.cflags, "-O1", "-Iinclude", "-Isrc", "-shared", "-fPIC"]
    command = [spec.cc, *options, *sources, "-o", "lib/libnode.so", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"gcc: {first_line(RuntimeError(done.stderr))}")


def _compare(case: Any, built: Built, got: Mapping[str, Any], outputs: Sequence[Any]) -> None:
    for value, wanted in zip(case.model.graph.output, outputs, strict=True):
        (port,) = (p for p in built.c_model.outputs if p.name == value.name)
        answer, wanted = got[value.name], np.asarray(wanted)
        if wanted.dtype.kind == "f":
            answer = decode_port(port, answer)
        elif port.encoding is not None:
            wanted = encode_port(port, wanted)
        try:
            np.testing.assert_allclose(
                answer.astype(wanted.dtype), wanted, rtol=case.rtol, atol=case.atol
            )
        except AssertionError as error:
            text = " ".join(str(error).split())
            raise DifferentError(f"output '{value.name}': {text[:200]}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
