"""How far two outputs are apart, and how well outputs do a task: NumPy only, always finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .core.encoding import F64

# Equal arrays would have infinite signal-to-noise ratio, which JSON cannot hold.
SQNR_CAP_DB = 200.0


@dataclass(frozen=True, slots=True)
class StepReport:
    """How far integer outputs are apart, in quantisation steps."""

    max_steps: int
    share_within_1: float
    share_equal: float


def sqnr_db(reference: ArrayLike, other: ArrayLike) -> float:
    """Return 10 log10(signal / noise), limited to +-SQNR_CAP_DB (equal arrays: the cap).

    Raises ValueError, like every comparison here, for unlike shapes, empty or non-finite arrays.
    """
    a, b = _pair(reference, other)
    # A common factor keeps squares of huge or tiny values inside float64.
    largest = max(float(np.abs(a).max()), float(np.abs(b).max())) or 1.0
    signal = float(np.square(a / largest).sum())
    noise = float(np.square(a / largest - b / largest).sum())
    if noise == 0.0:
        return SQNR_CAP_DB
    if signal == 0.0:
        return -SQNR_CAP_DB
    return float(np.clip(10 * np.log10(signal) - 10 * np.log10(noise), -SQNR_CAP_DB, SQNR_CAP_DB))


def noise_share(reference: ArrayLike, other: ArrayLike) -> float:
    """Return the mean square of the difference over that of the reference, at most 1."""
    return min(1.0, 10 ** (-sqnr_db(reference, other) / 10))


def cosine(reference: ArrayLike, other: ArrayLike) -> float:
    """Return the cosine of the angle between both arrays.

    Two zero arrays agree (1), a zero array agrees with no other (0).
    """
    a, b = _pair(reference, other)
    largest_a, largest_b = float(np.abs(a).max()), float(np.abs(b).max())
    if largest_a == 0.0 or largest_b == 0.0:
        return float(largest_a == largest_b)
    a, b = a.ravel() / largest_a, b.ravel() / largest_b
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def max_abs(reference: ArrayLike, other: ArrayLike) -> float:
    """Return the largest absolute difference."""
    a, b = _pair(reference, other)
    return float(np.abs(a - b).max())


def top1_agreement(reference: ArrayLike, other: ArrayLike) -> float:
    """Return the share of rows (last axis) whose largest element is at the same place."""
    a, b = _pair(reference, other)
    return float(np.mean(np.argmax(a, axis=-1) == np.argmax(b, axis=-1)))


def steps(a: ArrayLike, b: ArrayLike) -> StepReport:
    """Return how many steps two integer arrays are apart.

    Raises ValueError for other types, unlike shapes or empty arrays.
    """
    left, right = np.asarray(a), np.asarray(b)
    if not (np.issubdtype(left.dtype, np.integer) and np.issubdtype(right.dtype, np.integer)):
        raise ValueError(f"steps need integer arrays, got {left.dtype} and {right.dtype}")
    _check_shapes(left, right)
    apart = np.abs(left.astype(np.int64) - right.astype(np.int64))
    return StepReport(int(apart.max()), float(np.mean(apart <= 1)), float(np.mean(apart == 0)))


def steps_text(max_steps: int, in_double: int | None) -> str:
    """Return the distance from ONNX Runtime in words, and that in double where it differs."""
    text = f"{max_steps} step{'' if max_steps == 1 else 's'}"
    same = in_double is None or in_double == max_steps
    return text if same else f"{text} ({in_double} in double precision)"


def accuracy(outputs: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of outputs [..., classes] whose largest element is at labels [...]."""
    scores, wanted = _finite(outputs), np.asarray(labels)
    if scores.shape[:-1] != wanted.shape:
        raise ValueError(
            f"outputs {scores.shape} need labels {scores.shape[:-1]}, got {wanted.shape}"
        )
    return float(np.mean(np.argmax(scores, axis=-1) == wanted))


def nll(logits: ArrayLike, tokens: ArrayLike, length: ArrayLike) -> float:
    """Return the mean negative log-likelihood of each next token, in nats per token.

    logits: [..., positions, vocabulary], tokens: [..., positions], length: [...], the number of
    leading tokens that count. All predicted tokens weigh the same. Raises ValueError for shapes
    that do not fit or when there is no token to predict.
    """
    scores, ids, counts = _finite(logits), np.asarray(tokens, np.int64), np.asarray(length)
    if scores.shape[:-1] != ids.shape or counts.shape != ids.shape[:-1]:
        raise ValueError(
            f"logits {scores.shape} do not fit tokens {ids.shape} and lengths {counts.shape}"
        )
    counted = np.arange(1, ids.shape[-1]) < counts[..., None]
    if not counted.any():
        raise ValueError("no next token to predict: every text is shorter than two tokens")
    predicted = np.where(counted, ids[..., 1:], 0)[..., None]
    now = scores[..., :-1, :] - scores[..., :-1, :].max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(now, predicted, axis=-1)[..., 0]
    return float((np.log(np.exp(now).sum(axis=-1)) - chosen)[counted].mean())


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve of scores (one per label, positive where label > 0).

    Ties count half. Raises ValueError unless both classes occur.
    """
    values, positive = _finite(scores).ravel(), np.asarray(labels).ravel() > 0
    if values.size != positive.size:
        raise ValueError(f"{values.size} scores need as many labels, got {positive.size}")
    hits = int(positive.sum())
    misses = positive.size - hits
    if not hits or not misses:
        raise ValueError("the area under the ROC curve needs labels of both classes")
    return float((_ranks(values)[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def spearman(outputs: ArrayLike, labels: ArrayLike) -> float:
    """Return Spearman's rank correlation of as many outputs as labels; ties share their mean rank.

    Raises ValueError when sizes differ or either side is constant.
    """
    a, b = _ranks(_finite(outputs).ravel()), _ranks(_finite(labels).ravel())
    if a.size != b.size:
        raise ValueError(f"{a.size} outputs need as many labels, got {b.size}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise ValueError("rank correlation needs outputs and labels that vary")
    return cosine(a - a.mean(), b - b.mean())


def _token_nll(outputs: ArrayLike, labels: ArrayLike) -> float:
    """Return nll of labels [..., positions] whose negative tokens are padding at the end."""
    tokens = np.asarray(labels)
    return nll(outputs, tokens, (tokens >= 0).sum(axis=-1))


TaskMetric = Callable[[ArrayLike, ArrayLike], float]

TASK_METRICS: Mapping[str, TaskMetric] = {
    "accuracy": accuracy,
    "auc": auc,
    "max_abs": max_abs,
    "nll": _token_nll,
    "spearman": spearman,
    "sqnr_db": lambda outputs, labels: sqnr_db(labels, outputs),
}
# A drop of any other metric is a loss of quality; of these, a rise.
LOWER_IS_BETTER = frozenset({"max_abs", "nll"})


def _ranks(values: F64) -> F64:
    """Return 1-based ranks, equal values sharing the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]


def _finite(array: ArrayLike) -> F64:
    values = np.asarray(array, np.float64)
    if not values.size:
        raise ValueError("an empty array cannot be measured")
    if not np.isfinite(values).all():
        raise ValueError("an array with NaN or infinite elements cannot be measured")
    return values


def _check_shapes(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"cannot compare shape {a.shape} with shape {b.shape}")
    if not a.size:
        raise ValueError("empty arrays cannot be compared")


def _pair(reference: ArrayLike, other: ArrayLike) -> tuple[F64, F64]:
    _check_shapes(np.asarray(reference), np.asarray(other))
    return _finite(reference), _finite(other)
