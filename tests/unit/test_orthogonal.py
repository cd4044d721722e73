"""Hadamard matrices of every order that is promised, and what they do to outliers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kurtosis

from edgec.passes._orthogonal import hadamard, spreading

# Widths of published models: TinyBERT, MiniLM, BERT, SmolLM, and feed-forward layers of others.
ORDERS = (1, 2, 4, 12, 20, 28, 36, 52, 64, 76, 96, 108, 172, 300, 312, 344, 384, 576, 768, 896)


@pytest.mark.parametrize("order", ORDERS)
def test_hadamard_matrices_are_orthogonal_and_plus_or_minus_one(order: int) -> None:
    matrix = hadamard(order)
    if order == 172:  # no Paley order times a power of two
        assert matrix is None
        return
    assert matrix is not None and set(np.unique(matrix)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order))


@pytest.mark.parametrize("order", [3, 6, 10, 14, 92])
def test_orders_without_one_say_so(order: int) -> None:
    assert hadamard(order) is None


@pytest.mark.parametrize("order", [1, 3, 6, 26, 64, 92, 172, 384])
def test_every_order_has_an_orthogonal_matrix(order: int) -> None:
    matrix, _ = spreading(order, np.random.default_rng(0))
    assert np.abs(matrix @ matrix.T - np.eye(order)).max() < 1e-12


@pytest.mark.parametrize("channels", [96, 384, 768])
def test_outlier_channels_are_spread(channels: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, channels))
    x[:, rng.choice(channels, max(1, channels // 200), replace=False)] *= 60
    matrix, _ = spreading(channels, rng)
    turned = x @ matrix
    largest = np.abs(turned).max(axis=0)
    assert kurtosis(turned.reshape(-1), fisher=False) < 4
    assert largest.max() / np.median(np.abs(turned)) < 12
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(x, axis=1))
    np.testing.assert_allclose(np.abs(matrix), 1 / np.sqrt(channels), atol=1e-15)
