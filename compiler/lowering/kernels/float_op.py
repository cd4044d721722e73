"""ONNX operators in float32, through TVM's own converters: the inside of a float island.

A float island is a place where no integer kernel exists. Its results are those of the C compiler
and math library of the target: equal up to rounding, not bit for bit, unless every operation is
exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx

from ..program import Array, Case, Param
from ._base import KernelBase
from ._convert import converted
from ._tir import OUTSIDE, PARALLEL, SERIAL

_DATA_PARALLEL = 0  # TVM's IterVar.DataPar


@dataclass(frozen=True, slots=True)
class FloatOp(KernelBase):
    """`model`: a serialised ONNX model, usually of one node; its inputs and outputs as they are.

    After the inputs come the constants of the converter (weights), in the order of `constants`.
    """

    model: bytes

    name: ClassVar[str] = "float_op"

    def params(self, isa: str) -> tuple[Param, ...]:
        """The inputs in the node's order, constants, outputs, then TVM's temporaries."""
        return converted(self.model).params

    def build(self, isa: str) -> Any:
        """Return the PrimFunc; for "cuda" with the independent iterations in its outer loops."""
        function = converted(self.model).function
        return _spread(function) if isa == "cuda" else function

    @property
    def constants(self) -> tuple[Array, ...]:
        """What the code reads beside its inputs; booleans as bytes."""
        return tuple(_stored(c).reshape(-1) for c in converted(self.model).constants)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Return what ONNX's reference implementation computes."""
        from onnx.reference import ReferenceEvaluator

        proto = onnx.load_from_string(self.model)
        feeds: dict[str, Array] = {}
        for port, array in zip(proto.graph.input, arrays, strict=False):
            shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
            feeds[port.name] = array.reshape(shape).astype(dtype)
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(proto).run(None, feeds)
        dtypes = [p.dtype for p in self.params("generic") if p.role == "output"]
        pairs = zip(results, dtypes, strict=True)
        return tuple(np.asarray(y).astype(dtype).reshape(-1) for y, dtype in pairs)

    @staticmethod
    def cases() -> Iterable[Case]:
        """Operators that are exact in IEEE arithmetic; integers, booleans, several outputs."""
        rng = np.random.default_rng(17)
        a, b = (rng.normal(2, 0.5, 12).astype(np.float32) for _ in range(2))
        n, w = rng.integers(-9, 9, 12), rng.integers(-9, 9, (4, 2)).astype(np.float32)
        sizes = np.array([1, 3])
        for text, arrays, held in (
            ("(float[3,4] A, float[3,4] B) => (float[3,4] Y) { Y = Div (A, B) }", (a, b), {}),
            ("(float[3,4] A) => (float[3,4] Y) { Y = Sqrt (A) }", (a,), {}),
            ("(int64[3,4] A) => (int64[4,3] Y) { Y = Transpose (A) }", (n,), {}),
            ("(float[3,4] A, float[3,4] B) => (bool[3,4] Y) { Y = Less (A, B) }", (a, b), {}),
            (
                "(float[3,4] A) => (float[3,1] Y, float[3,3] Z) { Y, Z = Split <axis=1> (A, s) }",
                (a,), {"s": sizes},
            ),
            (
                "(float[3,4] A) => (float[3,2] Y) { R = Round (A) Y = MatMul (R, W) }",
                (a,), {"W": w},
            ),
        ):  # fmt: skip
            proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> m {text}')
            tensors = [onnx.numpy_helper.from_array(v, k) for k, v in held.items()]
            proto.graph.initializer.extend(tensors)
            kernel = FloatOp(proto.SerializeToString(deterministic=True))
            yield Case(kernel, (*arrays, *kernel.constants))


def _spread(function: Any) -> Any:
    """Fuse the independent loops of every block into one outside; mark how threads may share it.

    A block without such loops (a sum of everything) leaves the whole function to one thread.
    """
    import tvm
    from tvm import s_tir

    schedule: Any = s_tir.Schedule(tvm.IRModule({"main": function}))
    outside = PARALLEL
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        kinds = [iteration.iter_type for iteration in schedule.get(block).iter_vars]
        around = schedule.get_loops(block)
        free = [loop for loop, kind in zip(around, kinds, strict=False) if kind == _DATA_PARALLEL]
        extent = prod(int(schedule.get(loop).extent) for loop in free)
        if len(kinds) != len(around) or extent == 1:
            outside = SERIAL
            continue
        rest = [loop for loop, kind in zip(around, kinds, strict=True) if kind != _DATA_PARALLEL]
        if free and rest:
            schedule.reorder(*free, *rest)
        schedule.fuse(*free)
    return schedule.mod["main"].with_attr(OUTSIDE, outside)


def _stored(array: Array) -> Array:
    return array.astype(np.uint8) if array.dtype == np.bool_ else array
