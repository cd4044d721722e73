from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgec.compiler.metrics import (
    LOWER_IS_BETTER,
    SQNR_CAP_DB,
    TASK_METRICS,
    StepReport,
    accuracy,
    auc,
    cosine,
    max_abs,
    nll,
    spearman,
    sqnr_db,
    steps,
    top1_agreement,
)


def test_sqnr_is_ten_log_of_the_power_ratio() -> None:
    assert sqnr_db([3.0, 4.0], [3.0, 4.5]) == pytest.approx(20.0)
    assert sqnr_db([1.0, 1.0], [0.0, 0.0]) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([1.0, -2.0], [1.0, -2.0], SQNR_CAP_DB),
        ([0.0, 0.0], [0.0, 0.0], SQNR_CAP_DB),
        ([0.0, 0.0], [0.0, 1e-9], -SQNR_CAP_DB),
        ([1e-30], [1e30], -SQNR_CAP_DB),
        ([1e300, 1e300], [1e300, 1e300], SQNR_CAP_DB),
    ],
)
def test_sqnr_stays_finite(reference: list[float], other: list[float], expected: float) -> None:
    value = sqnr_db(reference, other)
    assert value == expected
    json.dumps(value, allow_nan=False)


def test_sqnr_survives_squares_beyond_float64() -> None:
    assert sqnr_db([3e200, 4e200], [3e200, 4.5e200]) == pytest.approx(20.0)


def test_cosine_knows_direction_and_zero() -> None:
    assert cosine([[1.0, 0.0]], [[5.0, 0.0]]) == pytest.approx(1)
    assert cosine([1.0, 0.0], [1.0, 1.0]) == pytest.approx(math.sqrt(0.5))
    assert cosine([1.0, 2.0], [-2.0, -4.0]) == pytest.approx(-1)
    assert cosine([0.0], [0.0]) == 1
    assert cosine([0.0, 0.0], [0.0, 1.0]) == 0
    assert cosine([1e-200, 0.0], [1e200, 0.0]) == pytest.approx(1)


def test_max_abs_is_the_largest_difference_of_either_sign() -> None:
    assert max_abs([1.0, 5.0, -3.0], [1.5, 5.0, -1.0]) == 2.0


def test_top1_agreement_compares_the_last_axis() -> None:
    reference = np.array([[[1, 2], [4, 3]], [[0, 9], [9, 0]]])
    other = np.array([[[0, 7], [1, 8]], [[0, 1], [1, 0]]])
    assert top1_agreement(reference, other) == 0.75


@pytest.mark.parametrize("metric", [sqnr_db, cosine, max_abs, top1_agreement])
def test_comparisons_refuse_what_they_cannot_compare(metric: Callable[[Any, Any], float]) -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\) with shape \(2, 1\)"):
        metric([1.0, 2.0], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="empty"):
        metric([], [])
    with pytest.raises(ValueError, match="NaN or infinite"):
        metric([1.0, 2.0], [1.0, math.nan])


def test_steps_counts_without_wrapping_around() -> None:
    a = np.array([-128, 0, 3, 9], np.int8)
    b = np.array([127, 0, 4, 7], np.int8)
    assert steps(a, b) == StepReport(255, 0.5, 0.25)
    assert steps(a, a) == StepReport(0, 1.0, 1.0)


def test_steps_refuses_floats_and_unlike_shapes() -> None:
    codes = np.zeros(3, np.int8)
    with pytest.raises(ValueError, match="float64"):
        steps(codes, np.zeros(3))
    with pytest.raises(ValueError, match="shape"):
        steps(codes, codes[:2])


def test_accuracy_counts_hits() -> None:
    outputs = [[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]
    assert accuracy(outputs, [1, 1, 1]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="need labels"):
        accuracy(outputs, [1, 1])


def test_nll_of_uniform_logits_is_log_vocabulary() -> None:
    assert nll(np.full((5, 8), 3.0), [1, 2, 3, 4, 5], 5) == pytest.approx(math.log(8))


def test_nll_predicts_the_next_token_up_to_length() -> None:
    logits = np.zeros((2, 4, 3))
    tokens = np.array([[0, 1, 2, 0], [2, 2, 1, 1]])
    logits[0, 0, 1], logits[1, 1, 1], logits[0, 3] = 5.0, 2.0, 100.0
    logits[0, 2, 1] = -50.0  # after the last token that counts

    def loss(row: np.ndarray[Any, Any], token: int) -> float:
        return float(-np.log(np.exp(row[token]) / np.exp(row).sum()))

    expected = [
        loss(logits[0, 0], 1),
        loss(logits[0, 1], 2),
        loss(logits[1, 0], 2),
        loss(logits[1, 1], 1),
        loss(logits[1, 2], 1),
    ]
    assert nll(logits, tokens, [3, 4]) == pytest.approx(np.mean(expected))


def test_nll_is_stable_and_refuses_what_has_no_next_token() -> None:
    assert nll([[1e4, 0.0], [0.0, 0.0]], [0, 0], 2) == pytest.approx(0)
    with pytest.raises(ValueError, match="shorter than two"):
        nll(np.zeros((1, 4, 3)), np.zeros((1, 4), int), [1])
    with pytest.raises(ValueError, match="do not fit"):
        nll(np.zeros((4, 3)), np.zeros(3, int), 3)


def test_auc_matches_counting_pairs_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 60), rng.integers(0, 2, 60)
    good, bad = scores[labels == 1][:, None], scores[labels == 0]
    expected = np.mean((good > bad) + 0.5 * (good == bad))
    assert auc(scores, labels) == pytest.approx(expected)


def test_auc_needs_both_classes_and_one_score_per_label() -> None:
    with pytest.raises(ValueError, match="both classes"):
        auc([1.0, 2.0], [1, 1])
    with pytest.raises(ValueError, match="as many labels"):
        auc([1.0, 2.0], [1])


def test_spearman_sees_order_only() -> None:
    assert spearman([1.0, 10.0, 100.0], [1, 2, 3]) == pytest.approx(1)
    assert spearman([3.0, 2.0, 1.0], [1, 2, 3]) == pytest.approx(-1)
    # Ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4).
    assert spearman([0.0, 1.0, 1.0, 2.0], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    with pytest.raises(ValueError, match="vary"):
        spearman([1.0, 1.0], [1, 2])


@pytest.mark.parametrize("name", TASK_METRICS)
def test_task_metrics_are_best_at_the_truth(name: str) -> None:
    cases: dict[str, tuple[Any, Any, Any]] = {
        "accuracy": (np.eye(3), np.roll(np.eye(3), 1, 0), [0, 1, 2]),
        "auc": ([0.1, 0.9], [0.9, 0.1], [0, 1]),
        "max_abs": ([1.0, 2.0], [1.0, 3.0], [1.0, 2.0]),
        "nll": (9 * np.eye(3)[[1, 2, 0]], np.zeros((3, 3)), [0, 1, 2]),
        "spearman": ([1.0, 2.0], [2.0, 1.0], [3.0, 4.0]),
        "sqnr_db": ([1.0, 2.0], [1.0, 3.0], [1.0, 2.0]),
    }
    good, bad, labels = cases[name]
    better, worse = TASK_METRICS[name](good, labels), TASK_METRICS[name](bad, labels)
    assert better < worse if name in LOWER_IS_BETTER else better > worse


def test_task_nll_leaves_padding_out() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 4, 5))
    tokens = np.array([[1, 2, -1, -1], [3, 4, 0, 1]])
    assert TASK_METRICS["nll"](logits, tokens) == nll(logits, np.abs(tokens), [2, 4])


def test_task_sqnr_takes_the_labels_as_the_signal() -> None:
    assert TASK_METRICS["sqnr_db"]([1.0, 10.0], [1.0, 1.0]) == sqnr_db([1.0, 1.0], [1.0, 10.0])
