"""Whatever a user gets wrong: one sentence per problem, the right exit code, nothing left over."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import Result

from edgec.compiler.cli import cli
from edgec.compiler.core.graph import model_from_text
from tests.small import cnn, cnn_samples, edgec, good, write_cnn
from tools.messages import messages

HEAD = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> m '


@pytest.fixture(autouse=True)
def _folder(  # pyright: ignore[reportUnusedFunction]
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Run in an empty folder with a good model and good data; demand that nothing is added."""
    monkeypatch.chdir(tmp_path)
    write_cnn(tmp_path)
    yield
    left = {p.name for p in tmp_path.iterdir()} - {"cnn.onnx", "data.npz"}
    assert {name for name in left if not name.startswith("bad")} == set()


def fails(*arguments: object, code: int = 2) -> list[str]:
    """Run the command line, demand that it fails in plain words, and return its sentences."""
    result = edgec(*arguments)
    sentences = plain(result, code)
    assert result.stdout == ""
    return sentences


def plain(result: Result, code: int) -> list[str]:
    """Return the sentences of a failed run: one per line, no traceback, in docs/errors.md."""
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert lines and "Traceback" not in result.stderr
    assert all(line.startswith(("edgec: ", "WARNING", "FAILED")) for line in lines)
    sentences = [line.removeprefix("edgec: ") for line in lines]
    known = [s for s in sentences if any(m.matches(s) for m in messages())]
    unknown = [s for s in sentences if s not in known and not s.startswith("WARNING")]
    assert unknown == []
    return sentences


def compile_fails(*arguments: object, model: str = "cnn.onnx", code: int = 2) -> list[str]:
    """Compile for the host into 'out', demand failure; 'out' must not exist afterwards."""
    sentences = fails("compile", model, "--target", "host", "-o", "out", *arguments, code=code)
    assert not Path("out").exists()
    return sentences


# ------------------------------------------------------------------ models


def _text(body: str, signature: str = "(float[1, 4] x) => (float[1, 4] y)", **arrays: Any) -> bytes:
    proto = onnx.parser.parse_model(f"{HEAD} {signature} {{ {body} }}")
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()
    )
    return proto.SerializeToString()


def _external(location: str) -> bytes:
    """Return a model whose weight lies in another file."""
    model = ir.to_proto(model_from_text(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[1, 4] x) => (float[1, 4] y)'
        "{ y = MatMul(x, w) }", w=np.ones((4, 4), np.float32)
    ))  # fmt: skip
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return model.SerializeToString()


def _no_rank() -> bytes:
    model = onnx.ModelProto.FromString(_text("y = Relu(x)"))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.ClearField("shape")
    return model.SerializeToString()


def _nan_weights() -> bytes:
    weight = np.ones((4, 4), np.float32)
    weight[2, 1] = np.nan
    return _text("y = MatMul(x, w)", w=weight)


# id: (bytes of the model, words of every expected sentence)
MODELS: dict[str, tuple[Callable[[], bytes], list[list[str]]]] = {
    "empty": (lambda: b"", [["is empty"]]),
    "not-onnx": (lambda: b"This is a text, not a model.\n" * 9, [["not an ONNX model"]]),
    "torch-pickle": (lambda: pickle.dumps({"a": 1}, 2), [["pickle", "export it to ONNX"]]),
    "truncated": (lambda: ir.to_proto(cnn()).SerializeToString()[:900], [["cut off"]]),
    "external-missing": (lambda: _external("bad.bin"), [["'w'", "bad.bin", "is missing"]]),
    "external-outside": (lambda: _external("../bad.bin"), [["'w'", "outside"]]),
    "external-absolute": (lambda: _external("/etc/passwd"), [["'w'", "outside"]]),
    "unknown-domain": (
        lambda: _text("a = my.Foo(x) b = my.Bar(a) c = Hardmax(b) y = Relu(c)"),
        [["Foo", "my"], ["Bar", "my"]],
    ),
    "unknown-standard": (
        lambda: _text("a = Foo(x) y = Softmux(a)"), [["Foo"], ["Softmux", "Softmax?"]]
    ),
    "no-kernel": (
        lambda: _text("a = CumSum(x, k) b = Relu(a) y = CumSum(b, k)", k=np.int64(1)),
        [["CumSum_0", "no integer kernel"], ["CumSum_2", "no integer kernel"]],
    ),
    "control-flow": (
        lambda: _text(
            "y = If(c) <then_branch = t () => (float[1, 4] p) { p = Relu(x) },"
            " else_branch = e () => (float[1, 4] q) { q = Neg(x) }>",
            "(float[1, 4] x, bool c) => (float[1, 4] y)",
        ),
        [["If", "control flow"]],
    ),
    "open-dimension": (
        lambda: _text("y = Relu(x)", "(float[1, length] x) => (float[1, length] y)"),
        [["'x'", "length", "--shape x=1,N"]],
    ),
    "no-rank": (_no_rank, [["'x' has no rank", "--shape"]]),
    "dynamic-rank": (
        lambda: _text("y = Reshape(x, s)", "(float[1, 4] x, int64[2] s) => (float y)"),
        [["Reshape", "every size must be fixed"]],
    ),
    "nan-weights": (_nan_weights, [["'w'", "NaN"]]),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_bad_model(case: str) -> None:
    make, expected = MODELS[case]
    Path("bad.onnx").write_bytes(make())
    sentences = compile_fails(model="bad.onnx")
    assert len(sentences) == len(expected)
    for sentence, words in zip(sentences, expected, strict=True):
        for word in words:
            assert word in sentence


def test_no_model() -> None:
    assert "does not exist" in compile_fails(model="nothing.onnx")[0]
    Path("bad").mkdir()
    assert "is a folder" in compile_fails(model="bad")[0]
    assert "does not exist" in fails("inspect", "nothing.onnx")[0]


def test_inspect_lists_what_compile_refuses() -> None:
    Path("bad.onnx").write_bytes(MODELS["unknown-domain"][0]())
    found = json.loads(good("inspect", "bad.onnx", "--json").stdout)
    assert not found["compiles"] and found["problems"] == compile_fails(model="bad.onnx")


# -------------------------------------------------------------------- data


def _npz(name: str, **arrays: Any) -> str:
    np.savez(name, **arrays)
    return name


def _with_nan() -> np.ndarray:
    images = cnn_samples()
    images[3, 0, 2, 2] = np.nan
    return images


DATA: dict[str, tuple[Callable[[], object], str]] = {
    "empty-file": (lambda: Path("bad.npz").write_bytes(b""), "cut off or not a NumPy file"),
    "no-samples": (lambda: _npz("bad.npz", image=cnn_samples()[:0]), "holds no samples"),
    "mis-shaped": (lambda: _npz("bad.npz", image=cnn_samples()[:, :1]), "needs [N, 1, 2, 8, 8]"),
    "other-order": (
        lambda: _npz("bad.npz", image=cnn_samples().transpose(0, 2, 3, 1)), "transpose with",
    ),
    "nan": (lambda: _npz("bad.npz", image=_with_nan()), "sample 3 of input 'image' holds NaN"),
    "other-name": (
        lambda: _npz("bad.npz", picture=cnn_samples(), more=cnn_samples()), "input 'image'",
    ),
    "pickled": (
        lambda: _npz("bad.npz", image=np.array([{"a": 1}], object)), "pickled Python objects",
    ),
    "pickle": (lambda: Path("bad.npz").write_bytes(pickle.dumps([1, 2])), "not a NumPy file"),
    "missing": (lambda: None, "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_bad_calibration_data(case: str) -> None:
    make, words = DATA[case]
    make()
    (sentence,) = compile_fails("--calibration", "bad.npz")
    assert words in sentence


def test_bad_check_and_run_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("good") / "out"
    good("compile", "cnn.onnx", "--target", "host", "-o", out, "--calibration", "data.npz")
    for verb in (("check", out, "--data"), ("run", out, "--input")):
        assert "does not exist" in fails(*verb, "bad.npz")[0]
        _npz("bad.npz", image=cnn_samples()[:, :1])
        assert "needs [N, 1, 2, 8, 8]" in fails(*verb, "bad.npz")[0]
        Path("bad.npz").unlink()
    assert (
        "no array 'classes'" in fails("check", out, "--data", "data.npz", "--labels", "classes")[0]
    )
    assert "did you mean accuracy?" in fails("check", out, "--metric", "acuracy")[0]
    _npz("bad.npz", image=cnn_samples(), labels=np.ones((16, 3)))
    checked = fails("check", out, "--data", "bad.npz", "--metric", "sqnr_db")
    assert "metric sqnr_db cannot compare" in checked[0]
    assert "must end in .npz" in fails("run", out, "--input", "data.npz", "-o", "bad.txt")[0]
    assert "does not exist" in fails("run", out, "--input", "data.npz", "-o", "no/x.npz")[0]
    (out / "reference.npz").write_bytes(b"changed")
    assert "reference.npz was changed" in fails("check", out)[0]
    assert "not an artifact folder" in fails("check", "nowhere")[0]
    assert "no manifest.json" in fails("run", ".", "--input", "data.npz")[0]


# ----------------------------------------------------------------- options

OPTIONS: dict[str, tuple[list[str], str]] = {
    "size": (["--max-flash", "1Q"], "'1Q' is no size"),
    "size-zero": (["--max-ram", "0"], "'0' is no size"),
    "share": (["--max-drop", "200%"], "'200%' is no share"),
    "share-bare": (["--max-drop", "1"], "write for example 1% or 0.01"),
    "shape": (["--shape", "image=1,,8"], "'image=1,,8' is no shape"),
    "shape-no-name": (["--shape", "1,2,8,8"], "'1,2,8,8' is no shape"),
    "shape-twice": (["--shape", "a=1", "--shape", "a=2"], "input 'a' twice"),
    "shape-input": (["--shape", "imag=1,2,8,8"], "did you mean 'image'?"),
    "shape-fixed": (["--shape", "image=1,3,8,8"], "the model fixes"),
    "samples": (["--samples", "0"], "--samples"),
    "seed": (["--seed", "x"], "--seed"),
    "option": (["--calibratoin", "x"], "--calibration"),
    "pass": (["--pass", "cross-layer-equalizasion"], "did you mean cross_layer_equalisation?"),
    "pass-always": (["--no-pass", "fold-constants"], "always runs"),
    "name": (["--name", "my net"], "use 'my_net'"),
    "method": (["--calibration-method", "magic"], "unknown calibration method 'magic'"),
    "method-number": (["--calibration-method", "percentile:x"], "no number"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_option(case: str) -> None:
    arguments, words = OPTIONS[case]
    (sentence,) = compile_fails(*arguments)
    assert words in sentence


def test_unknown_target_and_verb_suggest_the_nearest() -> None:
    (sentence,) = fails("compile", "cnn.onnx", "--target", "cortex-m5", "-o", "out")
    assert "did you mean cortex-m55" in sentence and not Path("out").exists()
    assert "did you mean 'compile'?" in fails("comiple")[0]
    assert "Missing option '--target'" in fails("compile", "cnn.onnx")[0]
    assert "did you mean" not in fails("xyzzy")[0]


# ------------------------------------------------------------------ output


def _output_fails(out: str) -> str:
    (sentence,) = fails("compile", "cnn.onnx", "--target", "host", "-o", out)
    return sentence


def test_output_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'cnn.onnx' exists and is not an edgec artifact" in _output_fails("cnn.onnx")
    assert "is not a folder" in _output_fails("cnn.onnx/out")
    assert "does not exist; create it" in _output_fails("missing/out")
    Path("bad").mkdir()
    (Path("bad") / "bad-precious.txt").write_text("keep me")
    for overwrite in ([], ["--overwrite"]):
        (sentence,) = fails("compile", "cnn.onnx", "--target", "host", "-o", "bad", *overwrite)
        assert "not an edgec artifact" in sentence
    assert (Path("bad") / "bad-precious.txt").read_text() == "keep me"
    monkeypatch.setattr(os, "access", lambda *_: False)  # pyright: ignore[reportUnknownLambdaType]
    assert "is not writable" in _output_fails("out")


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgec.compiler.package.write_layouts", full)
    assert "cannot write" in compile_fails("-q")[-1]


def test_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (sentence,) = compile_fails(code=3)
    assert "gcc" in sentence and "apt-get install" in sentence


# ------------------------------------------------- interrupts and our bugs

STAGES = ["pipeline.canonicalise", "pipeline.profile", "pipeline.build", "package._compile"]


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_in_any_stage(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"edgec.compiler.{stage}", interrupt)
    assert "interrupted" in compile_fails("--calibration", "data.npz", code=130)[0]


def test_interrupt_while_replacing_keeps_the_old_artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("compile", "cnn.onnx", "--target", "host", "-o", "bad", "-q")
    good(*arguments)
    before = Path("bad/manifest.json").read_bytes()
    rename = Path.rename

    def stumble(path: Path, target: Path) -> Path:
        if path.parent.name.startswith(".bad-") and not path.name.endswith(".old"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stumble)
        fails(*arguments, "--overwrite", code=130)
    assert Path("bad/manifest.json").read_bytes() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_in_the_middle_of_packaging(number: int, code: int, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    # Python ignores SIGINT where its parent does, as a shell's background jobs do.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from edgec.compiler.cli import main; main()"
    )
    arguments = ["compile", "cnn.onnx", "--target", "host", "-o", "out", "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        deadline = time.monotonic() + 60
        while not any(p.name.startswith(".out-") for p in tmp_path.iterdir()):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert err.startswith("edgec: ") and "Traceback" not in err
    assert json.loads(out)["exit_code"] == code
    assert not (tmp_path / "out").exists()


def test_a_bug_of_ours_is_one_line_and_a_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bug(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("edgec.compiler.pipeline.canonicalise", bug)
    (sentence,) = compile_fails(code=70)
    assert "KeyError" in sentence and "surprise" in sentence and "--debug" in sentence
    shown = edgec("compile", "cnn.onnx", "--target", "host", "-o", "out", "--debug")
    assert shown.exit_code == 70 and "Traceback" in shown.stderr
    assert not Path("out").exists()


# -------------------------------------------------------------------- JSON

FAILING = [
    ["compile", "nothing.onnx", "--target", "host"],
    ["compile", "cnn.onnx", "--target", "hst"],
    ["plan", "nothing.onnx", "--target", "host"],
    ["check", "nowhere"],
    ["run", "nowhere", "--input", "data.npz"],
    ["inspect", "nothing.onnx"],
    ["inspect", "cnn.onnx", "--shape", "x"],
]


@pytest.mark.parametrize("arguments", FAILING, ids=" ".join)
def test_json_of_a_failure_parses(arguments: list[str]) -> None:
    # First on the command line, so that it counts for what is wrong behind it too.
    result = edgec(arguments[0], "--json", *arguments[1:])
    found = json.loads(result.stdout)
    assert found["exit_code"] == result.exit_code == 2
    assert found["errors"] == plain(result, 2)


def test_every_verb_has_json_and_help() -> None:
    assert set(cli.commands) == {
        "bench", "check", "compare", "compile", "doctor", "inspect", "passes", "plan", "recipes",
        "report", "run", "targets",
    }  # fmt: skip
    for name in cli.commands:
        text = good(name, "--help").stdout
        assert "--json" in text and "--debug" in text
