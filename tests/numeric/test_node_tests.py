"""ONNX's own backend node tests: none is wrong, and the number that passes never falls.

`python tools/node_tests.py` runs all of them and compares with the record; here a fixed sample is
run, every EVERY-th by name, because all take minutes.
"""

from __future__ import annotations

import pytest

from edgec.compiler.ports import Array, Port, encode_port
from tools import node_tests
from tools.node_tests import PASSES, REFUSED, Outcome, cases, count, read_record, run_case

EVERY = 5
# Never lowered; `tools/node_tests.py --record` says the number to raise it to.
LEAST_PASSES = 1238

RECORD = read_record()
SAMPLE = sorted(RECORD)[::EVERY]


def test_the_record_holds_every_test_of_the_installed_onnx() -> None:
    assert sorted(RECORD) == sorted(cases())


def test_no_test_is_wrong_and_no_fewer_pass_than_ever() -> None:
    counts = count(RECORD.values())
    assert counts[PASSES] >= LEAST_PASSES, "a test that passed is refused now"
    assert counts[PASSES] + counts[REFUSED] == len(RECORD), "a test gives a wrong answer"
    assert counts[PASSES] == LEAST_PASSES, "more pass: raise LEAST_PASSES"


def test_every_refusal_has_a_reason_that_names_something() -> None:
    refused = {name: o.reason for name, o in RECORD.items() if o.status == REFUSED}
    assert all(len(reason) > 20 for reason in refused.values())


@pytest.mark.parametrize("name", SAMPLE)
def test_outcome_is_as_recorded(name: str) -> None:
    found, known = run_case(name), RECORD[name]
    assert found == known, "if this is better: python tools/node_tests.py --record"


def test_a_wrong_answer_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(port: Port, data: Array) -> Array:
        return encode_port(port, data) * 0

    monkeypatch.setattr(node_tests, "encode_port", zeros)
    assert run_case("test_neg").status == node_tests.WRONG


def test_counts() -> None:
    outcomes = [Outcome(PASSES), Outcome(REFUSED, "Foo: no"), Outcome(PASSES, frozen=("shape",))]
    assert count(outcomes) == {"passes": 2, "refused": 1, "wrong": 0}
