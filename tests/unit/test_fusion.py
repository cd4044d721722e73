"""Residual sums join the kernel before them: same bits, less memory, only where that is so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.graph import model_from_text
from edgec.compiler.lowering.fusion import fuse_residuals, join_sums
from edgec.compiler.lowering.lower import lower
from edgec.compiler.lowering.memory import plan_arena
from edgec.compiler.lowering.program import Program
from tests.pairs import normal, pipeline_quantised, random_feeds
from tests.small import RESIDUAL

HEAD = '<ir_version: 8, opset_import: ["" : 17]> m (float[1, 4, 8, 8] x) => '


def block(text: str, **arrays: NDArray[Any]) -> Program:
    """Return the program of a small float model, quantised on seeded images."""
    model = model_from_text(text, w=normal(4, 4, 3, 3, seed=1, scale=0.3), **arrays)
    return lower(pipeline_quantised(model, [random_feeds(model, s) for s in range(3)]))


def kernels(program: Program) -> list[str]:
    """Return what is called, the changes of layout at both ends apart."""
    return [c.kernel.name for c in program.calls if c.kernel.name != "copy"]


def answers(program: Program) -> Mapping[str, NDArray[Any]]:
    codes = np.random.default_rng(0).integers(-128, 128, program.inputs[0].shape).astype(np.int8)
    return program.interpret({program.inputs[0].name: codes})


@pytest.mark.parametrize("total", ["Add(d, h)", "Add(h, d)"])
def test_a_residual_block_needs_no_memory_for_its_branch(total: str) -> None:
    plain = block(RESIDUAL.replace("SUM", total))
    fused = fuse_residuals(plain)
    assert kernels(plain) == ["conv2d", "conv2d", "conv2d", "add", "conv2d"]
    assert kernels(fused) == ["conv2d", "conv2d", "linear_add", "conv2d"]
    np.testing.assert_array_equal(answers(fused)["y"], answers(plain)["y"])
    before, after = (plan_arena(p, "generic").size_bytes for p in (plain, fused))
    assert after < before
    assert set(fused.buffers) < set(plain.buffers) and set(fused.origins) <= set(fused.buffers)
    nodes = {c.kernel.name: c.nodes for c in fused.calls}["linear_add"]
    assert [n.split()[0] for n in nodes] == ["Conv", "Add"]


def test_of_two_convolutions_the_later_one_takes_the_sum() -> None:
    text = RESIDUAL.replace("s = SUM", "e = Conv(h, p)\n    s = Add(d, e)")
    plain = block(text, p=normal(4, 4, 1, 1, seed=3))
    joined = join_sums(plain)
    assert kernels(joined) == ["conv2d", "conv2d", "conv2d", "linear_add", "conv2d"]
    np.testing.assert_array_equal(answers(joined)["y"], answers(plain)["y"])
    # Its input lives on for it, so nothing is gained here.
    assert fuse_residuals(plain) is plain


@pytest.mark.parametrize(
    ("total", "outputs"),
    [
        ("Add(d, d)", "(float[1, 4, 8, 8] y)"),
        ("Add(d, h)", "(float[1, 4, 8, 8] y, float[1, 4, 8, 8] d)"),
        ("Mul(d, h)", "(float[1, 4, 8, 8] y)"),
        ("Add(d, k)", "(float[1, 4, 8, 8] y)"),
    ],
)
def test_what_cannot_join_stays(total: str, outputs: str) -> None:
    text = RESIDUAL.replace("SUM", total).replace("(float[1, 4, 8, 8] y)", outputs, 1)
    plain = block(text, k=normal(1, 4, 1, 1, seed=5)) if "k)" in total else block(text)
    assert join_sums(plain) is plain
