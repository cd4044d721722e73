"""Hadamard operators at run time: found in their matrices, cheap, exact, none superfluous."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.graph import take_over
from edgec.compiler.core.kronecker import hadamard_form, is_kronecker
from edgec.compiler.core.passbase import Context
from edgec.compiler.frontend.calibrate import calibrate
from edgec.compiler.frontend.double import in_double as computed_in_double
from edgec.compiler.frontend.load import load
from edgec.compiler.frontend.reference import ONNX_RUNTIME, Reference
from edgec.compiler.lowering.kernels.hadamard import Hadamard
from edgec.compiler.lowering.lower import lower
from edgec.passes._folding_examples import ACTIVATED, RMS_TO_GATED, example
from edgec.passes._online import activation_turn, head_turn
from edgec.passes._orthogonal import sylvester
from edgec.passes.apply_plan import ApplyPlan
from edgec.passes.assign_encodings import AssignEncodings
from edgec.passes.online_hadamard import OnlineHadamard
from edgec.passes.quarot import Quarot
from tests.families import Spelling, token_feeds, transformer
from tests.pairs import pair, pipeline_pair, random_feeds
from tests.small import save

# Feed-forward widths of published models, one (172) without a Hadamard matrix that is reached.
WIDTHS = (2, 12, 43, 64, 172, 256, 1536, 4864, 5632)


def product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    return np.kron(a, b).astype(np.float64)


@pytest.mark.parametrize("width", WIDTHS)
def test_matrices_as_stored_are_recognised(width: int) -> None:
    turn = activation_turn(width, np.random.default_rng(0))
    a, b = turn.a.astype(np.float32), turn.b.astype(np.float32)
    form = hadamard_form(a, b)
    assert form is not None and form.inner == 1
    assert len(form.small) * form.power == width
    assert a.size + b.size <= 6 * width * max(1, len(form.small) ** 2 / width)
    if width <= 1536:
        small = np.kron(form.small.astype(np.float64), sylvester(form.power))
        signed = form.signs[:, None] * form.scale * small
        np.testing.assert_allclose(signed, product(a, b), rtol=0, atol=1e-7)


@pytest.mark.parametrize("width", WIDTHS)
def test_turns_keep_lengths(width: int) -> None:
    turn = activation_turn(width, np.random.default_rng(0))
    for factor in (turn.a, turn.b):
        gram = factor @ factor.T
        gram /= gram[0, 0]
        assert np.abs(gram - np.eye(len(factor))).max() < 0.02  # entries of 7 bits at the worst
    lengths = np.linalg.norm(turn.a[0]) * np.linalg.norm(turn.b[0])
    assert lengths == pytest.approx(1, rel=0.02)


def test_heads_are_mixed_and_their_channels_are_not() -> None:
    turn = head_turn(20, 4)  # 20 is no power of two times a smaller Hadamard order
    assert not isinstance(turn, str)
    form = hadamard_form(turn.a.astype(np.float32), turn.b.astype(np.float32))
    assert form is not None and (len(form.small), form.power, form.inner) == (20, 1, 4)


@pytest.mark.parametrize("matrices", ["random", "zeros", "negative unit"])
def test_other_matrices_have_no_form(matrices: str) -> None:
    rng = np.random.default_rng(0)
    a, b = {
        "random": (np.eye(2), rng.standard_normal((4, 4))),
        "zeros": (np.zeros((2, 2)), np.eye(2)),
        "negative unit": (np.eye(2), -np.eye(3)),
    }[matrices]
    assert hadamard_form(a, b) is None


def test_the_mean_of_an_activation_does_not_gather_in_one_channel() -> None:
    turn = activation_turn(256, np.random.default_rng(0))
    turned = np.ones(256) @ product(turn.a, turn.b)
    assert np.abs(turned).max() < 0.5 * 16  # of sqrt(256) without signs


def with_operators(model: ir.Model) -> tuple[ir.Model, list[ir.Node]]:
    after = model.clone()
    OnlineHadamard().apply(after, Context())
    return after, [node for node in after.graph if is_kronecker(node)]


@pytest.mark.parametrize("body", [ACTIVATED, RMS_TO_GATED])
def test_lowered_to_butterflies_with_the_answers_of_onnx_runtime(body: str) -> None:
    after, operators = with_operators(example(body).model)
    found = pipeline_pair(after)
    kernels = [c.kernel for c in found.program.calls if isinstance(c.kernel, Hadamard)]
    assert len(kernels) == len(operators) > 0
    assert not found.floats, found.program.notes
    assert found.worst <= 1 and found.share_equal >= 0.99


def test_heads_are_lowered_to_butterflies_too() -> None:
    after, operators = with_operators(transformer(Spelling(heads=4, gated=False), outliers=False))
    found = pipeline_pair(after)
    kernels = [c.kernel for c in found.program.calls if isinstance(c.kernel, Hadamard)]
    assert [k.inner for k in kernels] == [2, 1] and len(operators) == 2
    assert not found.floats and found.worst <= 2


def test_kernels_hold_no_dense_matrix() -> None:
    after, _ = with_operators(transformer(Spelling(width=64)))
    program = pipeline_pair(after).program
    kernels = [c.kernel for c in program.calls if isinstance(c.kernel, Hadamard)]
    assert [(k.small, k.power, k.inner) for k in kernels] == [(1, 2, 32), (1, 128, 1)]
    constants = [c.constants for c in program.calls if isinstance(c.kernel, Hadamard)]
    # Signs of every channel that is mixed, one number for the matrix, and the rescale.
    assert [sum(a.size for a in arrays) for arrays in constants] == [2 + 1 + 6, 128 + 1 + 6]
    assert [k.macs() for k in kernels] == [6 * 64 * 1, 6 * 128 * 7]


@pytest.mark.parametrize("heads", [2, 20])
def test_dropping_any_operator_breaks_the_model(heads: int) -> None:
    model = transformer(Spelling(layers=2, width=4 * heads, heads=heads, rope=True, grouped=True))
    Quarot().apply(model, Context())
    after, operators = with_operators(model)
    assert len(operators) == 4
    feeds = token_feeds()
    want = Reference(model).run(feeds)["Y"]

    def moved(changed: ir.Model) -> float:
        return float(np.abs(Reference(changed).run(feeds)["Y"] - want).max() / np.abs(want).max())

    assert moved(after) < 1e-5
    for index in range(len(operators)):
        broken, nodes = with_operators(model)
        source = nodes[index].inputs[0]
        assert source is not None
        take_over(nodes[index].outputs[0], source)
        assert moved(broken) > 1e-2


def test_what_is_turned_may_have_12_bits() -> None:
    after, _ = with_operators(example(ACTIVATED.replace("Relu", "Sigmoid")).model)
    samples = [random_feeds(after, seed) for seed in range(4)]
    stats = calibrate(after, samples)
    kind = "what is turned at run time"
    plan, _ = AssignEncodings(wide=(kind,)).decide(after, Context(stats=stats))
    ApplyPlan().apply(after, Context(plan=plan))
    found = pair(after, samples)
    read = [c.kernel.dtype for c in found.program.calls if isinstance(c.kernel, Hadamard)]
    assert read == ["int16", "int16"]
    assert not found.floats and found.worst <= 1


def test_heads_without_a_matrix_are_left_with_the_reason() -> None:
    outcome = OnlineHadamard().apply(transformer(Spelling(width=12, heads=3)), Context())
    assert [n.text for n in outcome.declined] == [
        "there is no Hadamard matrix of 3 heads, so they are turned one by one only"
    ]


def test_a_saved_model_keeps_its_operators(tmp_path: Any) -> None:
    after, operators = with_operators(example(ACTIVATED).model)
    assert Reference(after).engine == ONNX_RUNTIME
    again = load(save(after, tmp_path / "turned.onnx")).model
    assert sum(map(is_kronecker, again.graph)) == len(operators) == 2


def test_without_quantisation_it_is_lowered_by_its_body() -> None:
    after, _ = with_operators(example(ACTIVATED).model)
    program = lower(after, exact=True)
    feeds = example(ACTIVATED).feeds
    want = Reference(after).run(feeds)["Y"]
    got = program.interpret({"X": feeds["X"]})["Y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_double_precision_covers_it() -> None:
    after, _ = with_operators(example(ACTIVATED).model)
    double = computed_in_double(after)
    assert not double.functions or not any(map(is_kronecker, double.graph))
    want = Reference(example(ACTIVATED).model).run(example(ACTIVATED).feeds)["Y"]
    got = Reference(double).run(example(ACTIVATED).feeds)["Y"]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
