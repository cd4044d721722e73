"""Whatever the analysis allows is exact: random changes of every free channel, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgec.compiler.core.graph import add_constant, tensor_of
from edgec.compiler.core.passbase import Context, Outcome
from edgec.passes import _rotate, _site_edit
from edgec.passes._flow import SCALE, SHIFT
from edgec.passes._folding_examples import (
    CHAINS,
    DECLINED,
    STREAMS,
    VALUES_TO_OUTPUT,
    example,
    in_double,
    reference,
)
from edgec.passes._linear import Draft
from edgec.passes._site_edit import norm_parameters, rescale_site
from edgec.passes._structure import sites
from edgec.passes.duquant import Duquant
from edgec.passes.online_hadamard import OnlineHadamard
from edgec.passes.quarot import Quarot
from tests.families import Spelling, token_feeds, transformer

EXACT = 1e-10

SPELLINGS = st.builds(
    Spelling, norm=st.sampled_from(["LayerNormalization", "RMSNormalization"]),
    grouped=st.booleans(), fused=st.booleans(), rope=st.booleans(), gated=st.booleans(),
    biased=st.booleans(), post_norm=st.booleans(), tied=st.booleans(),
    layers=st.integers(1, 2),
)  # fmt: skip


def answers(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    names = [str(v.name) for v in model.graph.outputs]
    (found,) = reference(model, [feeds], names)
    return np.concatenate([np.asarray(found[n], np.float64).reshape(-1) for n in names])


def moved(model: ir.Model, other: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> float:
    before, after = answers(model, feeds), answers(other, feeds)
    return float(np.abs(before - after).max() / np.abs(before).max())


def change_all(model: ir.Model, rng: np.random.Generator, compensated: bool = False) -> int:
    """Scale and shift every channel that is said to be free; return how many sites changed."""
    count = 0
    for site in sites(model, compensated):
        scale = np.where(site.free[SCALE], rng.uniform(0.2, 5, site.channels), 1.0)
        shift = np.where(site.free[SHIFT], rng.standard_normal(site.channels), 0.0)
        if site.source.op_type == "RMSNormalization":
            shift = np.zeros_like(shift)
        if (scale != 1).any():
            assert rescale_site(site, scale, shift) is None
            count += 1
    return count


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(spelling=SPELLINGS, seed=st.integers(0, 99), compensated=st.booleans())
def test_scaling_and_shifting_free_channels_is_exact(
    spelling: Spelling, seed: int, compensated: bool
) -> None:
    model = in_double(transformer(spelling, seed))
    after = model.clone()
    assert change_all(after, np.random.default_rng(seed), compensated)
    assert len(list(after.graph)) <= len(list(model.graph)) + 20
    assert moved(model, after, token_feeds(seed)) < EXACT


@pytest.mark.parametrize("body", CHAINS)
def test_chains_of_convolutions_values_and_gates_are_exact(body: str) -> None:
    given_model = example(body)
    model = in_double(given_model.model)
    after = model.clone()
    assert change_all(after, np.random.default_rng(0))
    feeds = {"X": given_model.feeds["X"].astype(np.float64)}
    assert moved(model, after, feeds) < EXACT


@pytest.mark.parametrize("body", DECLINED)
def test_nothing_is_free_where_nothing_may_be_done(body: str) -> None:
    assert change_all(example(body).model, np.random.default_rng(0)) == 0


@pytest.mark.parametrize("mutant", ["a reader forgotten", "source kept", "shift not undone"])
def test_planted_mutants_are_seen(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_double(transformer(Spelling(norm="LayerNormalization")))
    after = model.clone()
    write_all, absorb = _site_edit.write_all, Draft.absorb

    def all_but_first(layers: Sequence[Draft]) -> str | None:
        return write_all(layers[1:])

    def keep(norm: ir.Node, gain: Any, offset: Any) -> None:
        pass

    def scale_alone(layer: Draft, scale: Any, shift: Any) -> None:
        absorb(layer, scale, 0 * shift)

    if mutant == "a reader forgotten":
        monkeypatch.setattr(_site_edit, "write_all", all_but_first)
    elif mutant == "source kept":
        monkeypatch.setattr(_site_edit, "write_norm_parameters", keep)
    else:
        monkeypatch.setattr(Draft, "absorb", scale_alone)
    change_all(after, np.random.default_rng(0))
    assert moved(model, after, token_feeds()) > 1e-3


def rotated(method: str, model: ir.Model, feeds: Sequence[Mapping[str, Any]], seed: int) -> Outcome:
    """Turn model by a method; what searches does so on feeds."""
    if method == "quarot":
        return Quarot(seed).apply(model, Context())
    return Duquant(steps=64, seed=seed).apply(model, Context(samples=feeds, evaluate=reference))


METHODS = ("quarot", "duquant")


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(spelling=SPELLINGS, seed=st.integers(0, 99), method=st.sampled_from(METHODS))
def test_turning_streams_and_heads_is_exact(spelling: Spelling, seed: int, method: str) -> None:
    model = in_double(transformer(spelling, seed))
    after = model.clone()
    outcome = rotated(method, after, [token_feeds(seed), token_feeds(seed + 1)], seed)
    streams = [n for n in outcome.changed if n.where.startswith("residual")]
    heads = [n for n in outcome.changed if n.where.startswith("values")]
    if method == "quarot":
        assert len(streams) == (0 if spelling.post_norm else 1)
        assert len(heads) == spelling.layers
    refused = [n.text for n in outcome.declined if not spelling.post_norm]
    assert all("makes its range smaller" in text for text in refused)
    assert moved(model, after, token_feeds(seed)) < EXACT
    if spelling.norm == "RMSNormalization":
        assert len(after.graph) == len(model.graph)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(spelling=SPELLINGS, seed=st.integers(0, 99), method=st.sampled_from(METHODS))
def test_operators_at_run_time_are_exact_behind_everything_else(
    spelling: Spelling, seed: int, method: str
) -> None:
    model = in_double(transformer(spelling, seed))
    after = model.clone()
    rotated(method, after, [token_feeds(seed)], seed)
    change_all(after, np.random.default_rng(seed))
    count = len(after.graph)
    outcome = OnlineHadamard(seed).apply(after, Context())
    sites = [n for n in outcome.changed if n.where != "graph"]
    assert len(sites) == 2 * spelling.layers  # heads and the down projection
    # Only a bias that was not there could add more than the operators themselves.
    assert len(after.graph) == count + len(sites)
    assert moved(model, after, token_feeds(seed)) < EXACT


@pytest.mark.parametrize("mutant", ["one reader", "one factor", "transposed"])
def test_planted_mutants_of_operators_are_seen(
    mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_double(transformer(Spelling(width=12, heads=2, gated=False)))
    after, mix_inputs, count = model.clone(), Draft.mix_inputs, [0]

    def mixed(layer: Draft, matrix: Any, inner: int = 1) -> None:
        count[0] += 1
        if mutant == "one reader" and layer.view.node.op_type == "MatMul" and count[0] > 2:
            return
        if mutant == "one factor" and inner == 1:
            return
        mix_inputs(layer, matrix.T if mutant == "transposed" else matrix, inner)

    monkeypatch.setattr(Draft, "mix_inputs", mixed)
    OnlineHadamard().apply(after, Context())
    assert moved(model, after, token_feeds()) > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [*STREAMS, VALUES_TO_OUTPUT])
def test_turned_streams_without_tokens_are_exact(body: str, method: str) -> None:
    given_model = example(body)
    model = in_double(given_model.model)
    after = model.clone()
    samples = [{"X": f["X"].astype(np.float64)} for f in given_model.ctx.samples]
    assert rotated(method, after, samples, 0).changed
    feeds = {"X": given_model.feeds["X"].astype(np.float64)}
    assert moved(model, after, feeds) < EXACT


@pytest.mark.parametrize("mutant", ["gain kept", "epsilon", "bias", "table", "one reader"])
def test_planted_mutants_of_rotations_are_seen(
    mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_double(transformer(Spelling(norm="LayerNormalization", tied=True)))
    after = model.clone()
    mix_outputs, mix_inputs, count = Draft.mix_outputs, Draft.mix_inputs, [0]

    def forget_bias(layer: Draft, matrix: Any, blocks: Any = None) -> None:
        bias = layer.bias
        mix_outputs(layer, matrix, blocks)
        layer.bias = bias

    def forget_one(layer: Draft, matrix: Any, inner: int = 1) -> None:
        count[0] += 1
        if count[0] != 2:
            mix_inputs(layer, matrix, inner)

    def keep_gain(norm: ir.Node) -> tuple[Any, Any]:
        gain, offset = norm_parameters(norm)
        return np.ones_like(gain), offset

    if mutant == "gain kept":
        monkeypatch.setattr(_rotate, "norm_parameters", keep_gain)
    elif mutant == "bias":
        monkeypatch.setattr(Draft, "mix_outputs", forget_bias)
    elif mutant == "one reader":
        monkeypatch.setattr(Draft, "mix_inputs", forget_one)
    Quarot().apply(after, Context())
    if mutant == "epsilon":
        norm = next(n for n in after.graph if n.op_type == "RMSNormalization")
        norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-5)
    elif mutant == "table":
        gather = next(n for n in after.graph if n.op_type == "Gather")
        table = tensor_of(next(n for n in model.graph if n.op_type == "Gather").inputs[0])
        assert table is not None
        gather.replace_input_with(0, add_constant(after.graph, "old", table))
    assert moved(model, after, token_feeds()) > 1e-7
