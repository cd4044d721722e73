"""Oddities of real exports: branches that are always taken, models in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import edgec
from edgec.compiler.core.errors import ModelError
from edgec.compiler.frontend.load import load
from edgec.compiler.frontend.reference import Reference

X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)


def branching(condition: str, constant: bool = True) -> onnx.ModelProto:
    """Return an If whose branches read values from around them."""
    source = "bool c = {" + condition + "}" if constant else ""
    fed = "" if constant else ", bool c"
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        m (float[2,3] X{fed}) => (float[2,3] Y) <{source}> {{
          s = Sigmoid (X)
          r = If (c) <
            then_branch = yes () => (float[2,3] a) {{ t = Tanh (X)  a = Add (t, s) }},
            else_branch = no () => (float[2,3] a) {{ t = Mul (s, s)  a = Identity (t) }}
          >
          Y = Relu (r)
        }}"""
    )


def run(proto: onnx.ModelProto, **feeds: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    answers: Any = session.run(None, feeds)
    return answers[0]


@pytest.mark.parametrize("condition", ["0", "1"])
def test_the_branch_that_is_always_taken_is_inlined(condition: str) -> None:
    proto = branching(condition)
    loaded = load(proto)
    assert "If" not in {n.op_type for n in loaded.model.graph}
    assert any("inlined" in note.text for note in loaded.notes)
    np.testing.assert_array_equal(Reference(loaded.model).run({"X": X})["Y"], run(proto, X=X))


def test_a_condition_known_only_at_run_time_is_refused() -> None:
    with pytest.raises(ModelError, match="its condition is not a constant"):
        load(branching("", constant=False))


def half(opset: int = 21) -> onnx.ModelProto:
    """Return a model that is float16 from input to output."""
    rng = np.random.default_rng(1)
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}]>
        m (float16[2,3] X) => (float16[2,4] Y) {{
          h = Gemm <transB = 1> (X, W, B)  f = Cast <to = 1> (h)  r = Relu (f)
          g = Cast <to = 10> (r)  Y = Mul (g, two)
        }}"""
    )
    for name, data in (
        ("W", rng.standard_normal((4, 3))), ("B", rng.standard_normal(4)), ("two", np.array(2.0)),
    ):  # fmt: skip
        proto.graph.initializer.append(onnx.numpy_helper.from_array(data.astype(np.float16), name))
    return proto


def test_half_precision_is_widened() -> None:
    loaded = load(half())
    values = [*loaded.model.graph.inputs, *(v for n in loaded.model.graph for v in n.outputs)]
    assert {str(v.dtype) for v in values} == {"FLOAT"}
    assert any("float16 widened" in note.text for note in loaded.notes)
    got = Reference(loaded.model).run({"X": X})["Y"]
    np.testing.assert_allclose(got, run(half(), X=X.astype(np.float16)), rtol=1e-2, atol=1e-2)


def test_half_precision_compiles_to_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    samples = [{"X": rng.standard_normal((2, 3)).astype(np.float16)} for _ in range(16)]
    artifact = edgec.compile(half(), "host", tmp_path / "half", samples)
    assert artifact.report["float_islands"] == []
    want = run(half(), X=samples[0]["X"]).astype(np.float32)
    got = edgec.load(artifact.path).run(X=samples[0]["X"].astype(np.float32))["Y"]
    assert np.abs(got - want).max() < 0.1
