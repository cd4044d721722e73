"""What a layer itself adds is told apart from what reaches it and from storing its result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgec.compiler import losses, pipeline
from edgec.compiler.core.graph import constant, label
from edgec.compiler.frontend.data import open_data
from edgec.compiler.losses import Traced
from edgec.compiler.metrics import sqnr_db
from edgec.compiler.stages import Built
from tests.pairs import PLAIN, normal
from tests.small import cnn, cnn_samples, model_from_text, qdq_cnn


def built_of(model: ir.Model, samples: Any) -> Built:
    """Return the program of a float model as the pipeline makes it."""
    source = pipeline.load_source(model, PLAIN)
    data = open_data(samples, source.model)
    canonical = pipeline.canonicalise(source, pipeline.first_samples(data, 2))
    reshaped = pipeline.reshape(pipeline.profile(canonical, data, PLAIN, False), PLAIN)
    ranged = pipeline.measure_ranges(reshaped, data, PLAIN)
    quantised = pipeline.quantise(pipeline.decide(ranged, PLAIN), PLAIN)
    return pipeline.build(pipeline.lower_program(quantised, PLAIN), "generic", "test")


@pytest.fixture(scope="module")
def built() -> Built:
    """The small network."""
    return built_of(cnn(), {"image": cnn_samples()})


@pytest.fixture(scope="module")
def traced(built: Built) -> Traced:
    """Four samples of it."""
    found = losses.trace(built, 4)
    assert found is not None and len(found.memory) == 4
    return found


def test_own_is_the_float_operator_on_what_the_kernel_read(built: Built, traced: Traced) -> None:
    """The last layer by hand: MaxPool, Flatten and Gemm of the codes that the Conv stored."""
    program = built.lowered.program
    reshaped = built.lowered.quantised.planned.ranged.reshaped.model
    (gemm,) = [n for n in reshaped.graph if n.op_type == "Gemm"]
    weight, bias = constant(gemm.inputs[1]), constant(gemm.inputs[2])
    assert weight is not None and bias is not None
    (buffer,) = [b for b, o in program.origins.items() if o.value == "r"]
    origin = program.origins[buffer]
    for sample, memory in enumerate(traced.memory):
        read = origin.encoding.dequantise(origin.read(memory[buffer]))
        pooled = read.reshape(4, 4, 2, 4, 2).max(axis=(2, 4))
        wanted = pooled.reshape(1, -1) @ weight.T + bias
        np.testing.assert_allclose(traced.own["scores"][sample], wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(traced.own["scores"], traced.real["scores"], rtol=1e-4)


def test_rows_hold_three_errors(built: Built, traced: Traced) -> None:
    rows = losses.layer_errors(built, traced)
    assert [r["sqnr_db"] for r in rows] == sorted(r["sqnr_db"] for r in rows)
    last = max(rows, key=lambda r: r["call"])
    assert last["value"] == "scores" and last["nodes"] == ["Gemm 'Gemm_4'"]
    (port,) = built.lowered.program.outputs
    assert port.encoding is not None
    got = port.encoding.dequantise(np.stack([m[port.buffer] for m in traced.memory]))
    got = got.reshape(traced.own["scores"].shape)
    assert last["local_sqnr_db"] == pytest.approx(sqnr_db(traced.own["scores"], got))
    assert last["sqnr_db"] == pytest.approx(sqnr_db(traced.real["scores"], got))
    # All errors up to a layer outweigh what the layer adds.
    assert last["local_sqnr_db"] > last["sqnr_db"] + 0.5


def test_a_spoilt_layer_is_found(built: Built, traced: Traced) -> None:
    """Halving what the first layer stores shows in its own error and not in the next one's."""
    program = built.lowered.program
    (first,) = [b for b, o in program.origins.items() if o.value == "r"]
    before = {r["call"]: r["local_sqnr_db"] for r in losses.layer_errors(built, traced)}

    def halved(memory: Any) -> dict[str, Any]:
        zero = program.origins[first].encoding.zero_point[0]
        codes = memory[first].astype(np.int32)
        return {**memory, first: ((codes - zero) // 2 + zero).astype(memory[first].dtype)}

    spoilt = replace(traced, memory=[halved(m) for m in traced.memory])
    after = {r["call"]: r["local_sqnr_db"] for r in losses.layer_errors(built, spoilt)}
    assert set(before) == {1, 4} and before[1] > 30 and after[1] < 10
    assert after[4] == before[4]


def test_weights_of_linear_layers(built: Built, traced: Traced) -> None:
    rows = {r["call"]: r["weights"] for r in losses.layer_errors(built, traced)}
    plan = built.lowered.quantised.planned.plan
    for node in built.lowered.quantised.planned.ranged.reshaped.model.graph:
        for call, c in enumerate(built.lowered.program.calls):
            if node.op_type in ("Conv", "Gemm") and label(node) in c.nodes:
                stored, found = constant(node.inputs[1]), rows[call]
                assert stored is not None and node.inputs[1] is not None
                encoding = plan.encodings[str(node.inputs[1].name)]
                assert found["sqnr_db"] == sqnr_db(stored, encoding.roundtrip(stored))
                flat = np.abs(stored.reshape(len(stored), -1))
                ratio = flat.max(axis=1) / np.sqrt((flat**2).mean(axis=1))
                assert found["channel"] == ratio.argmax()
                assert found["peak_to_rms"] == pytest.approx(ratio.max(), rel=1e-5)
    assert sum(w is not None for w in rows.values()) == 2


def test_a_join_is_exact_and_its_parts_pay() -> None:
    """Parts of a Concat are stored in the encoding of the whole: the small one loses, not it."""
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]> join
        (float[1, 8] x) => (float[1, 12] y) {
            a = Gemm<transB = 1>(x, w)
            b = Gemm<transB = 1>(x, v)
            y = Concat<axis = 1>(a, b)
        }""",
        w=normal(4, 8, seed=1), v=normal(8, 8, seed=2, scale=9.0),
    )  # fmt: skip
    built = built_of(model, {"x": normal(16, 1, 8, seed=3)})
    rows = {r["value"]: r for r in losses.layer_errors(built, losses.trace(built, 8))}
    assert rows["y"]["local_sqnr_db"] == 200 and rows["y"]["sqnr_db"] < 45
    assert rows["a"]["local_sqnr_db"] < rows["b"]["local_sqnr_db"] - 10


def test_nothing_to_compare_without_a_float_model() -> None:
    built = built_of(qdq_cnn(), {"image": cnn_samples(2)})
    assert losses.trace(built, 2) is None and losses.layer_errors(built, None) == []
