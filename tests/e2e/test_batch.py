"""A model whose batch is open, compiled for four samples at once: the bits of four single runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.compiler.core.graph import model_from_text
from tests.pairs import normal
from tests.small import cnn, good, good_json, save

BATCH = 4
TARGETS = [
    "host",
    pytest.param("aarch64", marks=pytest.mark.qemu_aarch64),
    pytest.param("cortex-m4", marks=pytest.mark.qemu_cortex_m),
    pytest.param("cortex-m55", marks=pytest.mark.qemu_cortex_m),
]
_ENCODER = """<ir_version: 8, opset_import: ["" : 17]> encoder
    (float[batch, 6, 8] tokens) => (float[batch, 6, 8] answer) {
    q = MatMul(tokens, wq)
    k = MatMul(tokens, wk)
    t = Transpose<perm = [0, 2, 1]>(k)
    s = MatMul(q, t)
    p = Softmax<axis = -1>(s)
    v = MatMul(p, tokens)
    r = Add(v, tokens)
    answer = LayerNormalization<axis = -1>(r, gamma, beta)
}"""


def encoder() -> ir.Model:
    """Return one head of attention, a sum and a norm, over an open batch."""
    return model_from_text(
        _ENCODER,
        wq=normal(8, 8, seed=1, scale=0.4), wk=normal(8, 8, seed=2, scale=0.4),
        gamma=normal(8, seed=3, scale=0.1) + 1, beta=normal(8, seed=4, scale=0.1),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], ir.Model], tuple[int, ...]]] = {
    "cnn": (cnn, (2, 8, 8)),
    "encoder": (encoder, (6, 8)),
}


def answers(out: Path, data: Path) -> np.ndarray:
    """Return the output of an artifact, all samples one after the other."""
    saved = out.with_suffix(".npz")
    good("run", out, "--input", data, "-o", saved)
    with np.load(saved) as stored:
        (name,) = stored.files
        found = stored[name]
    return found.reshape(-1, *found.shape[2:])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_has_the_bits_of_single_runs(target: str, name: str, tmp_path: Path) -> None:
    make, shape = MODELS[name]
    model = save(make(), tmp_path / "model.onnx")
    (given,) = onnx.load(model).graph.input
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
    samples = normal(16, *shape, seed=7)
    data = tmp_path / "data.npz"
    np.savez(data, allow_pickle=False, **{given.name: samples})
    found: dict[int, np.ndarray] = {}
    for batch in (1, BATCH):
        out = tmp_path / f"batch{batch}"
        good(
            "compile", model, "--target", target, "-o", out, "--calibration", data,
            "--calibration-method", "minmax",
            "--shape", f"{given.name}={batch},{','.join(map(str, shape))}",
        )  # fmt: skip
        verdict = good_json("check", out)
        assert verdict["passed"] and verdict["quantised"]["same_bits"]
        found[batch] = answers(out, data)
    assert found[1].shape[0] == len(samples) and np.ptp(found[1]) > 0
    np.testing.assert_array_equal(found[1], found[BATCH])
