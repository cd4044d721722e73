"""Any small network means the same after every pass, after all of them, and after all again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgec.compiler.core.passbase import Context, Effect, Transform
from edgec.compiler.frontend.reference import Reference
from edgec.passes import discover

EQUIVALENT = {
    p.name: p for p in discover() if isinstance(p, Transform) and p.effect is Effect.EQUIVALENT
}
CANONICAL = (
    "fold_constants", "drop_transpose_pairs", "resolve_auto_pad", "fuse_pad", "fold_batchnorm",
    "fuse_layernorm", "fuse_rmsnorm", "decompose_unfused", "fold_scalars",
)  # fmt: skip
ROUNDS = 4
RELATIVE_ERROR = 1e-5

Shape = tuple[int, ...]


@dataclass
class Net:
    """A chain of nodes that is being built; `value` and `shape` are its end."""

    rng: np.random.Generator
    value: str
    shape: Shape
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])

    def constant(self, data: NDArray[Any]) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = data
        return name

    def weights(self, *shape: int) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        data = self.rng.standard_normal(shape) / np.sqrt(fan_in)
        return self.constant(data.astype(np.float32))

    def around_one(self, *shape: int) -> str:
        signs = self.rng.choice([-1.0, 1.0], shape)
        return self.constant((signs * self.rng.uniform(0.5, 2, shape)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(0.5, 2, shape).astype(np.float32))

    def add(self, op_type: str, *inputs: str, shape: Shape | None = None, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op_type, list(inputs), [name], name, **attributes))
        self.value, self.shape = name, shape or self.shape
        return name


Layer = Callable[[Net, st.DataObject], object]


def conv(net: Net, data: st.DataObject) -> None:
    n, c, h, w = net.shape
    groups = data.draw(st.sampled_from([1, c]))
    out = c * data.draw(st.sampled_from([1, 2])) if groups > 1 else data.draw(st.integers(1, 5))
    inputs = [net.value, net.weights(out, c // groups, 3, 3)]
    if data.draw(st.booleans()):
        inputs.append(net.weights(out))
    mode = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "pads", "plain"]))
    if mode == "plain" and min(h, w) > 3:
        net.add("Conv", *inputs, shape=(n, out, h - 2, w - 2), group=groups)
    elif mode.startswith("SAME"):
        strides = data.draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
        shape = (n, out, -(-h // strides[0]), -(-w // strides[1]))
        net.add("Conv", *inputs, shape=shape, group=groups, auto_pad=mode, strides=strides)
    else:
        net.add("Conv", *inputs, shape=(n, out, h, w), group=groups, pads=[1, 1, 1, 1])


def batchnorm(net: Net, data: st.DataObject) -> None:
    c = net.shape[1]
    statistics = [net.around_one(c), net.weights(c), net.weights(c), net.positive(c)]
    net.add("BatchNormalization", net.value, *statistics, epsilon=1e-3)


def arithmetic(net: Net, data: st.DataObject) -> None:
    op_type = data.draw(st.sampled_from(["Mul", "Div", "Add", "Sub"]))
    channels = net.shape[1] if data.draw(st.booleans()) else 1
    operand = net.around_one(channels, *[1] * (len(net.shape) - 2))
    swap = op_type != "Div" and data.draw(st.booleans())
    net.add(op_type, *((operand, net.value) if swap else (net.value, operand)))


def activation(net: Net, data: st.DataObject) -> None:
    op_type = data.draw(st.sampled_from(["Relu", "LeakyRelu", "Identity", "Sigmoid", "Clip"]))
    bounds = [net.constant(np.float32(b) * np.ones((), np.float32)) for b in (0, 6)]
    net.add(op_type, net.value, *(bounds if op_type == "Clip" else ()))


def pad_and_pool(net: Net, data: st.DataObject) -> None:
    n, c, h, w = net.shape
    pads = net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    net.add("Pad", net.value, pads, shape=(n, c, h + 2, w + 2))
    op_type = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    net.add(op_type, net.value, shape=(n, c, h, w), kernel_shape=[3, 3])


def detour(net: Net, data: st.DataObject) -> None:
    """Turn and come back, or partly back and then the rest."""
    n, c, h, w = net.shape
    net.add("Transpose", net.value, perm=[0, 2, 3, 1], shape=(n, h, w, c))
    if data.draw(st.booleans()):
        net.add("Transpose", net.value, perm=[0, 2, 1, 3], shape=(n, w, h, c))
        net.add("Transpose", net.value, perm=[0, 3, 2, 1], shape=(n, c, h, w))
    else:
        net.add("Transpose", net.value, perm=[0, 3, 1, 2], shape=(n, c, h, w))


def residual(net: Net, data: st.DataObject) -> None:
    before = net.value
    net.add("Relu", before)
    net.add("Add", before, net.value)


def dense(net: Net, data: st.DataObject) -> None:
    rows, columns = net.shape
    out = data.draw(st.integers(1, 6))
    if data.draw(st.booleans()):
        alpha, beta = data.draw(st.sampled_from([(1.0, 1.0), (0.5, 2.0)]))
        weights, bias = net.weights(out, columns), net.weights(out)
        factors = {"transB": 1, "alpha": alpha, "beta": beta}
        net.add("Gemm", net.value, weights, bias, shape=(rows, out), **factors)
    else:
        net.add("MatMul", net.value, net.weights(columns, out), shape=(rows, out))


def norm(net: Net, data: st.DataObject) -> None:
    rows, columns = net.shape
    axis, epsilon = net.constant(np.array([1])), net.constant(np.full((), 1e-2, np.float32))
    x, column = net.value, (rows, 1)
    if data.draw(st.booleans()):
        mean = net.add("ReduceMean", x, axis, shape=column)
        x = net.add("Sub", x, mean, shape=(rows, columns))
    square = net.add("Mul", x, x)
    mean = net.add("ReduceMean", square, axis, shape=column)
    root = net.add("Sqrt", net.add("Add", mean, epsilon))
    net.add("Div", x, root, shape=(rows, columns))
    if data.draw(st.booleans()):
        net.add("Mul", net.value, net.around_one(columns))


IMAGE: tuple[Layer, ...] = (conv, batchnorm, arithmetic, activation, pad_and_pool, detour, residual)
ROWS: tuple[Layer, ...] = (dense, batchnorm, arithmetic, activation, norm, residual)


def flatten(net: Net, data: st.DataObject) -> None:
    n, c, h, w = net.shape
    kind = data.draw(st.sampled_from(["Flatten", "GlobalAveragePool", "ReduceMean"]))
    if kind == "Flatten":
        net.add("Flatten", net.value, shape=(n, c * h * w))
    elif kind == "ReduceMean":
        axes = net.constant(np.array([2, 3]))
        net.add("ReduceMean", net.value, axes, shape=(n, c), keepdims=0)
    else:
        net.add("GlobalAveragePool", net.value, shape=(n, c, 1, 1))
        net.add("Flatten", net.value, shape=(n, c))


def network(data: st.DataObject) -> tuple[ir.Model, dict[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    start = (2, data.draw(st.integers(1, 4)), 6, 5)
    net = Net(rng, "x", start)
    for layer in data.draw(st.lists(st.sampled_from(IMAGE), min_size=1, max_size=6)):
        layer(net, data)
    flatten(net, data)
    for layer in data.draw(st.lists(st.sampled_from(ROWS), max_size=5)):
        layer(net, data)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, start)
    y = onnx.helper.make_tensor_value_info(net.value, onnx.TensorProto.FLOAT, net.shape)
    weights = [onnx.numpy_helper.from_array(a, name) for name, a in net.arrays.items()]
    graph = onnx.helper.make_graph(net.nodes, "net", [x], [y], weights)
    opsets = [onnx.helper.make_opsetid("", 21)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto), {"x": rng.standard_normal(start).astype(np.float32)}


def relative_error(before: ir.Model, after: ir.Model, feeds: dict[str, NDArray[Any]]) -> float:
    (a,), (b,) = Reference(before).run(feeds).values(), Reference(after).run(feeds).values()
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-3))


def text(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


@pytest.mark.parametrize("name", sorted(EQUIVALENT))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_one_pass_keeps_the_function_and_tells_the_truth(name: str, data: st.DataObject) -> None:
    model, feeds = network(data)
    after = model.clone()
    outcome = EQUIVALENT[name].apply(after, Context())
    assert bool(outcome.changed) == (text(after) != text(model))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert relative_error(model, after, feeds) <= RELATIVE_ERROR


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_rounds_of_all_passes_keep_the_function_and_come_to_rest(data: st.DataObject) -> None:
    model, feeds = network(data)
    after = model.clone()
    rounds = [
        [n for name in CANONICAL for n in EQUIVALENT[name].apply(after, Context()).changed]
        for _ in range(ROUNDS)
    ]
    assert not rounds[-1]
    assert relative_error(model, after, feeds) <= RELATIVE_ERROR
