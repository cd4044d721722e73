"""The canonical form of every trained model: same function, fewer kinds of operators."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgec.compiler.core.graph import label, shape_of
from edgec.compiler.core.passbase import Context, Transform
from edgec.compiler.frontend.load import load
from edgec.compiler.frontend.opset import upgrade
from edgec.compiler.frontend.reference import Reference
from edgec.passes import discover

PASSES = {p.name: p for p in discover() if isinstance(p, Transform)}
CANONICAL = (
    "fold_constants", "fuse_lstm", "expand_recurrent", "drop_transpose_pairs", "resolve_auto_pad",
    "fuse_pad", "fold_batchnorm",
    "fuse_layernorm", "fuse_rmsnorm", "decompose_unfused", "fold_scalars",
)  # fmt: skip
ROUNDS = 4
RELATIVE_ERROR = 1e-5
SEEDS = (0, 1)

# All operators of the canonical form; what is not listed has to be gone.
EXPECTED: dict[str, dict[str, int]] = {
    "autoencoder_toycar": {"Gemm": 10, "Relu": 9},
    "digits_cnn_bn": {
        "Conv": 4, "Relu": 2, "Clip": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    },
    "digits_vit_prenorm": {
        "Conv": 1, "Reshape": 17, "Transpose": 17, "Concat": 1, "Add": 37, "MatMul": 32,
        "LayerNormalization": 9, "Mul": 16, "Softmax": 4, "Erf": 4, "Gather": 1, "Gemm": 1,
    },
    "dscnn_kws": {
        "Conv": 9, "Relu": 9, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1,
    },
    "dtln_1": {
        "Transpose": 4, "Slice": 4, "Squeeze": 2, "Unsqueeze": 2, "Reshape": 4, "LSTM": 2,
        "MatMul": 1, "Add": 1, "Concat": 3, "Sigmoid": 1,
    },
    "dtln_2": {
        "Transpose": 6, "Slice": 4, "Conv": 2, "LayerNormalization": 1, "Reshape": 6, "LSTM": 2,
        "Concat": 3, "Unsqueeze": 2, "MatMul": 1, "Add": 1, "Sigmoid": 1, "Mul": 1,
    },
    "hello_world_sine": {"Gemm": 3, "Relu": 2},
    "kwt1_kws": {
        "MatMul": 97, "Add": 86, "Concat": 1, "Reshape": 48, "Transpose": 48, "Mul": 84,
        "Softmax": 12, "LayerNormalization": 24, "Tanh": 12, "Gather": 1, "Gemm": 1,
    },
    "llama_stories260k_decode": {
        "Gather": 3, "Greater": 1, "Where": 11, "Equal": 1, "Reshape": 31, "Mul": 35, "Add": 25,
        "RMSNormalization": 11, "MatMul": 46, "Transpose": 25, "Split": 10, "Neg": 10,
        "Concat": 10, "Unsqueeze": 10, "Expand": 10, "Softmax": 5, "Sigmoid": 5,
    },
    "llama_stories260k_prefill": {
        "Gather": 1, "Mul": 35, "Add": 25, "RMSNormalization": 11, "MatMul": 46, "Reshape": 30,
        "Transpose": 25, "Split": 10, "Neg": 10, "Concat": 10, "Unsqueeze": 10, "Expand": 10,
        "Softmax": 5, "Sigmoid": 5,
    },
    "lstm_mnist": {
        "Transpose": 2, "LSTM": 1, "Squeeze": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1,
    },
    "minilm_l6_v2_trim_s64_fp16store": {
        "Cast": 1, "Gather": 1, "Add": 61, "LayerNormalization": 13, "Unsqueeze": 2, "Sub": 1,
        "Mul": 26, "MatMul": 48, "Reshape": 24, "Transpose": 24, "Softmax": 6, "Erf": 6,
        "ReduceSum": 2, "Div": 1, "RMSNormalization": 1,
    },
    "mnist_cnn": {"Conv": 2, "Relu": 2, "MaxPool": 2, "Reshape": 1, "MatMul": 1, "Add": 1},
    "mobilenetv1_025_vww96": {
        "Conv": 27, "Relu": 27, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1,
    },
    "mobilenetv2_224_int8grid": {
        "Conv": 53, "Clip": 35, "Add": 10, "GlobalAveragePool": 1, "Flatten": 1, "Softmax": 1,
    },
    "resnet8_cifar10": {
        "Conv": 9, "Relu": 7, "Add": 3, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
        "Softmax": 1,
    },
}  # fmt: skip


def loaded(shared: Path, name: str) -> ir.Model:
    model = load(shared / "models" / "onnx" / f"{name}.onnx").model
    upgrade(model)
    return model


def canonical(model: ir.Model) -> ir.Model:
    """Return a copy in canonical form; the last round has to find nothing to do."""
    after = model.clone()
    rounds = [
        [n for name in CANONICAL for n in PASSES[name].apply(after, Context()).changed]
        for _ in range(ROUNDS)
    ]
    assert not rounds[-1], f"still changing in round {ROUNDS}"
    return after


def random_feeds(model: ir.Model, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.inputs:
        assert value.name is not None and value.dtype is not None
        shape, dtype = shape_of(value), value.dtype.numpy()
        if value.dtype.is_floating_point():
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
        elif "mask" in value.name:
            feeds[value.name] = (np.arange(shape[-1]) < shape[-1] // 2).astype(dtype)[None]
        else:  # token numbers and positions
            feeds[value.name] = rng.integers(0, 200, shape).astype(dtype)
    return feeds


def relative_error(before: ir.Model, after: ir.Model, seed: int) -> float:
    feeds = random_feeds(before, seed)
    expected, found = Reference(before).run(feeds), Reference(after).run(feeds)
    assert list(expected) == list(found)
    return max(
        float(np.abs(a.astype(np.float64) - found[name]).max() / np.abs(a).max())
        for name, a in expected.items()
    )


def operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph))


@pytest.mark.real
def test_every_trained_model_is_listed(shared: Path) -> None:
    assert {p.stem for p in (shared / "models" / "onnx").glob("*.onnx")} == set(EXPECTED)


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_canonical_form(name: str, shared: Path) -> None:
    model = loaded(shared, name)
    after = canonical(model)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    errors = [relative_error(model, after, seed) for seed in SEEDS]
    print(f"{name}: relative error {max(errors):.1e}, {operators(model)} -> {operators(after)}")
    assert max(errors) <= RELATIVE_ERROR
    assert operators(after) == EXPECTED[name]
    for node in after.graph:
        for value in node.outputs:
            shape_of(value)


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_cross_layer_equalisation(name: str, shared: Path) -> None:
    model = canonical(loaded(shared, name))
    after = model.clone()
    outcome = PASSES["cross_layer_equalisation"].apply(after, Context())
    assert outcome.changed or outcome.declined
    assert relative_error(model, after, SEEDS[0]) <= RELATIVE_ERROR


@pytest.mark.real
def test_convolutions_are_explicit_and_batchnorm_free(shared: Path) -> None:
    for name in ("mnist_cnn", "digits_cnn_bn", "resnet8_cifar10"):
        for node in canonical(loaded(shared, name)).graph:
            assert "auto_pad" not in node.attributes, label(node)
            if node.op_type == "Conv":
                assert len(node.attributes.get_ints("pads", ())) == 4, label(node)
                assert node.inputs[2] is not None, label(node)


@pytest.mark.real
def test_half_precision_weights_become_float32(shared: Path) -> None:
    after = canonical(loaded(shared, "minilm_l6_v2_trim_s64_fp16store"))
    kinds = Counter(value.dtype for value in after.graph.initializers.values())
    assert kinds[ir.DataType.FLOAT16] == 0 and kinds[ir.DataType.FLOAT] >= 38
