"""Upgrading to the working opset keeps the function and never goes down."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.errors import ModelError
from edgec.compiler.frontend import opset
from edgec.compiler.frontend.load import load
from edgec.compiler.frontend.opset import WORKING_OPSET, upgrade
from edgec.compiler.frontend.reference import Reference

AXES = np.array([1], np.int64)
# id: (opset, graph, constants): operators whose attributes or meaning changed on the way.
CASES: dict[str, tuple[int, str, dict[str, NDArray[Any]]]] = {
    "relu": (7, "(float[2,3] X) => (float[2,3] Y) { Y = Relu (X) }", {}),
    "clip": (7, "(float[2,3] X) => (float[2,3] Y) { Y = Clip <min=-0.5, max=0.5> (X) }", {}),
    "softmax-flattens": (
        11,
        "(float[2,3,4] X) => (float[2,3,4] Y) { Y = Softmax <axis=1> (X) }",
        {},
    ),
    "reduce-mean": (
        11,
        "(float[2,3] X) => (float[2,1] Y) { Y = ReduceMean <axes=[1], keepdims=1> (X) }",
        {},
    ),
    "reduce-sum": (
        11,
        "(float[2,3] X) => (float[3] Y) { Y = ReduceSum <axes=[0], keepdims=0> (X) }",
        {},
    ),
    "squeeze": (
        8,
        "(float[2,3] X) => (float[2,3] Y) { A = Unsqueeze <axes=[1]> (X) "
        "B = Squeeze <axes=[1]> (A) Y = Neg (B) }",
        {},
    ),
    "split": (
        11,
        "(float[2,3] X) => (float[2,3] Y) { A, B = Split <axis=1, split=[1,2]> (X) "
        "Y = Concat <axis=1> (B, A) }",
        {},
    ),
    "pad": (
        10,
        "(float[2,3] X) => (float[4,3] Y) { Y = Pad <pads=[1,0,1,0], value=0.5> (X) }",
        {},
    ),
    "slice": (
        9,
        "(float[2,3] X) => (float[2,2] Y) { Y = Slice <axes=[1], ends=[2], starts=[0]> (X) }",
        {},
    ),
    "batch-norm-and-dropout": (
        8,
        "(float[2,3] X) => (float[2,3] Y) { A = BatchNormalization (X, g, b, m, v) "
        "Y = Dropout (A) }",
        {
            "g": np.array([1, 2, 3], np.float32),
            "b": np.array([0, 1, -1], np.float32),
            "m": np.array([0.1, 0.2, 0.3], np.float32),
            "v": np.array([1, 0.5, 2], np.float32),
        },
    ),
    "top-k": (
        9,
        "(float[2,3] X) => (float[2,2] Y) { Y, I = TopK <axis=1, k=2> (X) }",
        {},
    ),
    "upsample": (
        9,
        "(float[1,1,2,3] X) => (float[1,1,4,6] Y) { Y = Upsample <mode=\"nearest\"> (X, s) }",
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
}  # fmt: skip


def build(version: int, graph: str, constants: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {version}]> m {graph}')
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    return proto


@pytest.mark.parametrize("case", CASES)
def test_function_is_kept(case: str) -> None:
    proto = build(*CASES[case])
    model = load(proto).model
    outcome = upgrade(model)
    (note,) = outcome.changed
    assert note.text == f"converted from {CASES[case][0]} to 21" and not outcome.declined
    assert model.opset_imports[""] == WORKING_OPSET
    assert all(n.name for n in model.graph) and all(n.op_type != "Constant" for n in model.graph)
    assert all(v.shape and v.shape.is_static() for n in model.graph for v in n.outputs)
    value = model.graph.inputs[0]
    assert value.shape is not None
    x = np.random.default_rng(0).standard_normal(value.shape.numpy()).astype(np.float32)
    want = Reference(ir.from_proto(proto)).run({"X": x})["Y"]
    got = Reference(model).run({"X": x})["Y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_weights_are_put_back_unchanged() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    graph = "(float[2,64] X) => (float[2,64] Y) { Y = MatMul (X, W) }"
    model = load(build(11, graph, {"W": weight})).model
    upgrade(model)
    value = model.graph.initializers["W"].const_value
    assert value is not None and [v.name for v in model.graph.inputs] == ["X"]
    np.testing.assert_array_equal(value.numpy(), weight)


@pytest.mark.parametrize("version", [21, 22, 28])
def test_newer_models_stay_as_they_are(version: int) -> None:
    graph = "(float[2] X) => (float[2] Y) { Y = Relu (X) }"
    model = load(build(version, graph, {})).model
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    outcome = upgrade(model)
    assert not outcome.changed and not outcome.declined
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_model_newer_than_onnx_runtime_is_refused() -> None:
    model = ir.from_proto(build(29, "(float[2] X) => (float[2] Y) { Y = Relu (X) }", {}))
    with pytest.raises(ModelError, match="opset 29 is newer than 28"):
        upgrade(model)


def test_other_domains_and_our_functions_survive() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1, "edgec" : 1]>
        m (float[2,3] X) => (float[2,1] Y) {
          A = com.microsoft.Gelu (X)
          B = edgec.decode (A)
          Y = ReduceMean <axes=[1]> (B)
        }
        <domain: "edgec", opset_import: ["" : 21]> decode (x) => (y) { y = Neg (x) }"""
    )
    model = load(proto).model
    assert upgrade(model).changed
    assert [n.domain for n in model.graph] == ["com.microsoft", "edgec", ""]
    x = {"X": np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)}
    want = Reference(ir.from_proto(proto)).run(x)["Y"]
    np.testing.assert_allclose(Reference(model).run(x)["Y"], want, rtol=1e-6)


def refuse(monkeypatch: pytest.MonkeyPatch, refused: set[int]) -> None:
    real = onnx.version_converter.convert_version

    def convert(proto: onnx.ModelProto, target: int) -> onnx.ModelProto:
        if target in refused:
            raise RuntimeError(f"no adapter to {target}")
        return real(proto, target)

    monkeypatch.setattr(opset.onnx.version_converter, "convert_version", convert)


@pytest.mark.parametrize(
    ("before", "refused", "after"),
    [
        (11, {21}, 13),
        (11, {21, 13, 14}, 15),
        (11, set(range(30)), 11),
        (17, {21}, 17),
    ],
)
def test_falls_back_but_never_down(
    before: int, refused: set[int], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(build(before, "(float[2] X) => (float[2] Y) { Y = Relu (X) }", {})).model
    refuse(monkeypatch, refused)
    outcome = upgrade(model)
    assert model.opset_imports[""] == after
    assert bool(outcome.changed) == (after != before)
    assert "no adapter to 21" in outcome.declined[0].text
