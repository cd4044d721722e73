"""Encodings chosen for small graphs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgec.compiler.core.encoding import TensorEncoding, affine_encoding
from edgec.compiler.core.passbase import Context, Outcome
from edgec.compiler.core.plan import QuantPlan
from edgec.compiler.frontend.calibrate import calibrate
from edgec.passes.assign_encodings import SOFTMAX, AssignEncodings
from tests.pairs import Array, Op, ints, normal, random_feeds, single


def decide(op: Op, plan: QuantPlan | None = None) -> tuple[QuantPlan, Outcome, ir.Model]:
    model = op.model
    stats = calibrate(model, [random_feeds(model, s) for s in range(3)])
    plan, outcome = AssignEncodings().decide(model, Context(stats=stats, plan=plan or QuantPlan()))
    return plan, outcome, model


def test_weights_are_symmetric_per_output_channel() -> None:
    weight = normal(5, 4, 3, 3)
    op = Op("(float[1,4,6,6] X) => (float[1,5,4,4] Y)",
            "Y = Conv <kernel_shape=[3,3]> (X, W)", {"W": weight})  # fmt: skip
    encoding = decide(op)[0].encodings["W"]
    assert encoding.axis == 0 and encoding.zero_point == (0,) * 5
    largest = np.abs(weight).max(axis=(1, 2, 3)) / 127
    np.testing.assert_allclose(encoding.scale, largest, rtol=1e-6)


@pytest.mark.parametrize(("trans", "axis"), [(0, 1), (1, 0)])
def test_gemm_weights_follow_trans_b(trans: int, axis: int) -> None:
    op = Op("(float[2,4] X) => (float[2,4] Y)", f"Y = Gemm <transB={trans}> (X, W)",
            {"W": normal(4, 4)})  # fmt: skip
    assert decide(op)[0].encodings["W"].axis == axis


def test_activations_cover_their_calibrated_range() -> None:
    op = Op("(float[3,8] X) => (float[3,8] Y)", "Y = Tanh (X)", {})
    model = op.model
    stats = calibrate(model, [random_feeds(model, 0)])
    plan, _ = AssignEncodings().decide(model, Context(stats=stats))
    assert plan.encodings["X"] == affine_encoding(stats["X"].low, stats["X"].high)
    assert set(plan.encodings) == {"X", "Y"}


def test_a_large_bias_widens_its_channels_weight_scale() -> None:
    weight, bias = normal(4, 2) * 1e-6, np.array([1e3, 0], np.float32)
    op = Op("(float[2,4] X) => (float[2,2] Y)", "Y = Gemm (X, W, B)", {"W": weight, "B": bias})
    plan = decide(op)[0]
    scale = plan.encodings["W"].scale
    assert 1e3 / (scale[0] * plan.encodings["X"].scale[0]) <= 2**29 * 1.001
    np.testing.assert_allclose(scale[1], np.abs(weight[:, 1]).max() / 127, rtol=1e-6)


def test_constants_that_are_multiples_of_their_smallest_number_are_exact() -> None:
    for factors, exact in ((np.array([0.5, 1, 0, -32], np.float32), True), (normal(4), False)):
        op = Op("(float[3,4] X) => (float[3,4] Y)", "Y = Mul (X, S)", {"S": factors})
        encoding = decide(op)[0].encodings["S"]
        assert np.array_equal(encoding.roundtrip(factors), factors) == exact


def test_joined_tensors_share_the_widest_range() -> None:
    op = Op("(float[2,3] A, float[2,3] B) => (float[2,6] Y)",
            "P = Tanh (A) Q = Exp (B) Y = Concat <axis=1> (P, Q)", {})  # fmt: skip
    found = decide(op)[0].encodings
    assert found["P"] == found["Q"] == found["Y"]
    assert found["Y"].scale[0] * 255 > 2


def test_softmax_has_a_fixed_encoding_unless_joined() -> None:
    plain = Op("(float[2,3] X) => (float[2,3] Y)", "Y = Softmax (X)", {})
    assert decide(plain)[0].encodings["Y"] == SOFTMAX
    joined = Op("(float[2,3] X) => (float[2,6] Y)",
                "S = Softmax (X) Y = Concat <axis=1> (S, X)", {})  # fmt: skip
    found = decide(joined)[0].encodings
    assert found["S"] == found["X"] != SOFTMAX


def test_constant_operands_are_encoded_biases_and_scalars_are_not() -> None:
    op = Op(
        "(float[2,4] X) => (float[2,4] Y)",
        "M = MatMul (X, W) A = Add (M, B) T = Mul (A, C) Y = Mul (T, s)",
        {"W": normal(4, 4), "B": normal(4), "C": normal(4), "s": single(2)},
    )
    assert set(decide(op)[0].encodings) == {"X", "W", "A", "C", "Y"} | {"T"}


def test_tables_of_run_time_gathers_are_encoded_per_tensor() -> None:
    op = Op("(int64[3] I) => (float[3,4] Y)", "E = Gather (T, I) Y = Tanh (E)", {"T": normal(5, 4)})
    found = decide(op)[0].encodings
    assert found["T"].axis is None
    assert set(found) == {"T", "Y"}


def test_a_value_that_is_always_zero_gets_some_scale() -> None:
    op = Op("(float[2,4] X) => (float[2,4] Y)", "Z = Mul (X, c) Y = Add (Z, X)",
            {"c": np.zeros(4, np.float32)})  # fmt: skip
    assert decide(op)[0].encodings["Z"] == affine_encoding(0, 1)


def test_hand_made_encodings_are_kept() -> None:
    op = Op("(float[3,8] X) => (float[3,8] Y)", "Y = Tanh (X)", {})
    mine = TensorEncoding(8, (0.5,), (3,))
    plan, _, _ = decide(op, QuantPlan().with_encodings({"X": mine}))
    assert plan.encodings["X"] == mine and "Y" in plan.encodings


def test_uncalibrated_values_are_declined_by_name_and_the_graph_is_left_alone() -> None:
    model = Op("(float[3,8] X) => (float[3,8] Y)", "Y = Tanh (X)", {}).model
    before = ir.to_proto(model).SerializeToString()
    plan, outcome = AssignEncodings().decide(model, Context())
    assert not plan.encodings
    assert [(n.where, n.text) for n in outcome.declined] == [
        ("X", "not calibrated: stays float"), ("Y", "not calibrated: stays float"),
    ]  # fmt: skip
    assert ir.to_proto(model).SerializeToString() == before


def test_movement_inherits_and_gets_no_encoding_of_its_own() -> None:
    arrays: dict[str, Array] = {"s": ints(8, 3)}
    op = Op("(float[3,8] X) => (float[8,3] Y)", "R = Reshape (X, s) Y = Identity (R)", arrays)
    assert set(decide(op)[0].encodings) == {"X"}
