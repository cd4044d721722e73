"""States: inputs that are fed with the model's own outputs of the previous run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import edgec
from edgec.compiler.core.errors import OptionError
from edgec.compiler.core.states import set_states, states_of
from edgec.compiler.execute import run_artifact
from edgec.compiler.frontend.carry import carried
from edgec.compiler.frontend.data import open_data
from edgec.compiler.frontend.reference import Reference
from edgec.compiler.sequence import float_sequence
from tests.pairs import Array, Op, normal

STATES = {"past": "present"}
STEPS = 12


def model() -> ir.Model:
    """Return one step of an LSTM whose two states lie in one tensor [1, 4, 2], and a layer."""
    return Op(
        "(float[1,3] x, float[1,4,2] past) => (float[1,2] y, float[1,4,2] present)",
        "h0, c0 = Split <axis = 2, num_outputs = 2> (past)"
        "h1 = Reshape (h0, shape)  c1 = Reshape (c0, shape)  t = Unsqueeze (x, zero)"
        'n, h, c = LSTM <hidden_size = 4> (t, W, R, B, "", h1, c1)'
        "h2 = Reshape (h, column)  c2 = Reshape (c, column)"
        "present = Concat <axis = 2> (h2, c2)"
        "f = Squeeze (h, zero)  y = MatMul (f, V)",
        {
            "shape": np.array([1, 1, 4]), "column": np.array([1, 4, 1]), "zero": np.array([0]),
            "W": normal(1, 16, 3), "R": normal(1, 16, 4, seed=1), "B": normal(1, 32, seed=2),
            "V": normal(4, 2, seed=3),
        },
    ).model  # fmt: skip


def inputs(count: int = STEPS) -> Array:
    return normal(count, 3, seed=4)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> edgec.Artifact:
    out = tmp_path_factory.mktemp("states") / "cell"
    return edgec.compile(
        model(), "host", out, [{"x": x} for x in inputs(40)], states=STATES, name="cell"
    )


def own_sequence() -> list[dict[str, Array]]:
    """Return the float answers, the state carried by hand."""
    run, past = Reference(model()).run, np.zeros((1, 4, 2), np.float32)
    answers: list[dict[str, Array]] = []
    for x in inputs():
        answers.append(dict(run({"x": x[None], "past": past})))
        past = answers[-1]["present"]
    return answers


def with_states() -> ir.Model:
    found = model()
    set_states(found.graph, STATES)
    return found


def test_samples_carry_what_they_lack() -> None:
    samples = carried(open_data({"x": inputs()}, with_states()), with_states())
    fed = [s["past"] for s in samples]
    assert not fed[0].any()
    for feeds, answer in zip(fed[1:], own_sequence()[:-1], strict=True):
        np.testing.assert_array_equal(feeds, answer["present"])


def test_samples_that_bring_their_states_are_taken_as_they_are() -> None:
    past = normal(STEPS, 4, 2)
    data = {"x": inputs(), "past": past}
    samples = carried(open_data(data, with_states()), with_states())
    np.testing.assert_array_equal(np.concatenate([s["past"] for s in samples]), past)


def test_float_sequence_carries_by_itself() -> None:
    got = float_sequence(with_states(), [{"x": x[None]} for x in inputs()])
    for answer, want in zip(got, own_sequence(), strict=True):
        np.testing.assert_array_equal(answer["y"], want["y"])


def test_both_ends_have_one_encoding_of_16_bits(artifact: edgec.Artifact) -> None:
    manifest = artifact.manifest
    (past,) = (p for p in manifest.inputs if p.name == "past")
    (present,) = (p for p in manifest.outputs if p.name == "present")
    assert (past.dtype, past.bits, past.scale) == ("int16", 16, present.scale)
    assert past.zero_point == present.zero_point == 0
    assert manifest.states == STATES
    header = (artifact.path / "include" / "cell.h").read_text()
    assert "State: 'past' of a run is 'present' of the run before" in header


def test_the_caller_carries_codes_as_they_are(artifact: edgec.Artifact) -> None:
    run = edgec.load(artifact.path).run
    real = np.zeros((1, 4, 2), np.float32)
    for x, want in zip(inputs(), own_sequence(), strict=True):
        answer = run(x=x[None], past=real)
        real = answer["present"]
        assert np.abs(answer["y"] - want["y"]).max() < 0.1
        assert np.abs(real - want["present"]).max() < 0.05


def test_check_and_run_carry_the_state(artifact: edgec.Artifact, tmp_path: Path) -> None:
    data = tmp_path / "sequence.npz"
    want = np.concatenate([a["y"] for a in own_sequence()])
    np.savez(data, x=inputs(), labels=want.argmax(axis=1))
    verdict = artifact.check(data=data)
    assert verdict.passed and verdict.quantised.same_bits
    assert verdict.task is not None and verdict.task.float_value == 1.0
    assert verdict.task.value > 0.9
    assert verdict.float is not None and verdict.float.sqnr_db > 25
    got = run_artifact(artifact.path, data)
    assert np.abs(got.outputs["y"][:, 0] - want).max() < 0.1


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ({"nowhere": "present"}, "no input 'nowhere'"),
        ({"past": "nowhere"}, "no output 'nowhere'"),
        ({"past": "y"}, "the output FLOAT"),
        ({"x": "y", "past": "present"}, "the output FLOAT"),
    ],
)
def test_what_cannot_be_a_state_is_refused(states: dict[str, str], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        set_states(model().graph, states)
    assert not states_of(model().graph)
