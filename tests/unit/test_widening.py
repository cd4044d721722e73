"""When activations get 12 bits, and what is said about it."""

from __future__ import annotations

from typing import Any, Literal

import onnx_ir as ir
import pytest

from edgec.compiler import widening
from edgec.compiler.core.errors import OptionError
from edgec.compiler.core.passbase import Context
from edgec.compiler.frontend.calibrate import calibrate
from edgec.compiler.options import CompileOptions
from edgec.compiler.proof import answers, coded_error
from edgec.compiler.stages import Yardstick
from edgec.passes.assign_encodings import AssignEncodings
from tests.pairs import Feeds, Op, normal, random_feeds

Choice = Literal["auto", "always", "never"]
ATTENTION = Op(
    "(float[1,6,8] X) => (float[1,6,8] Y)",
    """Q = MatMul (X, WQ) K = MatMul (X, WK) V = MatMul (X, WV)
    R = Mul (Q, cos) QR = Add (R, Q) KT = Transpose <perm=[0,2,1]> (K)
    S = MatMul (QR, KT) P = Softmax <axis=-1> (S) O = MatMul (P, V) Y = MatMul (O, WO)""",
    {"WQ": normal(8, 8), "WK": normal(8, 8, seed=1), "WV": normal(8, 8, seed=2),
     "WO": normal(8, 8, seed=3), "cos": normal(6, 8, seed=4)},
)  # fmt: skip
GATED = Op(
    "(float[4,8] X) => (float[4,8] Y)",
    """G = MatMul (X, WG) U = MatMul (X, WU) T = Sigmoid (G) S = Mul (G, T)
    P = Mul (S, U) Y = MatMul (P, WD)""",
    {"WG": normal(8, 16), "WU": normal(8, 16, seed=1), "WD": normal(16, 8, seed=2)},
)
RESIDUAL = Op(
    "(float[4,8] X) => (float[4,8] Y)",
    """M = MatMul (X, W1) A = Add (M, B1) S = Add (A, X) N = LayerNormalization (S, G, B1)
    F = MatMul (N, W2) T = Add (N, F) Y = LayerNormalization (T, G, B1)""",
    {"W1": normal(8, 8), "W2": normal(8, 8, seed=1), "G": normal(8, seed=2),
     "B1": normal(8, seed=3)},
)  # fmt: skip
PLAIN = Op("(float[4,8] X) => (float[4,8] Y)", "Y = MatMul (X, W)", {"W": normal(8, 8)})


def samples(model: ir.Model) -> list[Feeds]:
    return [random_feeds(model, seed) for seed in range(6)]


def planned(op: Op, choice: Choice, *patterns: str) -> tuple[set[str], Any]:
    model = op.model
    for node in model.graph:
        node.name = f"layer/{node.outputs[0].name}"
    feeds = samples(model)
    options = CompileOptions(target="host", wide_activations=choice, wide=patterns)
    exact = Yardstick(feeds, answers(model, feeds))
    plan, steps, _ = widening.planned(model, calibrate(model, feeds, "minmax"), exact, options)
    wide = {n for n, e in plan.encodings.items() if e.bits == 12}
    return wide, {s.name: s.outcome for s in steps}.get(widening.NAME)


def test_never_plans_eight_bits_and_says_nothing() -> None:
    assert planned(ATTENTION, "never") == (set(), None)


def test_attention_operands_back_to_their_projections() -> None:
    wide, outcome = planned(ATTENTION, "always")
    assert wide == {"Q", "K", "V", "R", "QR", "cos"}
    assert [n.where for n in outcome.changed] == ["attention operands"]


def test_gated_products_only_not_what_enters_them() -> None:
    wide, outcome = planned(GATED, "always")
    assert wide == {"P"}
    assert [n.where for n in outcome.changed] == ["gated products"]


def test_sums_before_norms_and_the_layers_added_into_them() -> None:
    wide, outcome = planned(RESIDUAL, "always")
    assert wide == {"A", "S", "F", "T"}
    assert [n.where for n in outcome.changed] == ["sums before norms"]


def test_asking_where_there_is_nothing_to_widen_is_an_error() -> None:
    with pytest.raises(OptionError, match="no attention operands"):
        planned(PLAIN, "always")


def test_auto_says_nothing_where_there_is_nothing_to_widen() -> None:
    assert planned(PLAIN, "auto") == (set(), None)


def test_auto_leaves_good_enough_models_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "ENOUGH", 1.0)
    wide, outcome = planned(GATED, "auto")
    assert not wide and "are enough" in outcome.declined[0].text


def test_auto_widens_what_pays_and_drops_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "ENOUGH", 0.0)
    monkeypatch.setattr(widening, "WORTH", 1.0)
    wide, outcome = planned(GATED, "auto")
    assert wide == {"P"} and "->" in outcome.changed[0].text
    monkeypatch.setattr(widening, "WORTH", 0.0)
    wide, outcome = planned(GATED, "auto")
    assert not wide and "is not worth it" in outcome.declined[0].text


def test_the_wide_plan_is_closer_to_float() -> None:
    model = ATTENTION.model
    feeds = samples(model)
    context = Context(calibrate(model, feeds, "minmax"))
    plans = [
        AssignEncodings(wide=k).decide(model, context)[0] for k in ((), ("attention operands",))
    ]
    exact = Yardstick(feeds, answers(model, feeds))
    errors = [coded_error(model, plan, exact) for plan in plans]
    assert errors[1] < 0.8 * errors[0]


def test_what_a_narrow_kernel_reads_stays_narrow() -> None:
    op = Op(
        "(float[1,6,8] X) => (float[1,6,6] Y, float[1,6,8] Z)",
        """Q = MatMul (X, WQ) KT = Transpose <perm=[0,2,1]> (X)
        Y = MatMul (Q, KT) Z = Softmax <axis=-1> (Q)""",
        {"WQ": normal(8, 8)},
    )
    assert planned(op, "always")[0] == {"X"}


def test_tensors_that_share_an_encoding_are_widened_together_or_not_at_all() -> None:
    op = Op(
        "(float[1,6,4] A, float[1,6,4] B) => (float[1,6,6] Y, float[1,6,4] Z)",
        """C = Concat <axis=2> (A, B) KT = Transpose <perm=[0,2,1]> (C)
        Y = MatMul (C, KT) Z = Tanh (A)""",
        {},
    )
    with pytest.raises(OptionError):  # Tanh reads A in 8 bits, so C and B keep 8 bits as well
        planned(op, "always")


def test_patterns_name_tensors_or_layers() -> None:
    assert planned(GATED, "never", "P")[0] == {"P"}
    assert planned(GATED, "never", "[SU]")[0] == {"S", "U"}
    assert planned(GATED, "never", "layer/S")[0] == {"S"}
    assert planned(GATED, "always", "S")[0] == {"P", "S"}


@pytest.mark.parametrize(
    ("op", "pattern", "sentence"),
    [
        (GATED, "head/*", "matches no layer and no tensor"),
        (GATED, "UU", "did you mean 'U'"),
        (GATED, "T", "matches only T, which is not stored"),  # inside the table of S
        (ATTENTION, "P", "matches P, which not all kernels there can hold"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_patterns_without_effect_are_errors(op: Op, pattern: str, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        planned(op, "never", pattern)
