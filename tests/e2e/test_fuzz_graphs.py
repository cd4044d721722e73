"""Seeded random graphs through quantise, lower and interpret, beside ONNX Runtime.

A failure prints the seed and the float model as ONNX text, ready for `model_from_text`.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.compiler.core.graph import model_from_text
from edgec.compiler.lowering.emit import CModel, emit_c
from edgec.compiler.ports import encode_port
from tests.pairs import Array, Pair, pair, pipeline_quantised, random_feeds

SHALLOW, DEEP, COMPILED = range(30), range(100, 110), range(200, 212)
INCLUDE = Path(__file__).resolve().parents[2] / "runtime" / "c" / "include"
GUARD = 64
UNARY = (
    "Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Softplus", "Abs", "Neg", "Erf",
    "Gelu", "Identity",
)  # fmt: skip
Shape = tuple[int, ...]


class Graph:
    """A random graph: every step reads values made before and adds one."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.lines: list[str] = []
        self.arrays: dict[str, Array] = {}
        self.shapes: dict[str, Shape] = {}
        rank = int(self.rng.integers(2, 5))
        shape = (1, *(int(n) for n in self.rng.integers(2, 8, rank - 1)))
        self.input = shape
        self.shapes["X"] = shape

    def pick(self, *options: str) -> str:
        return options[int(self.rng.integers(len(options)))]

    def latest(self) -> str:
        names = list(self.shapes)
        return names[-1 - int(self.rng.integers(min(3, len(names))))]

    def constant(self, data: Array) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = data
        return name

    def weight(self, *shape: int) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        data = self.rng.standard_normal(shape) / np.sqrt(fan_in)
        return self.constant(data.astype(np.float32))

    def add(self, call: str, shape: Shape) -> None:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {call}")
        self.shapes[name] = shape

    def step(self) -> None:
        x = self.latest()
        kinds = ["unary", "binary", "binary", "scalar", "transpose", "reshape", "slice", "join"]
        kinds += ["softmax", "norm", "matmul", "matmul"] if len(self.shapes[x]) < 4 else []
        kinds += ["conv", "conv", "conv", "pool", "norm"] if len(self.shapes[x]) == 4 else []
        getattr(self, f"_{self.pick(*kinds)}")(x, self.shapes[x])

    def _unary(self, x: str, shape: Shape) -> None:
        self.add(f"{self.pick(*UNARY)} ({x})", shape)

    def _scalar(self, x: str, shape: Shape) -> None:
        number = self.constant(np.array(self.rng.uniform(0.3, 2.5), np.float32))
        self.add(f"{self.pick('Mul', 'Add', 'Div', 'Sub')} ({x}, {number})", shape)

    def _binary(self, x: str, shape: Shape) -> None:
        same = [n for n, s in self.shapes.items() if s == shape]
        other = same[int(self.rng.integers(len(same)))]
        if self.rng.random() < 0.3:
            part = tuple(d if self.rng.random() < 0.6 else 1 for d in shape)
            other = self.weight(*part)
        pair = (x, other) if self.rng.random() < 0.5 else (other, x)
        self.add(f"{self.pick('Add', 'Sub', 'Mul')} ({', '.join(pair)})", shape)

    def _transpose(self, x: str, shape: Shape) -> None:
        order = [0, *(1 + self.rng.permutation(len(shape) - 1))]
        perm = ", ".join(map(str, order))
        self.add(f"Transpose <perm=[{perm}]> ({x})", tuple(shape[a] for a in order))

    def _reshape(self, x: str, shape: Shape) -> None:
        flat = int(np.prod(shape))
        divisors = [d for d in range(1, min(flat, 12) + 1) if flat % d == 0]
        d = divisors[int(self.rng.integers(len(divisors)))]
        new = (1, d, flat // d) if self.rng.random() < 0.6 else (1, 1, d, flat // d)
        self.add(f"Reshape ({x}, {self.constant(np.array(new))})", new)

    def _slice(self, x: str, shape: Shape) -> None:
        axis = int(self.rng.integers(1, len(shape)))
        step = int(self.rng.choice([-2, -1, 1, 2]))
        start, stop = (0, shape[axis]) if step > 0 else (-1, -(shape[axis] + 5))
        numbers = (np.array([n]) for n in (start, stop, axis, step))
        names = ", ".join(self.constant(n) for n in numbers)
        new = list(shape)
        new[axis] = -(-shape[axis] // abs(step))
        self.add(f"Slice ({x}, {names})", tuple(new))

    def _join(self, x: str, shape: Shape) -> None:
        axis = int(self.rng.integers(1, len(shape)))
        fits = [
            n for n, s in self.shapes.items()
            if len(s) == len(shape) and all(a == axis or s[a] == shape[a] for a in range(len(s)))
        ]  # fmt: skip
        other = fits[int(self.rng.integers(len(fits)))]
        new = list(shape)
        new[axis] += self.shapes[other][axis]
        self.add(f"Concat <axis={axis}> ({x}, {other})", tuple(new))

    def _softmax(self, x: str, shape: Shape) -> None:
        self.add(f"Softmax <axis={self.rng.integers(1, len(shape))}> ({x})", shape)

    def _norm(self, x: str, shape: Shape) -> None:
        n = shape[len(shape) - 1]
        self.add(f"LayerNormalization ({x}, {self.weight(n)}, {self.weight(n)})", shape)

    def _matmul(self, x: str, shape: Shape) -> None:
        n = int(self.rng.integers(1, 9))
        if self.rng.random() < 0.6 or len(shape) < 3:
            weight = self.weight(shape[len(shape) - 1], n)
            self.add(f"MatMul ({x}, {weight})", (*shape[:-1], n))
            if self.rng.random() < 0.6:
                self.add(f"Add (v{len(self.lines) - 1}, {self.weight(n)})", (*shape[:-1], n))
            return
        self.add(f"Transpose <perm=[0, 2, 1]> ({x})", (shape[0], shape[2], shape[1]))
        self.add(f"MatMul ({x}, v{len(self.lines) - 1})", (shape[0], shape[1], shape[1]))

    def _conv(self, x: str, shape: Shape) -> None:
        _, c, h, w = shape
        kh, kw = int(self.rng.integers(1, 4)), int(self.rng.integers(1, 4))
        sy, sx = (int(n) for n in self.rng.integers(1, 3, 2))
        top, left, bottom, right = (int(n) for n in self.rng.integers(0, 2, 4))
        if h + top + bottom < kh or w + left + right < kw:
            return
        groups = c if self.rng.random() < 0.4 else 1
        filters = c * int(self.rng.integers(1, 3)) if groups > 1 else int(self.rng.integers(1, 9))
        weight, bias = self.weight(filters, c // groups, kh, kw), self.weight(filters)
        out = ((h + top + bottom - kh) // sy + 1, (w + left + right - kw) // sx + 1)
        attributes = (
            f"kernel_shape=[{kh},{kw}], strides=[{sy},{sx}], group={groups}, "
            f"pads=[{top},{left},{bottom},{right}]"
        )
        self.add(f"Conv <{attributes}> ({x}, {weight}, {bias})", (1, filters, *out))

    def _pool(self, x: str, shape: Shape) -> None:
        _, c, h, w = shape
        if self.rng.random() < 0.25 or min(h, w) < 2:
            self.add(f"GlobalAveragePool ({x})", (1, c, 1, 1))
            return
        kind = self.pick("MaxPool", "AveragePool")
        attributes = "kernel_shape=[2,2], strides=[2,2]"
        self.add(f"{kind} <{attributes}> ({x})", (1, c, h // 2, w // 2))

    def model(self) -> ir.Model:
        used = " ".join(line.split("=", 1)[1] for line in self.lines)
        names = [n for n in self.shapes if n != "X" and not _reads(used, n)]
        outputs = [f"float[{_dims(self.shapes[n])}] {n}" for n in names]
        signature = f"(float[{_dims(self.input)}] X) => ({', '.join(outputs)})"
        arrays = {n: a for n, a in self.arrays.items() if _reads(used, n)}
        text = (
            f'<ir_version: 10, opset_import: ["" : 21]> m {signature} {{ {" ".join(self.lines)} }}'
        )
        return model_from_text(text, **arrays)


def _reads(text: str, name: str) -> bool:
    return name in text.replace("(", " ").replace(")", " ").replace(",", " ").split()


def _dims(shape: Shape) -> str:
    return ",".join(map(str, shape))


def random_model(seed: int, least: int = 3, most: int = 9) -> ir.Model:
    graph = Graph(seed)
    for _ in range(int(graph.rng.integers(least, most))):
        graph.step()
    return graph.model()


def compare(model: ir.Model) -> Pair:
    samples = [random_feeds(model, seed) for seed in range(4)]
    return pair(pipeline_quantised(model, samples), samples)


def show(seed: int, model: ir.Model) -> None:
    print(f"seed {seed}\n{onnx.printer.to_text(ir.to_proto(model))}")


@pytest.mark.parametrize("seed", [*SHALLOW, *DEEP])
def test_random_graph_equals_onnx_runtime(seed: int) -> None:
    model = random_model(seed) if seed in SHALLOW else random_model(seed, 10, 20)
    try:
        found = compare(model)
        assert not found.floats
        # Steps add up along a chain: an early tie moves everything behind it.
        assert found.worst <= 2
        assert (found.steps <= 1).mean() >= 0.99
        assert found.share_equal >= 0.9
    except Exception:
        show(seed, model)
        raise


@pytest.fixture(scope="module")
def compiled(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, dict[int, tuple[Pair, CModel]]]:
    """All random models of COMPILED in one shared library, with their pairs and C."""
    folder = tmp_path_factory.mktemp("fuzz")
    made: dict[int, tuple[Pair, CModel]] = {}
    for seed in COMPILED:
        found = compare(random_model(seed, 5, 12))
        model = emit_c(found.program, f"m{seed}", "generic", "test")
        for path, text in model.files.items():
            (folder / Path(path).name).write_text(text)
        made[seed] = found, model
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", f"-I{INCLUDE}"]
    library = folder / "fuzz.so"
    sources = sorted(map(str, folder.glob("*.c")))
    subprocess.run(["gcc", *flags, *sources, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library)), made


@pytest.mark.parametrize("seed", COMPILED)
def test_compiled_random_graph_gives_the_bits_of_the_interpreter(seed: int, compiled: Any) -> None:
    library, made = compiled
    found, model = made[seed]
    program = found.program
    feeds = random_feeds(random_model(seed, 5, 12), 9)
    codes = {p.name: encode_port(p, feeds[p.name]) for p in program.inputs}
    outputs = [np.full(p.elements + GUARD, 77, p.dtype) for p in model.outputs]
    arena = np.full(model.arena.size_bytes + GUARD, 0xA5, np.uint8)
    arrays = [*(np.ascontiguousarray(codes[p.name]) for p in model.inputs), *outputs, arena]
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in arrays]
    assert getattr(library, f"m{seed}_run")(*pointers) == 0
    wanted = program.interpret(codes)
    for port, got in zip(model.outputs, outputs, strict=True):
        np.testing.assert_array_equal(got[: port.elements].reshape(port.shape), wanted[port.name])
        assert (got[port.elements :] == 77).all(), "wrote behind an output"
    assert (arena[model.arena.size_bytes :] == 0xA5).all(), "wrote behind the arena"
