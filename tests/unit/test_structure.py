"""Which channels may be changed inside the weights, and the reason wherever they may not."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.core.graph import model_from_text
from edgec.passes._flow import MIX, SCALE, SHIFT
from edgec.passes._folding_examples import (
    CLIPPED,
    CONV_CHAIN,
    CONVNEXT,
    NORM_IS_OUTPUT,
    POST_NORM,
    example,
)
from edgec.passes._structure import CHAIN, GATED, NORM, VALUES, Site, mixable, sites
from tests.families import Spelling, transformer


def found(spelling: Spelling) -> dict[str, list[Site]]:
    kinds: dict[str, list[Site]] = {}
    for site in sites(transformer(spelling)):
        kinds.setdefault(site.kind, []).append(site)
    return kinds


def test_a_llama_block_has_all_its_sites() -> None:
    kinds = found(Spelling(grouped=True, rope=True))
    assert {kind: len(group) for kind, group in kinds.items()} == {
        NORM: 3, VALUES: 1, GATED: 2, CHAIN: 5,
    }  # fmt: skip
    assert [len(site.sinks) for site in kinds[NORM]] == [3, 2, 1]
    (values,) = kinds[VALUES]
    assert values.width == 4 and mixable(values) is None
    # One key-value head of four channels serves both query heads.
    np.testing.assert_array_equal(values.sinks[0].channels, [0, 1, 2, 3, 0, 1, 2, 3])
    gate, up = sorted(kinds[GATED], key=lambda site: bool(site.free[SCALE].all()))
    assert "Sigmoid" in str(gate.refused(SCALE))
    assert up.refused(SCALE) is None and "multiplies every channel" in str(up.refused(SHIFT))


def test_of_fused_projections_only_the_values_are_free() -> None:
    (values,) = found(Spelling(fused=True))[VALUES]
    assert values.free[SCALE].tolist() == [False] * 16 + [True] * 8
    np.testing.assert_array_equal(values.sinks[0].channels, np.arange(16, 24))


@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization"])
def test_a_norm_that_is_the_residual_must_stay(norm: str) -> None:
    kinds = found(Spelling(norm=norm, post_norm=True))
    first, second, _ = kinds[NORM]
    assert "joins it with another activation" in str(first.refused(SCALE))
    assert "final' computes with it" in str(second.refused(SCALE))
    assert mixable(first) is not None and mixable(second) is not None
    assert kinds[VALUES][0].refused(SHIFT) is None


def chain(body: str) -> list[Site]:
    return list(sites(example(body).model))


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (POST_NORM, NORM, "joins it with another activation"),
        (NORM_IS_OUTPUT, NORM, "'Y' is an output of the model"),
        (CLIPPED, CHAIN, "Clip"),
        (CONVNEXT, CHAIN, "Gelu"),
    ],
)
def test_what_must_stay_says_why(body: str, kind: str, reason: str) -> None:
    refused = [str(s.refused(SCALE)) for s in chain(body) if s.kind == kind]
    assert any(reason in text for text in refused), refused


def test_convolutions_say_what_padding_and_groups_forbid() -> None:
    first, depthwise, last, _ = chain(CONV_CHAIN)
    assert first.refused(SCALE) is None and "is not linear" in str(first.refused(SHIFT))
    assert "works on groups" in " ".join(depthwise.reasons[MIX])
    assert last.refused(SHIFT) is None and mixable(last) is None


def test_a_padded_reader_forbids_shifts_alone() -> None:
    rng = np.random.default_rng(0)
    model = model_from_text(
        """<ir_version: 10, opset_import: ["" : 23]> m (float[1,2,4,4] X) => (float[1,2,4,4] Y) {
          A = Conv (X, W)  Y = Conv <pads = [1, 1, 1, 1]> (A, V) }""",
        W=rng.standard_normal((2, 2, 1, 1)).astype(np.float32),
        V=rng.standard_normal((2, 2, 3, 3)).astype(np.float32),
    )
    site = next(sites(model))
    assert "pads with zeros" in str(site.refused(SHIFT))
    assert site.refused(SCALE) is None and mixable(site) is None


def test_fused_attention_passes_its_values() -> None:
    rng = np.random.default_rng(0)
    model = model_from_text(
        """<ir_version: 10, opset_import: ["" : 23]> m (float[1,3,8] X) => (float[1,3,8] Y) {
          Q = MatMul (X, Wq)  K = MatMul (X, Wv)  V = MatMul (X, Wv)
          A = Attention <q_num_heads = 2, kv_num_heads = 1> (Q, K, V)  Y = MatMul (A, Wo) }""",
        Wq=rng.standard_normal((8, 8)).astype(np.float32),
        Wv=rng.standard_normal((8, 4)).astype(np.float32),
        Wo=rng.standard_normal((8, 8)).astype(np.float32),
    )
    queries, _, values, _ = sites(model)
    assert values.kind == VALUES and values.refused(SCALE) is None
    assert "takes products with another activation" in str(queries.refused(SCALE))
    np.testing.assert_array_equal(values.sinks[0].channels, [0, 1, 2, 3] * 2)
    assert values.width == 4
