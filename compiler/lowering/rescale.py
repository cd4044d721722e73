"""A tensor in memory as another function of its codes: a table, or a product with one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.encoding import Requantiser
from .builder import ProgramBuilder
from .kernels._shared import Epilogue, parameters
from .kernels.mul import Mul
from .kernels.table import Table
from .program import Array, Kernel
from .request import RefusedError, Request
from .values import Quantised
from .views import View, inverse


def every_value(held: Quantised) -> Array:
    """Return the real value of every code that held may contain, lowest code first."""
    low, high = held.encoding.limits
    return held.encoding.dequantise(np.arange(low, high + 1))


def rescaled(builder: ProgramBuilder, held: Quantised, request: Request) -> Quantised:
    """Return held in the requested encoding and clamp."""
    whole = (request.low, request.high) == request.encoding.limits
    if whole and held.encoding == request.encoding:
        return held
    return mapped(builder, held, every_value(held), request, ())


def mapped(
    builder: ProgramBuilder, held: Quantised, values: Array, request: Request, nodes: Sequence[str]
) -> Quantised:
    """Return held with code number i replaced by the code of values[i].

    8-bit codes go through a table. Wider ones are multiplied by a constant; raises RefusedError
    when values are not proportional to what the codes stand for.
    """
    order = held.view.storage_order()
    source = held.view.transpose(order)
    constants: list[Array]
    kernel: Kernel
    inputs = [source.buffer]
    if held.encoding.bits == 8:
        kernel = Table.of(source.shape, source.access, request.dtype)
        codes = np.clip(request.encoding.quantise(values), request.low, request.high)
        constants = [codes.astype(request.dtype)]
    else:
        sign, q, multiplier = _proportional(held, values, request)
        unit = builder.constant("unit", np.array([sign], np.int8)).broadcast(source.shape)
        dtypes = held.encoding.dtype.name, "int8"
        epilogue = Epilogue.of(q, request.dtype)
        kernel = Mul.of(source.shape, source.access, unit.access, epilogue, dtypes)
        constants = [np.array([held.encoding.zero_point[0], 0], np.int32), multiplier, q]
        inputs.append(unit.buffer)
    name = builder.emit(kernel, inputs, constants, request.hint, nodes)
    return Quantised(View.whole(name, source.shape).transpose(inverse(order)), request.encoding)


def _proportional(held: Quantised, values: Array, request: Request) -> tuple[int, Array, Array]:
    """Return (sign, q, multiplier) of values as a multiple of what the codes stand for."""
    real = every_value(held).astype(np.float64)
    largest = int(np.abs(real).argmax())
    factor = float(values[largest]) / real[largest]
    off = np.abs(values - factor * real).max() > 1e-6 * abs(float(values[largest]))
    if factor == 0 or off:
        raise RefusedError(f"'{request.hint}' would need a table over more than 8 bits")
    encoding = request.encoding
    try:
        rule = Requantiser.of(abs(factor) * held.encoding.scale[0] / encoding.scale[0])
    except ValueError as reason:
        raise RefusedError(f"'{request.hint}': {reason}") from reason
    q = parameters(rule, encoding.zero_point[0], request.low, request.high)
    return (1 if factor > 0 else -1), q, np.array(rule.multiplier, np.int32)
