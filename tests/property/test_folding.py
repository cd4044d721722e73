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

from edgec.passes import _site_edit
from edgec.passes._flow import SCALE, SHIFT
from edgec.passes._folding_examples import CHAINS, DECLINED, example, in_double, reference
from edgec.passes._linear import Draft
from edgec.passes._site_edit import rescale_site
from edgec.passes._structure import sites
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


def change_all(model: ir.Model, rng: np.random.Generator) -> int:
    """Scale and shift every channel that is said to be free; return how many sites changed."""
    count = 0
    for site in sites(model):
        scale = np.where(site.free[SCALE], rng.uniform(0.2, 5, site.channels), 1.0)
        shift = np.where(site.free[SHIFT], rng.standard_normal(site.channels), 0.0)
        if site.source.op_type == "RMSNormalization":
            shift = np.zeros_like(shift)
        if (scale != 1).any():
            assert rescale_site(site, scale, shift) is None
            count += 1
    return count


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(spelling=SPELLINGS, seed=st.integers(0, 99))
def test_scaling_and_shifting_free_channels_is_exact(spelling: Spelling, seed: int) -> None:
    model = in_double(transformer(spelling, seed))
    after = model.clone()
    assert change_all(after, np.random.default_rng(seed))
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
