"""Every file in passes/ is held to the same contract; a new pass is tested the moment it exists."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.passbase import Decision, Effect, Example, Outcome, Transform
from edgec.passes import discover

PASSES = list(discover())
CASES = [pytest.param(p, e, id=f"{p.name}-{i}") for p in PASSES for i, e in enumerate(p.examples())]
TRANSFORMS = [c for c in CASES if isinstance(c.values[0], Transform)]
# Only these promise that applying them twice changes nothing more.
EQUIVALENT = [
    c
    for p, c in ((c.values[0], c) for c in TRANSFORMS)
    if isinstance(p, Transform) and p.effect is Effect.EQUIVALENT
]
DECISIONS = [c for c in CASES if isinstance(c.values[0], Decision)]


def evaluate(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(o, np.float32) for o in session.run(None, dict(feeds))]


def text(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def interface(model: ir.Model) -> list[tuple[object, ...]]:
    """Names, types and shapes of what the graph reads and returns."""
    values = [*model.graph.inputs, *model.graph.outputs]
    return [(v.name, str(v.type), str(v.shape)) for v in values]


def assert_not_silent(outcome: Outcome) -> None:
    assert outcome.changed or outcome.declined, "silence: neither changed nor declined"
    for note in [*outcome.changed, *outcome.declined]:
        assert note.where and note.text, f"an empty note: {note}"


def test_there_are_passes_of_both_outcomes() -> None:
    assert len(PASSES) >= 10 and len(TRANSFORMS) >= 50


@pytest.mark.parametrize("p", PASSES, ids=lambda p: p.name)
def test_one_name_a_docstring_frozen_options_and_examples(p: Transform | Decision) -> None:
    cls = type(p)
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
    assert cls.__module__.rsplit(".", 1)[1] == p.name == snake
    assert cls.__doc__ and cls.__doc__.strip().endswith(".")
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert {e.fires for e in p.examples()} == {True, False}


@pytest.mark.parametrize(("p", "example"), TRANSFORMS)
def test_transform_is_honest_and_keeps_the_interface(p: Transform, example: Example) -> None:
    model = example.model.clone()
    outcome = p.apply(model, example.ctx)
    assert bool(outcome.changed) == (text(model) != text(example.model)) == example.fires
    assert_not_silent(outcome)
    assert interface(model) == interface(example.model)


@pytest.mark.parametrize(("p", "example"), TRANSFORMS)
def test_transform_gives_a_valid_model_of_the_promised_function(
    p: Transform, example: Example
) -> None:
    model = example.model.clone()
    p.apply(model, example.ctx)
    before, after = evaluate(example.model, example.feeds), evaluate(model, example.feeds)
    for a, b in zip(before, after, strict=True):
        assert a.shape == b.shape
        if p.effect is Effect.EQUIVALENT:
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * max(np.abs(a).max(), 1e-30))


@pytest.mark.parametrize(("p", "example"), TRANSFORMS)
def test_transform_is_deterministic(p: Transform, example: Example) -> None:
    first, second = example.model.clone(), example.model.clone()
    notes = p.apply(first, example.ctx), p.apply(second, example.ctx)
    assert notes[0] == notes[1]
    assert text(first) == text(second)


@pytest.mark.parametrize(("p", "example"), EQUIVALENT)
def test_equivalent_transform_applied_twice_changes_nothing_more(
    p: Transform, example: Example
) -> None:
    model = example.model.clone()
    p.apply(model, example.ctx)
    once = text(model)
    again = p.apply(model, example.ctx)
    assert not again.changed
    assert text(model) == once


@pytest.mark.parametrize(("p", "example"), TRANSFORMS)
def test_transform_leaves_shapes_and_types_known(p: Transform, example: Example) -> None:
    model = example.model.clone()
    p.apply(model, example.ctx)
    for node in model.graph:
        for value in node.outputs:
            assert value.type is not None and value.shape is not None, value.name


@pytest.mark.parametrize(("p", "example"), DECISIONS)
def test_decision_touches_the_plan_alone(p: Decision, example: Example) -> None:
    before = text(example.model)
    plan, outcome = p.decide(example.model, example.ctx)
    assert text(example.model) == before, "a decision may only touch the plan"
    assert bool(outcome.changed) == (plan != example.ctx.plan) == example.fires
    assert_not_silent(outcome)


@pytest.mark.parametrize(("p", "example"), DECISIONS)
def test_decision_is_deterministic(p: Decision, example: Example) -> None:
    assert p.decide(example.model, example.ctx) == p.decide(example.model, example.ctx)
