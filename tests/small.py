"""A small convolutional network in every form users bring, and what to run it with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgec.compiler.cli import cli
from edgec.compiler.core.graph import model_from_text
from tests.pairs import normal, pipeline_quantised, single

Array = NDArray[Any]

_CNN = """<ir_version: 8, opset_import: ["" : 17]> cnn
    (float[batch, 2, 8, 8] image) => (float[batch, 5] scores) {
    c = Conv<pads = [1, 1, 1, 1]>(image, w, b)
    r = Relu(c)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    f = Flatten(p)
    scores = Gemm<transB = 1>(f, v, u)
}"""
# w, v: int8 weights of scale 0.01; the input is uint8 codes of scale 0.02, zero point 128.
_QOPERATOR = """<ir_version: 8, opset_import: ["" : 17]> qop
    (uint8[1, 2, 8, 8] codes) => (uint8[1, 3, 8, 8] answer) {
    answer = QLinearConv<pads = [1, 1, 1, 1]>(codes, xs, xz, w, ws, wz, ys, yz, b)
}"""

# SUM stands for the sum of h and d, in either order.
RESIDUAL = """<ir_version: 8, opset_import: ["" : 17]> m
    (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    h = Relu(a)
    b = Conv<pads = [1, 1, 1, 1]>(h, w)
    c = Relu(b)
    d = Conv<pads = [1, 1, 1, 1]>(c, w)
    s = SUM
    r = Relu(s)
    y = Conv<pads = [1, 1, 1, 1]>(r, w)
}"""


def cnn() -> ir.Model:
    """Return Conv, Relu, MaxPool, Gemm with seeded weights and an open batch axis."""
    return model_from_text(
        _CNN,
        w=normal(4, 2, 3, 3, seed=1, scale=0.3), b=normal(4, seed=2, scale=0.1),
        v=normal(5, 64, seed=3, scale=0.2), u=normal(5, seed=4, scale=0.1),
    )  # fmt: skip


def cnn_samples(count: int = 16, seed: int = 0) -> Array:
    """Return seeded images [count, 2, 8, 8]."""
    return normal(count, 2, 8, 8, seed=100 + seed)


def qdq_cnn() -> ir.Model:
    """Return the network with QuantizeLinear and DequantizeLinear in it."""
    samples = [{"image": x[None]} for x in cnn_samples()]
    model = cnn()
    model.graph.inputs[0].shape = ir.Shape([1, 2, 8, 8])
    return pipeline_quantised(model, samples)


def qoperator() -> ir.Model:
    """Return a QLinearConv from uint8 codes to uint8 codes."""
    rng = np.random.default_rng(5)
    return model_from_text(
        _QOPERATOR,
        xs=single(0.02), xz=np.array(128, np.uint8),
        w=rng.integers(-64, 65, (3, 2, 3, 3)).astype(np.int8),
        ws=single(0.01), wz=np.array(0, np.int8),
        ys=single(0.03), yz=np.array(120, np.uint8),
        b=np.arange(-100, 200, 100).astype(np.int32),
    )  # fmt: skip


def save(model: ir.Model, path: Path) -> Path:
    """Write model to path and return path."""
    onnx.save(ir.to_proto(model), path)
    return path


def write_cnn(folder: Path) -> tuple[Path, Path]:
    """Write cnn.onnx and labelled calibration data into folder; returns both paths."""
    model, data = save(cnn(), folder / "cnn.onnx"), folder / "data.npz"
    np.savez(data, allow_pickle=False, image=cnn_samples(), labels=np.arange(16) % 5)
    return model, data


def edgec(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def good(*arguments: object) -> Result:
    """Run the command line and demand that it ends well."""
    result = edgec(*arguments)
    assert result.exit_code == 0, result.output
    return result


def good_json(*arguments: object) -> Any:
    """Run a verb with --json, demand that it ends well and return its object."""
    return json.loads(good(*arguments, "--json").stdout)
