"""The model-local function `edgec.Kronecker`: every row times the Kronecker product of A and B.

Y = X (A (x) B) on the last axis of X, which A [p, p] and B [q, q] divide as (p, q). ONNX Runtime
runs its body of standard operators; lowering recognises Hadamard matrices in A and B and does
without any matrix of p q x p q numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from .encoding import F64, I8

EDGEC_DOMAIN = "edgec"  # its functions must stay recognisable: loading does not inline them
KRONECKER = "Kronecker"
_VERSION = 1
_BODY = """<domain: "edgec", opset_import: ["" : {opset}]> Kronecker (X, A, B) => (Y) {{
  shape = Shape (X)
  p = Shape <end = 1> (A)
  q = Shape <end = 1> (B)
  rows = Constant <value_ints = [-1]> ()
  split = Concat <axis = 0> (rows, p, q)
  S = Reshape (X, split)
  M = MatMul (S, B)
  T = Transpose <perm = [1, 0]> (A)
  N = MatMul (T, M)
  Y = Reshape (N, shape)
}}"""
# Entries of a small factor that are no +-1 are multiples of their largest by this.
LARGEST_CODE = 127
_EXACT = 1e-6


def kronecker_function(opset: int) -> onnx.FunctionProto:
    """Return the function in operators of this opset."""
    return onnx.parser.parse_function(_BODY.format(opset=opset))


def declare_kronecker(model: ir.Model) -> None:
    """Let model hold the function, in the opset that the model has now."""
    function = ir.from_proto(kronecker_function(model.opset_imports[""]))
    assert isinstance(function, ir.Function)
    model.functions[function.identifier()] = function
    model.opset_imports[EDGEC_DOMAIN] = _VERSION


def is_kronecker(node: ir.Node | None) -> bool:
    """Return whether node calls the function."""
    return node is not None and (node.domain, node.op_type) == (EDGEC_DOMAIN, KRONECKER)


@dataclass(frozen=True, slots=True, eq=False)
class HadamardForm:
    """A (x) B = scale * signs * (small (x) Sylvester's of order `power`) (x) identity of `inner`.

    `signs`: [m * power] of +-1, one per row; `small`: [m, m] integers.
    """

    signs: I8
    small: I8
    power: int
    inner: int
    scale: float


def hadamard_form(a: NDArray[np.floating], b: NDArray[np.floating]) -> HadamardForm | None:
    """Return the form of a [p, p] (x) b [q, q], or None if it has none."""
    if len(b) > 1 and np.array_equal(b, b[0, 0] * np.eye(len(b))):
        inner, second, unit, b_signs = len(b), 1, float(b[0, 0]), np.ones(1)
    else:
        b_signs = _row_signs(b)
        right, second = _without_sylvester(b.astype(np.float64) * b_signs[:, None])
        inner, unit = 1, float(right[0, 0])
        if len(right) > 1:
            return None
    a_signs = _row_signs(a)
    left, first = _without_sylvester(a.astype(np.float64) * a_signs[:, None])
    codes = _codes(left)
    if codes is None or not unit > 0:
        return None
    signs = np.kron(a_signs, b_signs).astype(np.int8)
    return HadamardForm(signs, codes[0], first * second, inner, codes[1] * unit)


def _row_signs(matrix: NDArray[np.floating]) -> F64:
    """Return the sign of the first entry of every row that is not zero; 1 for rows of zeros."""
    first = np.take_along_axis(matrix, (matrix != 0).argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(first < 0, -1.0, 1.0)


def _without_sylvester(matrix: F64) -> tuple[F64, int]:
    """Return (rest, n): matrix = rest (x) Sylvester's matrix of the largest order n there is."""
    order = 1
    while len(matrix) % 2 == 0:
        half = len(matrix) // 2
        blocks = matrix.reshape(half, 2, half, 2).transpose(1, 3, 0, 2)
        corner = blocks[0, 0]
        if any(not np.array_equal(corner, b) for b in (blocks[0, 1], blocks[1, 0], -blocks[1, 1])):
            break
        matrix, order = corner, order * 2
    return matrix, order


def _codes(matrix: F64) -> tuple[I8, float] | None:
    """Return (integers, what one is worth) of a small factor, or None if int8 does not hold it."""
    sizes = np.abs(matrix)
    largest = float(sizes.max(initial=0.0))
    if largest == 0:
        return None
    unit = largest if bool((sizes == largest).all()) else largest / LARGEST_CODE
    codes = np.rint(matrix / unit)
    if np.abs(codes * unit - matrix).max() > _EXACT * largest:
        return None
    return codes.astype(np.int8), unit


def rounded_factor(matrix: F64) -> F64:
    """Return a small factor as multiples of its largest entry that int8 holds."""
    unit = float(np.abs(matrix).max()) / LARGEST_CODE
    return np.rint(matrix / unit) * unit
