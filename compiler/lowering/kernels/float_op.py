"""One ONNX operator in float32, through TVM's own converters: the inside of a float island.

A float island is a place where no integer kernel exists. Its results are those of the C compiler
and math library of the target: equal up to rounding, not bit for bit, unless every operation is
exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx

from ..program import Array, Case, Param
from ._base import KernelBase
from ._tir import OUTSIDE, PARALLEL, SERIAL

_DATA_PARALLEL = 0  # TVM's IterVar.DataPar


class NotOneKernelError(ValueError):
    """TVM has no converter for the operator, or makes several kernels of it."""


@dataclass(frozen=True, slots=True)
class FloatOp(KernelBase):
    """`model`: a serialised one-node ONNX model; constants inside, float32 inputs and output."""

    model: bytes

    name: ClassVar[str] = "float_op"

    def params(self, isa: str) -> tuple[Param, ...]:
        """The inputs in the node's order, y, then TVM's temporaries as scratch."""
        return converted(self.model)[1]

    def build(self, isa: str) -> Any:
        """Return the PrimFunc; for "cuda" with the independent iterations in its outer loops."""
        function = converted(self.model)[0]
        return _spread(function) if isa == "cuda" else function

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Return what ONNX's reference implementation computes."""
        from onnx.reference import ReferenceEvaluator

        proto = onnx.load_from_string(self.model)
        feeds: dict[str, Array] = {}
        for port, array in zip(proto.graph.input, arrays, strict=True):
            shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
            feeds[port.name] = array.reshape(shape)
        (y,) = ReferenceEvaluator(proto).run(None, feeds)
        return (np.asarray(y, np.float32).reshape(-1),)

    @staticmethod
    def cases() -> Iterable[Case]:
        """Operators that are exact in IEEE arithmetic: a quotient, a maximum with scratch."""
        rng = np.random.default_rng(17)
        a, b = (rng.normal(2, 0.5, 12).astype(np.float32) for _ in range(2))
        head = '<ir_version: 10, opset_import: ["" : 21]> m '
        for text, arrays in (
            ("(float[3,4] A, float[3,4] B) => (float[3,4] Y) { Y = Div (A, B) }", (a, b)),
            ("(float[3,4] A) => (float[3,4] Y) { Y = Sqrt (A) }", (a,)),
        ):
            proto = onnx.parser.parse_model(head + text)
            yield Case(FloatOp(proto.SerializeToString(deterministic=True)), arrays)


@lru_cache(maxsize=256)
def converted(model: bytes) -> tuple[Any, tuple[Param, ...]]:
    """Return (PrimFunc, its parameters) of a one-node model.

    Raises NotOneKernelError when TVM cannot convert it into a single kernel.
    """
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    proto = onnx.load_from_string(model)
    (node,) = proto.graph.node
    try:
        whole: Any = proto  # annotated as a GraphProto, but it takes the model
        module = from_onnx(whole, keep_params_in_input=False)
        module = tvm.transform.Sequential(
            [
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FoldConstant(),
                relax.transform.FuseOps(fuse_opt_level=4),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
            ]
        )(module)
    except Exception as problem:
        # TVM's converters raise many types for what they lack; the reason is in the text.
        first = str(problem).strip().splitlines()[-1][:160]
        raise NotOneKernelError(f"TVM cannot convert {node.op_type}: {first}") from problem
    function = _only_kernel(module, node.op_type, len(proto.graph.input))
    return _with_scratch_parameters(function, len(proto.graph.input))


def _only_kernel(module: Any, op_type: str, inputs: int) -> Any:
    """Return the one PrimFunc that main calls with exactly its inputs."""
    from tvm import relax, tirx

    main: Any = module["main"]
    bindings: list[Any] = [b for block in main.body.blocks for b in block.bindings]
    values: list[Any] = [b.value for b in bindings if isinstance(b.value, relax.Call)]
    calls = [value for value in values if value.op.name == "relax.call_tir"]
    functions: dict[str, Any] = {
        str(v.name_hint): f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)
    }
    if len(calls) != 1 or len(calls[0].args[1]) != inputs:
        raise NotOneKernelError(f"TVM makes {len(calls)} kernels of {op_type}, not one")
    arguments: list[Any] = list(calls[0].args[1])
    given = [str(argument.name) for argument in arguments]
    if given != [str(p.name) for p in list[Any](main.params)]:
        raise NotOneKernelError(f"TVM reorders the inputs of {op_type}")
    return functions[str(calls[0].args[0].name_hint)]


def _with_scratch_parameters(function: Any, inputs: int) -> tuple[Any, tuple[Param, ...]]:
    """Turn the temporaries of the root block into parameters, so that the arena holds them."""
    from tvm import s_tir, tirx

    realize = function.body
    root = realize.block
    temporaries = list(root.alloc_buffers)
    block = s_tir.SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, root.body, root.init, [],
        root.match_buffers, root.annotations,
    )  # fmt: skip
    body = s_tir.SBlockRealize(realize.iter_values, realize.predicate, block)
    params = [*function.params, *temporaries]
    roles = ["input"] * inputs + ["output"] + ["scratch"] * len(temporaries)
    described = tuple(
        Param(_name(role, index), _elements(buffer), str(buffer.dtype), role)
        for index, (buffer, role) in enumerate(zip(params, roles, strict=True))
    )
    plain = tirx.PrimFunc(params, body, function.ret_type)
    return plain, described


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


def _name(role: str, index: int) -> str:
    return {"input": f"x{index}", "output": "y", "scratch": f"t{index}"}[role]


def _elements(buffer: Any) -> int:
    size = 1
    for extent in buffer.shape:
        size *= int(extent)
    return size
