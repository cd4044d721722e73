"""Quantise small models as the pipeline does and put the integer program beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.compiler.core.graph import model_from_text
from edgec.compiler.frontend.data import open_data
from edgec.compiler.frontend.reference import Reference
from edgec.compiler.lowering.lower import lower
from edgec.compiler.lowering.program import Program
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import (
    CORRECTIONS,
    RESHAPING,
    canonicalise,
    decide,
    measure_ranges,
    profile,
    quantise,
    reshape,
)
from edgec.compiler.ports import encode_port
from edgec.compiler.stages import Source

Array = NDArray[Any]
Feeds = dict[str, Array]
# What is kept only where it lowers an error would make small tests depend on chance.
PLAIN = CompileOptions(
    target="host", no_passes=tuple(p.name for p in (*RESHAPING, *CORRECTIONS)),
    wide_activations="never",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Steps between the integer program and ONNX Runtime, all outputs of all samples in one."""

    program: Program
    quantised: ir.Model
    steps: Array

    @property
    def worst(self) -> int:
        """Largest distance in output steps."""
        return int(self.steps.max())

    @property
    def share_equal(self) -> float:
        """Share of output values that are the same."""
        return float((self.steps == 0).mean())

    @property
    def floats(self) -> set[str]:
        """Kernels of float islands."""
        return {"dequantise", "float_op", "quantise"} & set(self.kernels)

    @property
    def kernels(self) -> list[str]:
        """Kernel names in order."""
        return [c.kernel.name for c in self.program.calls]


def random_feeds(
    model: ir.Model, seed: int, spread: float = 1.0, entries: int = 4
) -> dict[str, Array]:
    """Return seeded inputs: normal floats, indices below `entries`, coin tosses."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for value in model.graph.inputs:
        assert value.dtype is not None and value.shape is not None
        dtype, shape = value.dtype.numpy(), value.shape.numpy()
        if dtype.kind == "f":
            feeds[str(value.name)] = (rng.standard_normal(shape) * spread).astype(dtype)
        elif dtype.kind == "b":
            feeds[str(value.name)] = rng.random(shape) < 0.5
        elif dtype.itemsize == 1:
            info = np.iinfo(dtype)
            feeds[str(value.name)] = rng.integers(info.min, info.max + 1, shape).astype(dtype)
        else:
            feeds[str(value.name)] = rng.integers(0, entries, shape).astype(dtype)
    return feeds


def pipeline_quantised(model: ir.Model, samples: Sequence[Feeds]) -> ir.Model:
    """Return the QDQ model that the pipeline makes of a float model calibrated on samples."""
    source = Source(model, "model", "0" * 64, (), False)
    data = open_data(samples, model)
    canonical = canonicalise(source, samples)
    reshaped = reshape(profile(canonical, data, PLAIN, False), PLAIN)
    planned = decide(measure_ranges(reshaped, data, PLAIN), PLAIN)
    return quantise(planned, PLAIN).model


def pair(quantised: ir.Model, samples: Sequence[Mapping[str, Array]]) -> Pair:
    """Lower a QDQ model and compare it with ONNX Runtime on samples."""
    program, reference = lower(quantised), Reference(quantised)
    steps: list[Array] = []
    for feeds in samples:
        codes = {p.name: encode_port(p, feeds[p.name]) for p in program.inputs}
        got, answer = program.interpret(codes), reference.run(feeds)
        for port in program.outputs:
            assert port.shape == answer[port.name].shape
            want = encode_port(port, answer[port.name]).astype(np.int64)
            steps.append(np.abs(got[port.name].astype(np.int64) - want).reshape(-1))
    return Pair(program, quantised, np.concatenate(steps))


def pipeline_pair(model: ir.Model, count: int = 4, spread: float = 1.0, entries: int = 4) -> Pair:
    """Quantise a float model on `count` seeded samples and compare on them."""
    samples = [random_feeds(model, seed, spread, entries) for seed in range(count)]
    return pair(pipeline_quantised(model, samples), samples)


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """A small float model: `signature` is '(inputs) => (outputs)', `body` its nodes."""

    signature: str
    body: str
    arrays: Mapping[str, Array]
    opset: int = 21
    spread: float = 1.0
    kernels: str | None = None

    @property
    def model(self) -> ir.Model:
        """The model."""
        head = f'<ir_version: 10, opset_import: ["" : {self.opset}]>'
        text = f"{head} m {self.signature} {{ {self.body} }}"
        return model_from_text(text, **self.arrays)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Return seeded float32 normals."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def ints(*values: int) -> Array:
    """Return an int64 vector."""
    return np.array(values, np.int64)


def single(value: float) -> Array:
    """Return a float32 scalar."""
    return np.array(value, np.float32)


def assert_pair(op: Op) -> Pair:
    """Integers only, at most one step apart everywhere, 99 % of the values the same."""
    found = pipeline_pair(op.model, spread=op.spread)
    if op.kernels is not None:
        assert " ".join(found.kernels) == op.kernels
    assert not found.floats, found.program.notes
    assert found.worst <= 1
    assert found.share_equal >= 0.99
    return found
