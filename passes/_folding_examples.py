"""Small networks with outlier channels, for the examples of the passes that fold into weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..compiler.core.encoding import F32
from ..compiler.core.graph import model_from_text, tensor_of
from ..compiler.core.passbase import Context, Example

ROWS, IMAGE = "float[1,6,8] X", "float[1,8,6,6] X"
SPLIT = "Reshape (V, heads)  T = Transpose <perm = [0, 2, 1, 3]> (S)"

NORM_TO_LAYERS = """N = LayerNormalization <epsilon = 1e-3> (X, g, b)
  Q = MatMul (N, W)  K = MatMul (N, W2)  A = Add (c, K)  Y = Add (Q, A)"""
RMS_TO_GATED = """N = RMSNormalization (X, g)  G = MatMul (N, W)  U = MatMul (N, W2)
  S = Sigmoid (G)  A = Mul (G, S)  P = Mul (A, U)  Y = MatMul (P, W3)"""
VALUES_TO_OUTPUT = f"""Q = MatMul (X, W)  QS = Reshape (Q, heads)
  QT = Transpose <perm = [0, 2, 1, 3]> (QS)  KT = Transpose <perm = [0, 2, 3, 1]> (QS)
  D = MatMul (QT, KT)  P = Softmax (D)  M = MatMul (X, Wout)  V = Add (M, c)  S = {SPLIT}
  O = MatMul (P, T)  OT = Transpose <perm = [0, 2, 1, 3]> (O)  C = Reshape (OT, rows)
  Y = MatMul (C, W3)"""
# Layers behind an activation function: one of 12 channels, one whose rows are reshaped before it.
ACTIVATED = """H = MatMul (X, Wup)  A = Gelu (H)  D = MatMul (A, Wdown)  R = Relu (D)
  F = Reshape (R, flat)  S = Gemm (F, W, c)  Y = Reshape (S, rows)"""
CONV_CHAIN = """A = Conv <pads = [1, 1, 1, 1]> (X, C1, cout)  R = Relu (A)
  D = Conv <group = 8, pads = [1, 1, 1, 1]> (R, Cd)  L = LeakyRelu (D)
  B = Conv <strides = [2, 2], dilations = [2, 2]> (L, C2)
  P = GlobalAveragePool (B)  F = Flatten (P)  Y = Gemm <transB = 1, alpha = 0.5> (F, W, c)"""
# Streams of both kinds of norm, with LayerScale folded already, and a linear bottleneck.
CENTRED_STREAM = """R = MatMul (X, W)  N = LayerNormalization <epsilon = 1e-2> (R, g, b)
  H = MatMul (N, W2)  A = Add (c, H)  G = Gelu (A)  F = MatMul (G, W3)  B = Add (F, c)
  S = Add (R, B)  P = Add (row, S)  M = LayerNormalization (P, g2)  K = MatMul (M, W)
  Y = Add (K, c)"""
PLAIN_STREAM = """R = MatMul (X, W)  N = RMSNormalization <epsilon = 1e-2> (R, g)
  H = MatMul (N, W2)  G = Gelu (H)  F = MatMul (G, W3)  S = Add (F, R)
  M = RMSNormalization (S, g2)  Y = MatMul (M, W)"""
BOTTLENECK = """A = Conv (X, P1, c)  E = Conv (A, P2)  R = Clip (E, zero, six)  B = Conv (R, P1)
  S = Add (A, B)  D = Conv (S, P2)  P = GlobalAveragePool (D)  F = Flatten (P)  Y = Relu (F)"""
STREAMS = (CENTRED_STREAM, PLAIN_STREAM, BOTTLENECK)

# On each of these a channel of what a layer reads is far larger than the others.
CHAINS = (NORM_TO_LAYERS, RMS_TO_GATED, VALUES_TO_OUTPUT, CONV_CHAIN)

POST_NORM = """N = LayerNormalization (X, g, b)  H = MatMul (N, W)  R = Relu (H)
  F = MatMul (R, Weven)  A = Add (N, F)  Y = LayerNormalization (A, g2)"""
NORM_IS_OUTPUT = "Y = RMSNormalization (X, g)  H = MatMul (Y, W)  Z = Clip (H, zero, six)"
CLIPPED = """A = Conv <pads = [1, 1, 1, 1]> (X, C1, cout)  R = Clip (A, zero, six)
  B = Conv <pads = [1, 1, 1, 1]> (R, C2)  P = GlobalAveragePool (B)  F = Flatten (P)
  Y = HardSwish (F)"""
CONVNEXT = """D = Conv <group = 8, pads = [1, 1, 1, 1]> (X, Cd)
  T = Transpose <perm = [0, 2, 3, 1]> (D)  N = LayerNormalization (T, g, b)
  H = MatMul (N, W)  G = Gelu (H)  F = MatMul (G, W2)
  B = Transpose <perm = [0, 3, 1, 2]> (F)  Y = Add (X, B)"""
# A stream whose norms disagree about its mean, and one that is an output too.
MIXED_NORMS = """R = MatMul (X, W)  N = LayerNormalization (R, g, b)  H = MatMul (N, W2)
  S = Add (R, H)  M = RMSNormalization (S, g2)  Y = MatMul (M, W3)"""
STREAM_IS_OUTPUT = """R = MatMul (X, W)  N = RMSNormalization (R, g)  H = MatMul (N, W2)
  Y = Add (R, H)"""
UNTURNED = (POST_NORM, CONVNEXT, MIXED_NORMS, STREAM_IS_OUTPUT, "Y = Softmax (X)")
DECLINED = (NORM_IS_OUTPUT, CLIPPED, "Y = Softmax (X)")


def weights() -> Mapping[str, NDArray[Any]]:
    """Return the constants the bodies use; `g`, `Wout` and `C1` make outlier channels."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    outliers = np.ones(8, np.float32)
    outliers[[1, 6]] = 60
    arrays: dict[str, NDArray[Any]] = {
        "g": (normal(8) * 0.1 + 1) * outliers, "b": normal(8) * outliers, "g2": normal(8) + 2,
        "W": normal(8, 8), "W2": normal(8, 8) * outliers, "W3": normal(8, 8), "c": normal(8),
        "Weven": normal(8, 8), "Wout": normal(8, 8) * outliers, "cout": normal(8) * outliers,
        "C1": normal(8, 8, 3, 3) * outliers.reshape(-1, 1, 1, 1),
        "Cd": normal(8, 1, 3, 3) * outliers.reshape(-1, 1, 1, 1), "C2": normal(8, 8, 2, 2),
        "P1": normal(8, 8, 1, 1), "P2": normal(8, 8, 1, 1), "row": normal(1, 6, 8),
        "Wup": normal(8, 12), "Wdown": normal(12, 8), "flat": np.array([6, 8]),
        "heads": np.array([1, 6, 2, 4]), "rows": np.array([1, 6, 8]),
        "zero": np.zeros((), np.float32), "six": np.full((), 6, np.float32),
    }  # fmt: skip
    return arrays


def example(body: str, *, fires: bool = True, measured: bool = True) -> Example:
    """Return the network of body with calibration samples, if it is to be measured."""
    rng = np.random.default_rng(1)
    image = "Conv" in body
    shape = (1, 8, 6, 6) if image else (1, 6, 8)
    outputs = _outputs(body, image)
    arrays = {n: a for n, a in weights().items() if n in _words(body)}
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 23]> m ({IMAGE if image else ROWS}) '
        f"=> ({outputs}) {{ {body} }}",
        **arrays,
    )
    samples = [{"X": rng.standard_normal(shape).astype(np.float32)} for _ in range(8)]
    ctx = Context(samples=samples, evaluate=reference) if measured else Context()
    return Example(model, samples[0], ctx, fires)


def _words(body: str) -> set[str]:
    return set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())


def _outputs(body: str, image: bool) -> str:
    last = "1,8" if "Flatten" in body else "1,8,6,6" if image else "1,6,8"
    extra = ", float[1,6,8] Z" if "Z = " in body else ""
    return f"float[{last}] Y{extra}"


def reference(
    model: ir.Model, samples: Sequence[Mapping[str, NDArray[Any]]], names: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield values of a model per sample, by ONNX's own evaluator and in the model's precision."""
    from onnx.reference import ReferenceEvaluator

    proto = ir.to_proto(model)
    known = {v.name for v in proto.graph.input}
    types = {v.name: v for v in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    types |= {v.name: v for v in proto.graph.output}
    computed = [n for n in names if n not in known]
    del proto.graph.output[:]
    proto.graph.output.extend(types[n] for n in computed)
    evaluator = ReferenceEvaluator(proto)
    for feeds in samples:
        with np.errstate(all="ignore"):
            results = evaluator.run(None, dict(feeds))
        yield {**{n: feeds[n] for n in names if n in known},
               **{n: np.asarray(r) for n, r in zip(computed, results, strict=True)}}  # fmt: skip


def in_double(model: ir.Model) -> ir.Model:
    """Return a copy of model whose float constants, inputs and outputs are float64."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        data = tensor_of(value)
        if data is not None and data.dtype == np.float32:
            value.const_value = ir.tensor(data.astype(np.float64), name=value.name)
            value.type = ir.TensorType(ir.DataType.DOUBLE)
    values = [*copy.graph.inputs, *(v for node in copy.graph for v in node.outputs)]
    for value in values:
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(ir.DataType.DOUBLE)
    return copy
