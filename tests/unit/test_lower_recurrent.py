"""LSTM and GRU: the integer program beside ONNX Runtime on the quantised model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edgec.compiler.core.errors import ModelError
from tests.pairs import Array, Op, normal, pipeline_pair

HIDDEN, INPUTS, STEPS, BATCH = 6, 5, 4, 2
NOTHING: Mapping[str, Array] = {}
GATES = {"LSTM": 4, "GRU": 3}


def arrays(op: str, directions: int = 1, scale: float = 0.5) -> dict[str, Array]:
    rows = GATES[op] * HIDDEN
    return {
        "W": normal(directions, rows, INPUTS, scale=scale),
        "R": normal(directions, rows, HIDDEN, seed=1, scale=scale),
        "B": normal(directions, 2 * rows, seed=2, scale=scale),
    }


def layer(
    op: str, call: str, outputs: str, attributes: str = "", kernels: str | None = None,
    directions: int = 1, more: Mapping[str, Array] = NOTHING,
) -> Op:  # fmt: skip
    state = f"float[{directions},{BATCH},{HIDDEN}]"
    shapes = {"Y": f"float[{STEPS},{directions},{BATCH},{HIDDEN}]", "Yh": state, "Yc": state}
    fed = "".join(f", {state} {n}" for n in ("H0", "C0") if n in call and n not in more)
    public = ", ".join(f"{shapes[n]} {n}" for n in outputs.split(", ") if n in shapes)
    used = {n: a for n, a in (arrays(op, directions) | dict(more)).items() if n in call}
    body = f"{outputs} = {op} <hidden_size = {HIDDEN}{attributes}> {call}"
    return Op(
        f"(float[{STEPS},{BATCH},{INPUTS}] X{fed}) => ({public})", body, used, kernels=kernels
    )


STATE = normal(1, BATCH, HIDDEN, seed=3)
CASES = {
    "lstm": layer("LSTM", "(X, W, R, B)", "Y", kernels="lstm"),
    "lstm_no_bias": layer("LSTM", "(X, W, R)", "Y", kernels="lstm"),
    "lstm_every_output": layer("LSTM", "(X, W, R, B)", "Y, Yh, Yc", kernels="lstm"),
    "lstm_last_only": layer("LSTM", "(X, W, R, B)", "n, Yh", kernels="lstm"),
    "lstm_cell_only": layer("LSTM", "(X, W, R, B)", "n, m, Yc", kernels="lstm"),
    "lstm_reverse": layer("LSTM", "(X, W, R, B)", "Y, Yh", ', direction = "reverse"'),
    "lstm_states_fed": layer("LSTM", '(X, W, R, B, "", H0, C0)', "Y, Yh, Yc", kernels="lstm"),
    "lstm_states_constant": layer(
        "LSTM", '(X, W, R, B, "", H0, C0)', "Y", kernels="lstm", more={"H0": STATE, "C0": 2 * STATE}
    ),
    "lstm_states_zero": layer(
        "LSTM", '(X, W, R, B, "", H0, C0)', "Y", kernels="lstm",
        more={"H0": 0 * STATE, "C0": 0 * STATE},
    ),
    "lstm_hidden_fed_only": layer("LSTM", '(X, W, R, B, "", H0)', "Y", kernels="lstm"),
    "lstm_bidirectional": layer(
        "LSTM", "(X, W, R, B)", "Y, Yh", ', direction = "bidirectional"', directions=2
    ),
    "lstm_lengths_neutral": layer(
        "LSTM", "(X, W, R, B, lengths)", "Y", kernels="lstm",
        more={"lengths": np.full(BATCH, STEPS, np.int32)},
    ),
    "lstm_peepholes_zero": layer(
        "LSTM", '(X, W, R, B, "", "", "", P)', "Y", kernels="lstm",
        more={"P": np.zeros((1, 3 * HIDDEN), np.float32)},
    ),
    "lstm_large_gates": layer(
        "LSTM", "(X, W, R, B)", "Y", kernels="lstm",
        more={n: 8 * a for n, a in arrays("LSTM").items()},
    ),
    "gru": layer("GRU", "(X, W, R, B)", "Y", kernels="gru"),
    "gru_linear": layer("GRU", "(X, W, R, B)", "Y, Yh", ", linear_before_reset = 1", "gru"),
    "gru_state_fed": layer(
        "GRU", '(X, W, R, B, "", H0)', "Y, Yh", ", linear_before_reset = 1", "gru"
    ),
    "gru_reverse": layer("GRU", "(X, W, R, B)", "n, Yh", ', direction = "reverse"', "gru"),
    "gru_bidirectional": layer(
        "GRU", "(X, W, R, B)", "Y", ', direction = "bidirectional"', directions=2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_onnx_runtime(name: str) -> None:
    op = CASES[name]
    found = pipeline_pair(op.model)
    assert not found.floats, found.program.notes
    if op.kernels is not None:
        assert " ".join(found.kernels) == op.kernels
    assert found.worst <= 1
    # The states inside have 15 bits and more, so only near-ties of 8-bit outputs may fall apart.
    assert found.share_equal >= 0.95


def test_layers_in_a_row_and_a_classifier() -> None:
    first = arrays("LSTM")
    second = {f"{n}2": a for n, a in arrays("GRU").items()}
    second["W2"] = normal(1, 3 * HIDDEN, HIDDEN, scale=0.5)
    found = pipeline_pair(
        Op(
            f"(float[{STEPS},1,{INPUTS}] X) => (float[1,3] logits)",
            "a = LSTM <hidden_size = 6> (X, W, R, B)  s = Squeeze (a, one)"
            "n, h = GRU <hidden_size = 6> (s, W2, R2, B2)  t = Squeeze (h, zero)"
            "logits = Gemm <transB = 1> (t, V)",
            {**first, **second, "V": normal(3, HIDDEN), "one": np.array([1]),
             "zero": np.array([0])},
        ).model
    )  # fmt: skip
    assert found.kernels == ["lstm", "gru", "gemm"]
    assert found.worst <= 1


@pytest.mark.parametrize(
    ("attributes", "call", "reason"),
    [
        (", clip = 3.0", "(X, W, R, B)", "attribute clip is not supported"),
        (", input_forget = 1", "(X, W, R, B)", "attribute input_forget is not supported"),
        (', activations = ["Sigmoid", "Relu", "Tanh"]', "(X, W, R, B)", "activations sigmoid"),
        ("", "(X, W, R, B, lengths)", "sequence lengths"),
        ("", '(X, W, R, B, "", "", "", P)', "peephole weights are not supported"),
    ],
)  # fmt: skip
def test_what_the_kernel_does_not_compute_is_refused_by_name(
    attributes: str, call: str, reason: str
) -> None:
    op = layer(
        "LSTM", call, "Y", attributes,
        more={"lengths": np.array([STEPS, 3], np.int32), "P": normal(1, 3 * HIDDEN)},
    )  # fmt: skip
    with pytest.raises(ModelError, match=reason):
        pipeline_pair(op.model)
