"""GPTQ and QuantEase: what the equations promise, and what happens where they do not apply."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.core.encoding import TensorEncoding
from edgec.compiler.core.passbase import Context
from edgec.compiler.core.plan import QuantPlan
from edgec.compiler.frontend.reference import evaluate
from edgec.passes.gptq import Gptq, _error, _factor, _gptq, _quant_ease  # pyright: ignore
from tests.pairs import Array, Op, normal

LIMITS = (-8, 7)
SCALE = np.full((6, 12), 0.3)


def moment(seed: int, rank: int = 12) -> Array:
    rows = np.random.default_rng(seed).standard_normal((40, rank))
    mixed = rows @ np.random.default_rng(seed + 1).standard_normal((rank, 12))
    return mixed.T @ mixed


def plain(weight: Array) -> Array:
    return np.clip(np.rint(weight / SCALE), *LIMITS) * SCALE


def test_independent_inputs_of_one_size_give_plain_rounding() -> None:
    weight = normal(6, 12).astype(np.float64)
    rounded = _gptq(weight, SCALE, np.eye(12), LIMITS)
    assert rounded is not None
    np.testing.assert_array_equal(rounded, plain(weight))
    np.testing.assert_array_equal(
        _quant_ease(weight, rounded, SCALE, np.eye(12), LIMITS), plain(weight)
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rank", [3, 12])
def test_errors_fall_and_every_weight_is_on_the_grid(seed: int, rank: int) -> None:
    weight, h = normal(6, 12, seed=seed).astype(np.float64), moment(seed, rank)
    rounded = _gptq(weight, SCALE, h, LIMITS)
    assert rounded is not None
    swept = _quant_ease(weight, rounded, SCALE, h, LIMITS)
    errors = [_error(weight - w, h) for w in (plain(weight), rounded, swept)]
    assert errors[2] <= errors[1] < errors[0]
    assert _error(weight - _quant_ease(weight, plain(weight), SCALE, h, LIMITS), h) <= errors[0]
    codes = swept / SCALE
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-9)
    assert np.rint(codes).min() >= -8 and np.rint(codes).max() <= 7


def test_the_last_code_is_the_best_of_all_given_the_others() -> None:
    weight, h = normal(1, 4, seed=2).astype(np.float64), moment(5)[:4, :4]
    scale = SCALE[:1, :4]
    swept = _quant_ease(weight, np.zeros((1, 4)), scale, h, LIMITS)
    for _ in range(20):
        swept = _quant_ease(weight, swept, scale, h, LIMITS)
    least = _error(weight - swept, h)
    for j in range(4):
        for code in range(-8, 8):
            other = swept.copy()
            other[0, j] = code * 0.3
            assert _error(weight - other, h) >= least - 1e-9


def test_dead_inputs_have_no_factor() -> None:
    assert _factor(np.zeros((5, 5))) is None
    assert _factor(moment(0, 2)) is not None  # fewer rows than inputs: damping carries it


NETWORK = Op(
    "(float[2,12] X) => (float[2,6] Y)", "M = MatMul (X, W) Y = Add (M, B)",
    {"W": normal(12, 6), "B": normal(6)},
)  # fmt: skip


@pytest.mark.parametrize(("count", "text"), [(1, "fewer than two samples"), (12, "GPTQ")])
def test_a_matmul_keeps_its_name_and_says_what_was_done(count: int, text: str) -> None:
    mix = normal(3, 12, seed=9)
    samples = [{"X": normal(2, 3, seed=s) @ mix + normal(2, 12, seed=s) / 9} for s in range(count)]
    encoding = TensorEncoding(4, (0.3,) * 6, (0,) * 6, axis=1)
    context = Context(
        plan=QuantPlan().with_encodings({"W": encoding}), samples=samples, evaluate=evaluate
    )
    model = NETWORK.model
    outcome = Gptq().apply(model, context)
    (note,) = [*outcome.changed, *outcome.declined]
    assert note.where == "W" and text in note.text
    stored = model.graph.initializers["W"].const_value
    assert stored is not None
    data = stored.numpy()
    if outcome.changed:
        np.testing.assert_allclose(data, encoding.roundtrip(data), atol=1e-6)
    else:
        np.testing.assert_array_equal(data, NETWORK.arrays["W"])
