"""Stages in order: what is proved, what is rolled back, what is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from edgec.compiler import pipeline, proof
from edgec.compiler.core.errors import ModelError, OptionError
from edgec.compiler.core.passbase import Context, Effect, Example, Note, Outcome
from edgec.compiler.options import CompileOptions, make_options
from edgec.compiler.stages import Profiled, Source, Yardstick
from tests.pairs import Array
from tests.small import cnn, cnn_samples, qdq_cnn

HOST = CompileOptions(target="host")


@dataclass(frozen=True)
class Scale:
    """Multiplies the weight of every Gemm; changes the function unless factor is 1."""

    factor: float
    name: ClassVar[str] = "scale"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Rewrite the weight."""
        value = model.graph.initializers["v"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(self.factor))
        return Outcome(changed=[Note("v", f"times {self.factor}")])

    @staticmethod
    def examples() -> Iterable[Example]:
        """Yield none."""
        return ()


@dataclass(frozen=True)
class Breaks(Scale):
    """Leaves a model that ONNX Runtime refuses."""

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Give the Gemm a weight of another shape."""
        model.graph.initializers["v"].const_value = ir.tensor(np.ones((5, 3), np.float32))
        return Outcome(changed=[Note("v", "broken")])


def source(model: ir.Model | None = None, options: CompileOptions = HOST) -> Source:
    return pipeline.load_source(cnn() if model is None else model, options)


def feeds(count: int = 4) -> list[dict[str, Array]]:
    return [{"image": x[None]} for x in cnn_samples(count)]


def prove(transform: Scale) -> tuple[bool, pipeline.Step]:
    """Return whether transform was kept on the small network, and its step."""
    model, samples = source().model, feeds(2)
    before = proof.answers(model, samples)
    result, step = proof.prove(model, transform, Context(), samples, before)
    return result is not model, step


def test_a_transform_that_moves_nothing_is_kept_with_its_proof() -> None:
    kept, step = prove(Scale(1.0))
    assert kept and step.error == 0.0 and step.outcome.changed


def test_a_transform_that_moves_outputs_is_rolled_back() -> None:
    kept, step = prove(Scale(1.001))
    assert not kept and not step.outcome.changed
    assert step.error is not None and 1e-5 < step.error < 1e-2
    assert "rolled back" in step.outcome.declined[0].text


def test_a_transform_that_breaks_the_model_is_rolled_back() -> None:
    kept, step = prove(Breaks(1.0))
    assert not kept and "ONNX Runtime" in step.outcome.declined[0].text


@dataclass(frozen=True)
class Other(Scale):
    """Does the same under another name."""

    name: ClassVar[str] = "other"


def test_of_alternatives_at_most_one_is_kept() -> None:
    model, offered = source().model, [Scale(1.0), Other(1.0)]
    samples = feeds(2)
    contest = proof.Contest(model, Yardstick(tuple(samples), tuple(proof.answers(model, samples))))
    for step in contest.offer(offered, Context(), ()):
        assert "not kept: error" in step.outcome.declined[0].text  # neither is better than nothing
    assert contest.model is model
    first, second = contest.offer(offered, Context(), {"other"})
    assert "another pass was asked for" in first.outcome.declined[0].text
    assert second.outcome.changed and contest.model is not model


def test_canonicalise_leaves_its_source_alone_and_is_idempotent() -> None:
    first = source()
    before = ir.to_proto(first.model).SerializeToString(deterministic=True)
    canonical = pipeline.canonicalise(first, feeds())
    assert ir.to_proto(first.model).SerializeToString(deterministic=True) == before
    again = pipeline.canonicalise(
        Source(canonical.model, "cnn", "", (), False), feeds()
    )  # fmt: skip
    assert not any(step.outcome.changed for step in again.steps)


def profiled(options: CompileOptions = HOST, model: ir.Model | None = None) -> Profiled:
    begun = source(model, options)
    samples = pipeline.open_samples(begun, None, options)
    canonical = pipeline.canonicalise(begun, pipeline.first_samples(samples, 2))
    return pipeline.profile(canonical, samples, options, synthetic_data=True)


def test_synthetic_samples_follow_the_seed() -> None:
    def first(seed: int) -> Array:
        options = CompileOptions(target="host", seed=seed)
        return pipeline.first_samples(pipeline.open_samples(source(), None, options), 1)[0]["image"]

    np.testing.assert_array_equal(first(0), first(0))
    assert not np.array_equal(first(0), first(1))


def test_samples_are_counted_and_limited() -> None:
    few = profiled(CompileOptions(target="host", samples=3))
    assert few.sample_count == 3 and few.synthetic and len(few.samples) == 3
    assert set(few.stats) >= {"image", "scores"}


def test_a_quantised_model_needs_no_statistics() -> None:
    found = profiled(model=qdq_cnn())
    assert found.canonical.source.already_quantised and not found.stats
    assert pipeline.reshape(found, HOST).steps == ()
    forced = CompileOptions(target="host", passes=("cross-layer-equalisation",))
    with pytest.raises(OptionError, match="already quantised"):
        pipeline.reshape(found, forced)


def test_an_optional_pass_can_be_left_out_and_says_what_it_did() -> None:
    found = profiled()
    without = CompileOptions(target="host", no_passes=tuple(t.name for t in pipeline.RESHAPING))
    assert pipeline.reshape(found, without).steps == ()
    steps = pipeline.reshape(found, HOST).steps
    tried = [t.name for t in pipeline.RESHAPING if t.name not in pipeline.ON_REQUEST]
    assert [step.name for step in steps] == tried
    assert all(step.outcome.changed or step.outcome.declined for step in steps)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"passes": ("fold-constants",)}, "always runs"),
        ({"no_passes": ("crosslayer-equalisation",)}, "did you mean cross_layer_equalisation"),
        (
            {"passes": ("cross_layer_equalisation",), "no_passes": ("cross-layer-equalisation",)},
            "both asked for and left out",
        ),
    ],
)
def test_passes_that_cannot_be_chosen(options: dict[str, tuple[str, ...]], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        pipeline.require_passes(make_options("host", options))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sampels": 3}, "no option 'sampels'; did you mean samples"),
        ({"zzz": 3}, "use target, recipe, name"),
        ({"samples": 0}, "samples = 0 is not usable"),
        ({"max_drop": 2}, "max_drop = 2"),
    ],
)
def test_options_refuse_in_one_sentence(given: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make_options("host", given)


def test_names_must_be_c_identifiers() -> None:
    with pytest.raises(OptionError, match="use 'my_net'"):
        source(options=CompileOptions(target="host", name="my net"))


def test_operators_of_unknown_domains_are_all_named() -> None:
    model = cnn()
    for node in list(model.graph)[1:3]:
        node.domain = "my"
    model.opset_imports["my"] = 1
    with pytest.raises(ModelError) as caught:
        pipeline.require_runnable(source(model), HOST)
    assert [problem.split()[0] for problem in caught.value.problems] == ["Relu", "MaxPool"]


def test_clock_adds_up_and_reports() -> None:
    seen: list[tuple[str, float]] = []
    clock = pipeline.Clock(lambda stage, done: seen.append((stage, done)))
    for _ in range(2):
        with clock.stage("load"):
            pass
    assert seen == [("load", 0.0), ("load", 1.0)] * 2
    assert list(clock.seconds) == ["load"] and clock.seconds["load"] >= 0


def test_the_float_recipe_takes_no_options_of_quantisation() -> None:
    for given in ({"passes": ("bias-correction",)}, {"wide": ("/head/*",)}):
        options = CompileOptions.model_validate({"target": "host", "recipe": "float32", **given})
        with pytest.raises(OptionError, match="recipe float32 quantises nothing"):
            pipeline.require_passes(options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pass_that_makes_no_number_or_moves_infinity_fails_its_proof(value: float) -> None:
    from edgec.compiler.proof import largest_move

    ones = np.ones(3, np.float32)
    odd = np.array([1, value, 1], np.float32)
    assert largest_move([{"y": odd}], [{"y": odd}]) == 0
    assert largest_move([{"y": ones}], [{"y": odd}]) == float("inf")
    assert largest_move([{"y": odd}], [{"y": ones}]) == float("inf")
