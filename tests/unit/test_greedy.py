"""DuQuant's rotations: orthogonal, never worse than none, and the paper's permutation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.passes._greedy import block_rotation, duquant_turn, spreader, zigzag


def outlier_rows(channels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((64, channels))
    rows[:, rng.choice(channels, 2, replace=False)] *= 40
    return rows


@pytest.mark.parametrize("block", [1, 2, 8, 128])
def test_the_spreader_is_orthogonal_and_spreads_channel_zero(block: int) -> None:
    matrix = spreader(block, np.random.default_rng(0))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(block), atol=1e-12)
    # Only the first entry of row 0 survives the random rotation of the other channels.
    assert abs(matrix[0, 0]) == pytest.approx(1 / np.sqrt(block))


def test_zigzag_deals_channels_back_and_forth() -> None:
    ranks = zigzag(np.arange(8.0, 0, -1), 4) + 1
    assert ranks.tolist() == [1, 4, 5, 8, 2, 3, 6, 7]  # the paper's example for two blocks


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 999), blocks=st.sampled_from([1, 2, 3, 6]))
def test_turns_are_orthogonal_and_never_widen_the_range(seed: int, blocks: int) -> None:
    rows = outlier_rows(8 * blocks, seed)
    found = duquant_turn(rows, 8, 32, np.random.default_rng(seed))
    size = rows.shape[1]
    np.testing.assert_allclose(found.matrix @ found.matrix.T, np.eye(size), atol=1e-12)
    assert found.range_after <= found.range_before
    assert found.range_after == pytest.approx(float(np.ptp(rows @ found.matrix)))
    assert found.range_after < 0.8 * found.range_before  # channels of 40 among channels of 1


def test_zigzag_spreads_the_largest_channels_over_all_blocks() -> None:
    largest = np.random.default_rng(3).uniform(0, 1, 24)
    order = zigzag(largest, 6)
    assert sorted(order) == list(range(24))
    firsts = np.argsort(-largest)[:4]
    assert {int(np.flatnonzero(order == c)[0]) // 6 for c in firsts} == {0, 1, 2, 3}


def test_flat_rows_are_left_alone() -> None:
    rows = np.where(np.random.default_rng(0).integers(0, 2, (64, 8)) == 0, -1.0, 1.0)
    np.testing.assert_array_equal(block_rotation(rows, 8, 16, np.random.default_rng(0)), np.eye(8))
