"""The text of small networks in canonical form; EDGEC_UPDATE_GOLDEN=1 rewrites the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.graph import model_from_text, shape_of
from edgec.compiler.core.passbase import Context, Transform
from edgec.passes import discover

FOLDER = Path(__file__).parent / "passes"
PASSES = {p.name: p for p in discover() if isinstance(p, Transform)}
ORDER = (
    "fold_constants", "fuse_lstm", "expand_recurrent", "drop_transpose_pairs", "resolve_auto_pad",
    "fuse_pad", "fold_batchnorm",
    "fuse_layernorm", "fuse_rmsnorm", "decompose_unfused", "fold_scalars",
)  # fmt: skip


def number(value: float) -> NDArray[np.float32]:
    return np.full((), value, np.float32)


def cnn() -> ir.Model:
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (
            ("W1", (4, 3, 3, 3)), ("c", (4, 1, 1)), ("W2", (4, 1, 3, 3)), ("g", (4,)), ("b", (4,)),
            ("m", (4,)), ("W3", (4, 5)), ("b3", (5,)),
        )
    }  # fmt: skip
    return model_from_text(
        """<ir_version: 10, opset_import: ["" : 21]> cnn (float[1,8,8,3] X) => (float[1,5] Y) {
          scaled = Div (X, full)  image = Transpose <perm = [0, 3, 1, 2]> (scaled)
          conv1 = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (image, W1)
          biased = Add (conv1, c)  relu1 = Relu (biased)
          padded = Pad (relu1, around)
          conv2 = Conv <group = 4> (padded, W2)  norm2 = BatchNormalization (conv2, g, b, m, v)
          relu2 = Relu (norm2)  mean = ReduceMean <keepdims = 0> (relu2, spatial)
          logits = MatMul (mean, W3)  Y = Add (b3, logits)
        }""",
        v=np.ones(4, np.float32), full=number(255), spatial=np.array([2, 3]),
        around=np.array([0, 0, 1, 1, 0, 0, 1, 1]), **arrays,
    )  # fmt: skip


def _block(norm: str, **arrays: NDArray[Any]) -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal((8, 8)).astype(np.float32) for name in ("Wq", "Wk", "Wv", "Wo")
    }
    return model_from_text(
        f"""<ir_version: 10, opset_import: ["" : 21]> m (float[1,4,8] X) => (float[1,4,8] Y) {{
          {norm}
          q = MatMul (N, Wq)  qb = Add (bq, q)  q4 = Reshape (qb, heads)
          qt = Transpose <perm = [0, 2, 1, 3]> (q4)  qs = Mul (qt, scale)
          k = MatMul (N, Wk)  k4 = Reshape (k, heads)  kt = Transpose <perm = [0, 2, 3, 1]> (k4)
          v = MatMul (N, Wv)  v4 = Reshape (v, heads)  vt = Transpose <perm = [0, 2, 1, 3]> (v4)
          scores = MatMul (qs, kt)  p = Softmax (scores)  o4 = MatMul (p, vt)
          ot = Transpose <perm = [0, 2, 1, 3]> (o4)  o = Reshape (ot, joined)
          out = MatMul (o, Wo)  Y = Add (X, out)
        }}""",
        heads=np.array([1, 4, 2, 4]), joined=np.array([1, 4, 8]), scale=number(0.5),
        eps=number(1e-5), last=np.array([-1]), bq=np.ones(8, np.float32), **weights, **arrays,
    )  # fmt: skip


def layernorm_block() -> ir.Model:
    return _block(
        "M = ReduceMean (X, last)  D = Sub (X, M)  S = Pow (D, two)  V = ReduceMean (S, last) "
        "E = Add (V, eps)  R = Sqrt (E)  Z = Div (D, R)  G = Mul (Z, g)  N = Add (G, b)",
        two=number(2),
        g=np.full(8, 2, np.float32),
        b=np.ones(8, np.float32),
    )


def rmsnorm_block() -> ir.Model:
    return _block(
        "S = Mul (X, X)  V = ReduceMean (S, last)  E = Add (V, eps)  R = Sqrt (E) "
        "Z = Div (X, R)  N = Mul (Z, g)",
        g=np.full(8, 2, np.float32),
    )


def described(model: ir.Model) -> str:
    """One line per constant and node: names, shapes, attributes."""
    opsets = ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in sorted(model.opset_imports.items()))
    lines = [f"opset {opsets}"]
    for name, value in sorted(model.graph.initializers.items()):
        lines.append(f"constant {name} {value.dtype} {list(shape_of(value))}")
    for node in model.graph:
        inputs = ", ".join("" if v is None else str(v.name) for v in node.inputs)
        outputs = ", ".join(f"{v.name} {list(shape_of(v))}" for v in node.outputs)
        attributes = " ".join(f"{k}={a.value}" for k, a in sorted(node.attributes.items()))
        lines.append(f"{node.op_type}({inputs}) -> {outputs} {attributes}".rstrip())
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("build", [cnn, layernorm_block, rmsnorm_block])
def test_canonical_text(build: Callable[[], ir.Model]) -> None:
    model = build()
    for name in ORDER:
        PASSES[name].apply(model, Context())
    path, found = FOLDER / f"{build.__name__}.txt", described(model)
    if os.environ.get("EDGEC_UPDATE_GOLDEN") == "1":
        path.write_text(found)
    assert path.exists(), f"no golden file: run with EDGEC_UPDATE_GOLDEN=1 to write '{path}'"
    assert found == path.read_text(), "run with EDGEC_UPDATE_GOLDEN=1 if this is intended"
