"""Recipes by name: what they ask for, and that all of them compile to what they say."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import pytest

import edgec
from edgec.compiler.core.errors import OptionError
from edgec.compiler.lowering.fusion import lower_fused
from edgec.compiler.lowering.kernels.gemm import Gemm
from edgec.compiler.recipes import RECIPES, ROTATIONS, RecipeName, asked_passes
from edgec.passes import discover
from tests.pairs import Op, normal, random_feeds
from tests.small import cnn, cnn_samples, save


def test_every_name_is_typed_and_every_pass_exists() -> None:
    assert tuple(RECIPES) == get_args(RecipeName)
    known = {p.name for p in discover()}
    assert all(known >= set(recipe.passes) for recipe in RECIPES.values())


def test_passes_are_joined_with_those_asked_for() -> None:
    assert asked_passes("w8a8-rotated", ("smooth-quant",)) == ("smooth-quant", *ROTATIONS)
    assert asked_passes("int8", ()) == ()


def compiled(recipe: str, tmp_path: Any) -> edgec.Artifact:
    op = Op(
        "(float[1,4,32] X) => (float[1,4,32] Y)",
        "R = MatMul (X, A) N = RMSNormalization (R, g) H = MatMul (N, B) G = Gelu (H) "
        "F = MatMul (G, C) S = Add (F, R) M = RMSNormalization (S, g) Y = MatMul (M, A)",
        {n: normal(32, 32, seed=i, scale=0.2) for i, n in enumerate("ABC")} | {"g": normal(32) + 2},
        opset=23,
    )
    return edgec.compile(
        save(op.model, tmp_path / "model.onnx"), target="host", output=tmp_path / "out",
        recipe=recipe, calibration=[random_feeds(op.model, seed) for seed in range(8)],
        wide_activations="never",
    )  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_run_on_the_kernels_they_promise(recipe: str, tmp_path: Any) -> None:
    artifact = compiled(recipe, tmp_path)
    program = lower_fused(ir.load(tmp_path / "out" / "model.quant.onnx"), recipe)
    kernels = [c.kernel.name for c in program.calls]
    assert ("hadamard" in kernels) == recipe.endswith("-rotated")
    layers = [c.kernel for c in program.calls if isinstance(c.kernel, Gemm)]
    assert any(k.int4 is not None for k in layers) == recipe.startswith("w4")
    assert artifact.check().passed


def test_a_recipe_that_finds_nothing_says_so(tmp_path: Any) -> None:
    model = save(cnn(), tmp_path / "cnn.onnx")
    data = [{"image": np.asarray(x[None])} for x in cnn_samples()]
    with pytest.raises(OptionError, match="pass 'quarot' was asked for but did nothing"):
        edgec.compile(
            model, target="host", output=tmp_path / "out", recipe="w8a8-rotated", calibration=data
        )
