"""One ONNX operator -> one TIR function, by TVM's own converters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import onnx

from ..program import Array, Param


class NotOneKernelError(ValueError):
    """TVM has no converter for the operator, or makes something else of it than loops."""


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """`function`: loops over `params`: inputs, `constants` of the converter, outputs, scratch."""

    function: Any
    params: tuple[Param, ...]
    constants: tuple[Array, ...]


@lru_cache(maxsize=256)
def converted(model: bytes) -> Converted:
    """Return the loops of a small ONNX model.

    Raises NotOneKernelError when TVM cannot convert it.
    """
    proto = onnx.load_from_string(model)
    op_type = proto.graph.node[0].op_type
    try:
        module = _legalised(proto)
    except Exception as problem:
        # TVM's converters raise many types for what they lack; the reason is in the text.
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        raise NotOneKernelError(f"TVM cannot convert {op_type}: {lines[-1][:160]}") from problem
    function, constants, inputs, outputs = _merged(module, op_type)
    _require_loops(function, op_type)
    return _with_scratch_parameters(function, constants, inputs, outputs)


def _legalised(proto: Any) -> Any:
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(proto, keep_params_in_input=False)
    transform = relax.transform
    passes = [
        transform.DecomposeOpsForInference(), transform.LegalizeOps(), transform.FoldConstant(),
        transform.DeadCodeElimination(),
    ]  # fmt: skip
    return tvm.transform.Sequential(passes)(module)


def _merged(module: Any, op_type: str) -> tuple[Any, tuple[Array, ...], int, int]:
    """Return main as one PrimFunc, the constants it takes after its inputs, and how many
    inputs and outputs it has."""
    import tvm
    from tvm import relax, tirx

    merge = _Merge(module, op_type)
    whole = merge.whole()
    fuse = tvm.transform.Sequential(
        [relax.transform.FuseTIR(), relax.transform.DeadCodeElimination()]
    )
    try:
        fused = fuse(whole)
    except Exception as problem:
        raise NotOneKernelError(f"TVM cannot merge the steps of {op_type}") from problem
    functions = [f for f in fused.functions.values() if isinstance(f, tirx.PrimFunc)]
    if len(functions) != 1:
        raise NotOneKernelError(f"TVM makes {len(functions)} kernels of {op_type}, not one")
    return functions[0], tuple(merge.constants), len(module["main"].params), merge.outputs


def _relax() -> Any:
    """Return TVM's relax, whose annotations do not cover what it does."""
    from tvm import relax

    return relax


class _Merge:
    """Writes all calls of a module's main into one function that FuseTIR makes one PrimFunc."""

    def __init__(self, module: Any, op_type: str) -> None:
        from tvm import tirx

        relax = _relax()

        self.constants: list[Array] = []
        self.outputs = 0
        self._op_type = op_type
        self._main: Any = module["main"]
        self._builder = relax.BlockBuilder()
        self._functions: dict[str, Any] = {
            str(v.name_hint): self._builder.add_func(f, str(v.name_hint))
            for v, f in module.functions.items()
            if isinstance(f, tirx.PrimFunc)
        }
        self._bindings: list[Any] = [b for block in self._main.body.blocks for b in block.bindings]
        self._params = [relax.Var(str(p.name), p.ty) for p in self._main.params]
        self._known: dict[Any, Any] = dict(zip(self._main.params, self._params, strict=True))

    def whole(self) -> Any:
        """Return a module whose main calls one function that holds everything."""
        relax = _relax()

        for value in (*(b.value for b in self._bindings), self._main.body.body):
            self._lift(value)
        builder = self._builder
        with builder.function("island", self._params, attrs={"Primitive": 1}):
            with builder.dataflow():
                for binding in self._bindings:
                    self._known[binding.var] = self._rewritten(binding.value)
                result = self._rewritten(self._main.body.body)
                fields = list(result.fields) if isinstance(result, relax.Tuple) else [result]
                fields = self._written(fields)
                self.outputs = len(fields)
                output = builder.emit_output(relax.Tuple(fields) if len(fields) > 1 else fields[0])
            island = builder.emit_func_output(output)
        params = [relax.Var(f"{p.name}_main", p.ty) for p in self._params]
        with builder.function("main", params):
            with builder.dataflow():
                output = builder.emit_output(builder.emit(relax.Call(island, params)))
            builder.emit_func_output(output)
        return builder.finalize()

    def _lift(self, value: Any) -> None:
        """Make parameters of the constants that value reads; refuse all that is not loops."""
        from tvm.ir import GenericConst

        relax = _relax()

        if isinstance(value, relax.Call):
            name = str(getattr(value.op, "name", value.op))
            if name != "relax.call_tir":
                raise NotOneKernelError(f"TVM makes no loops of {self._op_type}, but {name[:60]}")
            self._lift(value.args[1])
        elif isinstance(value, relax.Tuple):
            for field in value.fields:
                self._lift(field)
        elif isinstance(value, GenericConst):
            parameter = relax.Var(f"c{len(self.constants)}", value.ty)
            self._params.append(parameter)
            held: Any = value
            self.constants.append(held.value.numpy())
            self._known[value] = parameter

    def _rewritten(self, value: Any) -> Any:
        relax = _relax()

        if value in self._known:
            return self._known[value]
        if isinstance(value, relax.Call):
            function = self._functions[str(value.args[0].name_hint)]
            types = [list(t.fields) if hasattr(t, "fields") else t for t in value.ty_args]
            call = relax.call_tir(function, self._rewritten(value.args[1]), types[0])
            return self._builder.emit(call)
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._rewritten(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            source = self._rewritten(value.tuple_value)
            if isinstance(source, relax.Tuple):
                return source.fields[value.index]
            return self._builder.emit(relax.TupleGetItem(source, value.index))
        raise NotOneKernelError(f"TVM makes no loops of {self._op_type}: {type(value).__name__}")

    def _written(self, fields: Sequence[Any]) -> list[Any]:
        """Return results with copies of what is an input, a constant or there twice already."""
        from tvm import topi

        known, written = list(self._params), list[Any]()
        for field in fields:
            taken = any(field.same_as(other) for other in (*known, *written))
            written.append(self._builder.emit_te(topi.identity, field) if taken else field)
        return written


def _require_loops(function: Any, op_type: str) -> None:
    """Refuse calls of functions of TVM's runtime (sorting and the like)."""
    text = str(function.script())
    for word in ("call_packed", "call_cpacked", "call_extern"):
        if word in text:
            raise NotOneKernelError(f"TVM computes {op_type} by a function of its runtime")


def _with_scratch_parameters(
    function: Any, constants: Sequence[Array], inputs: int, outputs: int
) -> Converted:
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
    roles = ["input"] * inputs + ["constant"] * len(constants)
    roles += ["output"] * outputs + ["scratch"] * len(temporaries)
    letters = {"input": "x", "constant": "c", "output": "y", "scratch": "t"}
    described = tuple(
        Param(f"{letters[role]}{index}", _elements(buffer), _stored(str(buffer.dtype)), role)
        for index, (buffer, role) in enumerate(zip(params, roles, strict=True))
    )
    plain = tirx.PrimFunc(params, body, function.ret_type)
    return Converted(plain, described, tuple(constants))


def _stored(dtype: str) -> str:
    """Return the type of memory: C code stores booleans in bytes."""
    return "uint8" if dtype == "bool" else dtype


def _elements(buffer: Any) -> int:
    size = 1
    for extent in buffer.shape:
        size *= int(extent)
    return size
