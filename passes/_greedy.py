"""DuQuant's search for the rotation of one set of rows (arXiv 2406.01721, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..compiler.core.encoding import F64, I64
from ._orthogonal import random_orthogonal


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """An orthogonal matrix [channels, channels] and what it did to the range of the rows."""

    matrix: F64
    range_before: float
    range_after: float


def spreader(block: int, rng: np.random.Generator) -> F64:
    """Return the orthogonal matrix [block, block] that spreads channel 0 (equation 4).

    A product of Givens rotations whose row 0 is 1 / sqrt(block) everywhere, times a random
    rotation of all channels but the first.
    """
    matrix = np.eye(block)
    for i in range(block - 1):
        cosine, sine = 1 / np.sqrt(i + 2), np.sqrt((i + 1) / (i + 2))
        upper, lower = matrix[i].copy(), matrix[i + 1].copy()
        matrix[i], matrix[i + 1] = cosine * upper - sine * lower, sine * upper + cosine * lower
    _swap(matrix, block - 1)
    mixed = np.eye(block)
    mixed[1:, 1:] = random_orthogonal(block - 1, rng) if block > 1 else mixed[1:, 1:]
    return matrix @ mixed


def block_rotation(rows: F64, block: int, steps: int, rng: np.random.Generator) -> F64:
    """Return R [block, block] for rows [n, channels] whose blocks of channels all turn by it.

    Every step turns the channel of the largest value away; of all steps those up to the smallest
    range of all values are kept, none included.
    """
    x = rows.reshape(-1, block)
    base, best = spreader(block, rng), np.eye(block)
    total, smallest = best, float(np.ptp(x))
    for _ in range(steps):
        turn = base.copy()
        _swap(turn, int(np.abs(x).argmax()) % block)
        x, total = x @ turn, total @ turn
        if float(np.ptp(x)) < smallest:
            best, smallest = total, float(np.ptp(x))
    return best


def _swap(matrix: F64, channel: int) -> None:
    """Exchange channel 0 and another one, in rows and columns."""
    order = np.arange(len(matrix))
    order[[0, channel]] = channel, 0
    matrix[...] = matrix[np.ix_(order, order)]


def zigzag(largest: F64, block: int) -> I64:
    """Return the permutation that deals channels to blocks by size, back and forth (equation 6).

    `largest`: [channels] the largest value of each.
    """
    blocks = len(largest) // block
    dealt = np.argsort(-largest, kind="stable").reshape(block, blocks)
    dealt[1::2] = dealt[1::2, ::-1]
    return np.ascontiguousarray(dealt.T.reshape(-1), np.int64)


def duquant_turn(rows: F64, block: int, steps: int, rng: np.random.Generator) -> Turn:
    """Return T = R1 P R2 for rows [n, channels]; one block needs no permutation and no R2."""
    channels = rows.shape[1]
    count = channels // block
    matrix = _repeated(block_rotation(rows, block, steps, rng), count)
    if count > 1:
        turned = rows @ matrix
        order = zigzag(np.abs(turned).max(axis=0), block)
        second = block_rotation(turned[:, order], block, steps, rng)
        matrix = matrix[:, order] @ _repeated(second, count)
    return Turn(matrix, float(np.ptp(rows)), float(np.ptp(rows @ matrix)))


def _repeated(matrix: F64, count: int) -> F64:
    """Return the block diagonal matrix that holds matrix count times."""
    return np.kron(np.eye(count), matrix).astype(np.float64)
