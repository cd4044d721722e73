"""Rotations at run time: products with Hadamard matrices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...core.encoding import WIDE_BITS
from ...core.graph import label
from ...core.kronecker import hadamard_form, is_kronecker
from ..kernels._shared import HIGH, LOW, Epilogue
from ..kernels.hadamard import Hadamard, hadamard_constants
from ..lower import Lowering, RefusedError, Request
from ..values import Quantised
from ..views import View


def match_kronecker(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """A product with Hadamard matrices, by butterflies."""
    if not is_kronecker(node) or node.inputs[0] is None:
        return None
    a, b = (low.number(v) for v in node.inputs[1:3])
    form = None if a is None or b is None else hadamard_form(a, b)
    if form is None:
        raise RefusedError(f"{label(node)}: its matrices are not Hadamard's")
    x = low.quantised(node.inputs[0])
    if x.encoding.bits > WIDE_BITS:
        raise RefusedError(f"{label(node)}: no integer kernel reads more than {WIDE_BITS} bits")
    try:
        constants = hadamard_constants(
            form.small, form.power, form.scale, x.encoding, request.encoding
        )
    except ValueError as reason:
        raise RefusedError(f"{label(node)}: {reason}") from reason
    q = constants[2]
    q[LOW], q[HIGH] = request.low, request.high
    shape = x.view.shape
    source = low.builder.dense(x.view, request.hint, (label(node),))
    small = len(form.small)
    rows = int(np.prod(shape)) // (small * form.power * form.inner)
    kernel = Hadamard(
        rows, small, form.power, form.inner, Epilogue.of(q, request.dtype), x.encoding.dtype.name
    )
    name = low.builder.emit(
        kernel, [source], [form.signs, *constants], request.hint, (label(node),)
    )
    return Quantised(View.whole(name, shape), request.encoding)
