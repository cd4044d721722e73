"""Outlier Suppression+ on post-norm blocks: exact, and undone where the residual stream reads."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.compiler.core.graph import constant
from edgec.compiler.core.passbase import Context
from edgec.compiler.frontend.calibrate import calibrate
from edgec.compiler.frontend.reference import Reference, evaluate
from edgec.compiler.proof import ENOUGH, Contest, answers
from edgec.compiler.stages import Yardstick
from edgec.passes._flow import MIX, SCALE, SHIFT
from edgec.passes._folding_examples import NORM_TO_LAYERS, POST_NORM, example
from edgec.passes._structure import sites
from edgec.passes.assign_encodings import AssignEncodings
from edgec.passes.outlier_suppression import OutlierSuppression
from tests.pairs import Op, normal, random_feeds


def treated(body: str) -> tuple[ir.Model, ir.Model, list[str]]:
    """Return the model of body as it was and is, and what was changed."""
    given = example(body)
    model = given.model.clone()
    ctx = dataclasses.replace(given.ctx, evaluate=evaluate)
    outcome = OutlierSuppression().apply(model, ctx)
    return given.model, model, [note.text for note in outcome.changed]


def products(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Mul"]


def test_a_norm_that_is_the_residual_is_a_site_once_it_may_be_compensated() -> None:
    model = example(POST_NORM).model
    assert next(sites(model)).refused(SCALE) is not None
    site = next(sites(model, compensated=True))
    assert [(node.op_type, index) for node, index in site.skips] == [("Add", 0)]
    assert site.refused(SCALE) is None
    assert all("joins it with another" in str(site.refused(k)) for k in (SHIFT, MIX))


def test_post_norm_models_compute_the_same_bits() -> None:
    before, after, texts = treated(POST_NORM)
    assert len(texts) == 1 and "undone by a product before Add" in texts[0]
    feeds = [{"X": np.random.default_rng(s).standard_normal((1, 6, 8), np.float32)} for s in (1, 2)]
    for x in feeds:
        np.testing.assert_array_equal(Reference(before).run(x)["Y"], Reference(after).run(x)["Y"])


def test_factors_are_powers_of_two_that_shrink_outliers_alone() -> None:
    _, after, _ = treated(POST_NORM)
    (product,) = products(after)
    factors = constant(product.inputs[1])
    assert factors is not None
    assert (np.log2(factors) % 1 == 0).all() and factors.min() == 1
    assert set(np.flatnonzero(factors > 4)) == {1, 6}  # gains of 60 among gains of 1


def test_the_codes_of_the_product_hold_its_factors_exactly() -> None:
    _, after, _ = treated(POST_NORM)
    (product,) = products(after)
    feeds = list(example(POST_NORM).ctx.samples)
    plan, _ = AssignEncodings().decide(after, Context(stats=calibrate(after, feeds)))
    value, factors = product.inputs[1], constant(product.inputs[1])
    assert value is not None and factors is not None
    np.testing.assert_array_equal(plan.encodings[str(value.name)].roundtrip(factors), factors)


def test_pre_norm_models_get_no_product() -> None:
    _, after, texts = treated(NORM_TO_LAYERS)
    assert texts and not products(after)


def test_the_contest_looks_past_errors_that_more_bits_will_remove() -> None:
    """At 8 bits the sums before norms hide what is gained behind norms."""
    gain = np.where(np.arange(8) % 5 == 1, 60, 1).astype(np.float32)
    op = Op(
        "(float[4,8] X) => (float[4,8] Y)",
        "N = LayerNormalization (X, G) F = MatMul (N, W) A = Add (N, F)"
        " Y = LayerNormalization (A, H)",
        {"G": gain, "W": normal(8, 8) / 60, "H": 1 / gain},
    )
    feeds = tuple(random_feeds(op.model, seed) for seed in range(6))
    exact = Yardstick(feeds, tuple(answers(op.model, feeds)))
    narrow, wide = (Contest(op.model, exact, widening) for widening in (False, True))
    for contest in (narrow, wide):
        contest.offer([OutlierSuppression()], Context(samples=feeds, evaluate=evaluate), ())
    assert narrow.error is not None and wide.error is not None
    assert narrow.error > ENOUGH and wide.error < narrow.error / 4
