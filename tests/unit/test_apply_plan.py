"""The plan written into the graph as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.compiler.core.encoding import TensorEncoding
from edgec.compiler.core.graph import tensor_of
from edgec.compiler.core.passbase import Context, Outcome
from edgec.compiler.core.plan import QuantPlan
from edgec.compiler.frontend.reference import Reference
from edgec.passes.apply_plan import ApplyPlan
from tests.pairs import Op, ints, normal, random_feeds

E = TensorEncoding(8, (0.05,), (3,))
GEMM = Op("(float[2,4] X) => (float[2,3] Y)", "Y = Gemm (X, W, B)",
          {"W": normal(4, 3), "B": normal(3, seed=1)})  # fmt: skip
WEIGHT = TensorEncoding(8, (0.02, 0.03, 0.02), (0, 0, 0), axis=1)


def applied(op: Op, **encodings: TensorEncoding) -> tuple[ir.Model, Outcome]:
    model = op.model
    outcome = ApplyPlan().apply(model, Context(plan=QuantPlan().with_encodings(encodings)))
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return model, outcome


def operators(model: ir.Model) -> list[str]:
    short = {"QuantizeLinear": "Q", "DequantizeLinear": "DQ"}
    return [short.get(n.op_type, n.op_type) for n in model.graph]


def test_weights_and_biases_become_codes() -> None:
    model, outcome = applied(GEMM, X=E, W=WEIGHT, Y=E)
    assert sorted(operators(model)) == ["DQ"] * 4 + ["Gemm"] + ["Q"] * 2
    (gemm,) = (n for n in model.graph if n.op_type == "Gemm")
    weight, bias = (v.producer() for v in gemm.inputs[1:] if v is not None)
    assert weight is not None and bias is not None
    codes, units = tensor_of(bias.inputs[0]), tensor_of(bias.inputs[1])
    assert codes is not None and units is not None and codes.dtype == np.int32
    np.testing.assert_allclose(
        units, np.float32(0.05) * np.array(WEIGHT.scale, np.float32), rtol=1e-6
    )
    np.testing.assert_allclose(codes * units, GEMM.arrays["B"], atol=units.max())
    stored = tensor_of(weight.inputs[0])
    np.testing.assert_array_equal(stored, WEIGHT.quantise(GEMM.arrays["W"]))
    assert "W" not in model.graph.initializers and not outcome.declined


def test_the_result_means_what_the_encodings_say() -> None:
    op = Op("(float[3,8] X) => (float[3,8] Y)", "Y = Tanh (X)", {})
    other = TensorEncoding(8, (0.01,), (-7,))
    model, _ = applied(op, X=E, Y=other)
    feeds = random_feeds(model, 1, 3)
    wanted = other.roundtrip(np.tanh(E.roundtrip(feeds["X"])))
    np.testing.assert_allclose(Reference(model).run(feeds)["Y"], wanted, atol=0.011)


def test_names_of_graph_inputs_and_outputs_stay() -> None:
    model, _ = applied(GEMM, X=E, W=WEIGHT, Y=E)
    assert [v.name for v in model.graph.inputs] == ["X"]
    assert [v.name for v in model.graph.outputs] == ["Y"]
    last = model.graph.outputs[0].producer()
    assert last is not None and last.op_type == "DequantizeLinear"


def test_an_output_with_other_readers_feeds_them_its_codes() -> None:
    op = Op("(float[3,8] X) => (float[3,8] A, float[3,8] B)", "A = Tanh (X) B = Neg (A)", {})
    model, _ = applied(op, X=E, A=E, B=E)
    (neg,) = (n for n in model.graph if n.op_type == "Neg")
    assert neg.inputs[0] is model.graph.outputs[0]


def test_a_value_is_quantised_once_for_all_its_readers() -> None:
    op = Op("(float[3,8] X) => (float[3,8] Y)", "A = Tanh (X) B = Neg (X) Y = Mul (A, B)", {})
    model, _ = applied(op, X=E)
    assert operators(model) == ["Q", "DQ", "Tanh", "Neg", "Mul"]


def test_one_weight_of_two_nodes_keeps_one_set_of_codes() -> None:
    op = Op("(float[3,4] X) => (float[3,4] Y)", "A = MatMul (X, W) Y = MatMul (A, W)",
            {"W": normal(4, 4)})  # fmt: skip
    model, _ = applied(op, X=E, A=E, Y=E, W=TensorEncoding(8, (0.02,), (0,)))
    sources = {n.inputs[1] for n in model.graph if n.op_type == "MatMul"}
    assert len(sources) == 1


def test_a_shared_bias_gets_the_scale_of_each_node() -> None:
    op = Op("(float[3,4] X) => (float[3,4] Y)", "A = Gemm (X, W, B) Y = Gemm (A, W, B)",
            {"W": normal(4, 4), "B": normal(4)})  # fmt: skip
    other = TensorEncoding(8, (0.5,), (0,))
    model, _ = applied(op, X=E, A=other, Y=E, W=TensorEncoding(8, (0.02,), (0,)))
    units: list[float] = []
    for node in (n for n in model.graph if n.op_type == "Gemm"):
        assert node.inputs[2] is not None
        dq = node.inputs[2].producer()
        assert dq is not None
        scale = tensor_of(dq.inputs[1])
        assert scale is not None
        units.append(float(scale.reshape(-1)[0]))
    assert units == pytest.approx([0.05 * 0.02, 0.5 * 0.02])


def test_biases_need_both_an_encoded_input_and_an_encoded_weight() -> None:
    model, _ = applied(GEMM, W=WEIGHT, Y=E)
    (gemm,) = (n for n in model.graph if n.op_type == "Gemm")
    assert gemm.inputs[2] is not None and gemm.inputs[2].name == "B"


def test_the_input_of_a_weighted_node_may_be_moved() -> None:
    op = Op("(float[4,2] X) => (float[2,3] Y)", "T = Transpose (X) Y = Gemm (T, W, B)",
            dict(GEMM.arrays))  # fmt: skip
    model, outcome = applied(op, X=E, W=WEIGHT, Y=E)
    assert operators(model).count("DQ") == 4 and len(outcome.changed) == 4


def test_names_that_do_not_exist_are_declined() -> None:
    _, outcome = applied(GEMM, X=E, nothing=E)
    assert [(n.where, n.text) for n in outcome.declined] == [
        ("nothing", "no such value in the graph")
    ]


def test_unsigned_and_narrow_codes_have_their_onnx_type() -> None:
    op = Op("(float[3,8] X) => (float[8,3] Y)", "Y = Reshape (X, s)", {"s": ints(8, 3)})
    model, _ = applied(op, X=TensorEncoding(8, (0.05,), (130,), None, False))
    (q,) = (n for n in model.graph if n.op_type == "QuantizeLinear")
    assert q.outputs[0].dtype == ir.DataType.UINT8


def test_codes_narrower_than_their_onnx_type_are_clipped_first() -> None:
    op = Op("(float[3,8] X) => (float[3,8] Y)", "Y = Neg (X)", {})
    wide = TensorEncoding(12, (0.001,), (0,))
    model, _ = applied(op, X=wide, Y=wide)
    assert [n.op_type for n in model.graph] == [
        "Clip", "QuantizeLinear", "DequantizeLinear", "Neg", "Clip", "QuantizeLinear",
        "DequantizeLinear",
    ]  # fmt: skip
    (codes,) = (n.outputs[0] for n in model.graph if n.name == "X.q")
    assert codes.dtype == ir.DataType.INT16
    answer = Reference(model, ["X.codes"]).run({"X": np.array([[9, -9, 1e-3] + [0] * 5] * 3, "f4")})
    assert answer["X.codes"][0, :3].tolist() == [2047, -2048, 1]


def test_activations_of_four_bits_are_kept_in_int8() -> None:
    four = TensorEncoding(4, (0.5,), (1,))
    model, _ = applied(GEMM, X=four, W=WEIGHT)
    x = random_feeds(model, 0)["X"]
    (codes,) = (n.outputs[0] for n in model.graph if n.op_type == "QuantizeLinear")
    assert codes.dtype == ir.DataType.INT8
    got = Reference(model, [str(codes.name)]).run({"X": x})[str(codes.name)]
    np.testing.assert_array_equal(got, four.quantise(x))
