"""Orthogonal matrices that spread outliers over all channels, for any number of channels.

Hadamard matrices by Sylvester's doubling, both constructions of Paley over GF(p^k), and Kronecker
products of these; where an order has none that these reach, any orthogonal matrix takes the part
of the odd factor. A matrix that is folded into weights need not be fast, only flat.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..compiler.core.encoding import F64, I64


def spreading(channels: int, rng: np.random.Generator) -> tuple[F64, str]:
    """Return a random orthogonal matrix [channels, channels] as flat as can be, and its name.

    Rows of a normalised Hadamard matrix with random signs: a one-hot row becomes +-1/sqrt(n).
    """
    signs = rng.choice([-1.0, 1.0], channels)[:, None]
    matrix = hadamard(channels)
    if matrix is not None:
        return signs * matrix / np.sqrt(channels), f"Hadamard matrix of order {channels}"
    even = channels & -channels
    inner, outer = hadamard(even), random_orthogonal(channels // even, rng)
    assert inner is not None
    text = f"orthogonal matrix of order {channels // even} times Hadamard matrix of order {even}"
    return signs * np.kron(outer, inner / np.sqrt(even)), text


def random_orthogonal(order: int, rng: np.random.Generator) -> F64:
    """Return a matrix drawn evenly from all orthogonal ones."""
    q, r = np.linalg.qr(rng.standard_normal((order, order)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


@lru_cache(maxsize=32)
def hadamard(order: int) -> F64 | None:
    """Return H [order, order] of +-1 with H H^T = order I, or None if none is reached."""
    factors = hadamard_factors(order)
    if factors is None:
        return None
    return np.kron(factors[0], sylvester(factors[1])).astype(np.float64)


def hadamard_factors(order: int) -> tuple[F64, int] | None:
    """Return (H [m, m], n): H (x) Sylvester's matrix of order n is one of order m n; or None."""
    power = order & -order
    while power >= 1:
        small = _paley(order // power)
        if small is not None:
            return small, power
        power //= 2
    return None


def sylvester(order: int) -> F64:
    """Return the Hadamard matrix of an order that is a power of two, by doubling."""
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _paley(order: int) -> F64 | None:
    """Return a Hadamard matrix of order 1, q + 1 (q = 3 mod 4) or 2 (q + 1) (q = 1 mod 4)."""
    if order == 1:
        return np.ones((1, 1))
    if order % 4 == 0 and (order - 1) % 4 == 3 and (q := _prime_power(order - 1)) is not None:
        core = _characters(*q)
        skew = np.zeros((order, order))
        skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, core
        return skew + np.eye(order)
    half = order // 2
    if order % 4 == 0 and (half - 1) % 4 == 1 and (q := _prime_power(half - 1)) is not None:
        conference = np.zeros((half, half))
        conference[0, 1:] = conference[1:, 0] = 1
        conference[1:, 1:] = _characters(*q)
        first, second = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
        return np.kron(conference, first) + np.kron(np.eye(half), second)
    return None


def _prime_power(number: int) -> tuple[int, int] | None:
    """Return (p, k) with p prime and p ** k = number, or None."""
    p = next((d for d in range(2, int(number**0.5) + 1) if number % d == 0), number)
    k, rest = 0, number
    while p > 1 and rest % p == 0:
        k, rest = k + 1, rest // p
    return (p, k) if rest == 1 and k else None


def _characters(p: int, k: int) -> F64:
    """Return the quadratic characters of all differences in GF(p^k): [q, q], 0 on the diagonal."""
    digits = np.array(list(itertools.product(range(p), repeat=k)), np.int64)
    weights = p ** np.arange(k)[::-1]
    squares = np.diagonal(_field(p, k))
    character = np.full(p**k, -1.0)
    character[squares] = 1.0
    character[0] = 0.0
    differences = ((digits[:, None] - digits[None]) % p) @ weights
    return character[differences]


@lru_cache(maxsize=8)
def _field(p: int, k: int) -> I64:
    """Return the multiplication table of GF(p^k), elements numbered by their digits."""
    digits = np.array(list(itertools.product(range(p), repeat=k)), np.int64)
    weights = p ** np.arange(k)[::-1]
    for tail in digits:
        table = _products(digits, tail, p) @ weights
        if k == 1 or bool((table[1:, 1:] != 0).all()):
            return table
    raise AssertionError(f"GF({p}^{k}) has an irreducible polynomial")


def _products(digits: NDArray[np.int64], tail: NDArray[np.int64], p: int) -> I64:
    """Multiply all pairs of polynomials (highest power first) modulo x^k + tail."""
    q, k = digits.shape
    full = np.zeros((q, q, 2 * k - 1), np.int64)
    for i, j in itertools.product(range(k), range(k)):
        full[:, :, i + j] += digits[:, None, i] * digits[None, :, j]
    for top in range(k - 1):
        full[:, :, top + 1 : top + 1 + k] -= full[:, :, top : top + 1] * tail
    return full[:, :, k - 1 :] % p
