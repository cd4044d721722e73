"""The reference runner returns what ONNX Runtime computes, any value of it, and clear errors."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.compiler.core.errors import DataError, ModelError
from edgec.compiler.core.graph import model_from_text
from edgec.compiler.core.passbase import Evaluate
from edgec.compiler.frontend import reference
from edgec.compiler.frontend.reference import Reference, evaluate

HEAD = '<ir_version: 10, opset_import: ["" : 21]> m '
WEIGHT = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
X = {"X": np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)}


def chain() -> ir.Model:
    return model_from_text(
        HEAD + "(float[2,8] X) => (float[2,4] Y) { A = MatMul (X, W) B = Relu (A) Y = Neg (B) }",
        W=WEIGHT,
    )


def test_outputs_and_intermediate_values() -> None:
    model = chain()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    found = Reference(model, ["A", "B", "X", "W"]).run(X)
    assert list(found) == ["Y", "A", "B", "X", "W"]
    np.testing.assert_allclose(found["A"], X["X"] @ WEIGHT, rtol=1e-5)
    np.testing.assert_array_equal(found["B"], np.maximum(found["A"], 0))
    np.testing.assert_array_equal(found["Y"], -found["B"])
    np.testing.assert_array_equal(found["X"], X["X"])
    np.testing.assert_array_equal(found["W"], WEIGHT)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_values_without_inferred_type_can_be_read() -> None:
    text = HEAD + "(float[2,8] X) => (float[2,8] Y) { A = Relu (X) Y = Neg (A) }"
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert model.graph[0].outputs[0].type is None
    np.testing.assert_array_equal(Reference(model, ["A"]).run(X)["A"], np.maximum(X["X"], 0))


@pytest.mark.parametrize(
    ("onnx_type", "zero"),
    [
        ("int8", np.int8),
        ("uint8", np.uint8),
        ("int16", np.int16),
        ("int4", ml_dtypes.int4),
        ("uint4", ml_dtypes.uint4),
    ],
)
def test_integer_codes_of_any_width(onnx_type: str, zero: type) -> None:
    scale, zero_point = np.array(0.25, np.float32), np.array(1, zero)
    text = HEAD + (
        f"(float[2,8] X) => (float[2,8] Y, {onnx_type}[2,8] Q) "
        "{ Q = QuantizeLinear (X, s, z) Y = DequantizeLinear (Q, s, z) }"
    )
    proto = onnx.parser.parse_model(text)
    initializer = proto.graph.initializer
    initializer.append(onnx.numpy_helper.from_array(scale, "s"))
    initializer.append(onnx.numpy_helper.from_array(zero_point, "z"))
    found = Reference(ir.from_proto(proto)).run(X)
    assert found["Q"].dtype.itemsize == (2 if onnx_type == "int16" else 1)
    decoded = (found["Q"].astype(np.float32) - 1) * np.float32(0.25)
    np.testing.assert_array_equal(decoded, found["Y"])
    assert len(np.unique(found["Q"])) > 3


def test_bfloat16_is_read_as_float32() -> None:
    text = HEAD + "(float[2,8] X) => (float[2,8] Y) { A = Cast <to=16> (X) Y = Cast <to=1> (A) }"
    found = Reference(model_from_text(text), ["A"]).run(X)
    assert found["A"].dtype == np.float32
    np.testing.assert_array_equal(found["A"], found["Y"])


def test_evaluate_has_the_signature_that_passes_expect() -> None:
    injected: Evaluate = evaluate
    found = list(injected(chain(), [X, X], ["B"]))
    assert len(found) == 2 and list(found[0]) == ["B"] and found[0]["B"].dtype == np.float32


def test_paths_with_and_without_external_weights(tmp_path: Path) -> None:
    want = Reference(chain()).run(X)["Y"]
    ir.save(chain(), tmp_path / "a.onnx")
    ir.save(chain(), tmp_path / "b.onnx", external_data="b.bin", size_threshold_bytes=0)
    for name in ("a.onnx", "b.onnx"):
        np.testing.assert_array_equal(Reference(tmp_path / name).run(X)["Y"], want)


def test_large_models_go_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    want = Reference(chain()).run(X)["Y"]
    monkeypatch.setattr(reference, "_INLINE_LIMIT_BYTES", 16)
    model = chain()
    np.testing.assert_array_equal(Reference(model, ["A"]).run(X)["Y"], want)
    value = model.graph.initializers["W"].const_value
    assert value is not None and not isinstance(value, ir.ExternalTensor)


def test_results_are_the_same_bits_every_time() -> None:
    runs = [Reference(chain(), threads=n).run(X)["Y"].tobytes() for n in (1, 1, 2)]
    assert len(set(runs)) == 1


def test_unknown_value_and_missing_input() -> None:
    with pytest.raises(ModelError, match="no value named 'nope'"):
        Reference(chain(), ["nope"])
    with pytest.raises(DataError, match="no data for input 'X'"):
        Reference(chain()).run({"Z": X["X"]})


def test_errors_of_onnx_runtime_are_one_sentence() -> None:
    text = HEAD.replace('"" : 21', '"" : 21, "acme" : 1')
    proto = onnx.parser.parse_model(text + "(float[2] X) => (float[2] Y) { [n1] Y = acme.Op (X) }")
    with pytest.raises(ModelError) as caught:
        Reference(ir.from_proto(proto))
    message = str(caught.value)
    assert "acme" in message and "Op" in message
    assert "\n" not in message and "[ONNXRuntimeError]" not in message and ".cc:" not in message
    with pytest.raises(ModelError, match="could not run") as caught:
        Reference(chain()).run({"X": np.zeros((3, 8), np.float32)})
    assert "X" in str(caught.value) and "[ONNXRuntimeError]" not in str(caught.value)
