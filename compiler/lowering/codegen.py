"""PrimFuncs over flat buffers -> freestanding C functions with raw pointer arguments.

The usual TIR passes run without SplitHostDevice and MakePackedAPI; then every Buffer parameter
becomes a pointer (LOWERING.md). What TVM prints is rewritten in one tested place: its headers and
prototypes go, kernels become static, pointers get const.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ..core.artifact import C_TYPES
from .program import Kernel, Param

# Temporaries this small stay on the C stack; anything larger must be a scratch parameter.
STACK_TEMPORARY_BYTES = 64


def _passes() -> list[Any]:
    from tvm import s_tir, tirx

    s, t = s_tir.transform, tirx.transform
    return [
        s.CanonicalizeLoop(),
        # Only float islands hold schedulable blocks; on plain loops these do nothing.
        s.LowerInitBlock(),
        s.PlanAndUpdateBufferAllocationLocation(),
        s.ConvertBlocksToOpaque(),
        s.CompactBufferAllocation(),
        s.LowerMatchBuffer(),
        t.StmtSimplify(),
        s.LowerOpaqueBlock(),
        t.FlattenBuffer(),
        t.NarrowDataType(32),
        t.VectorizeLoop(False),
        t.StorageRewrite(),
        t.UnrollLoop(),
        s.RenormalizeSplitPattern(),
        t.StmtSimplify(),
        t.RemoveNoOp(),
        s.RewriteUnsafeSelect(),
        t.CommonSubexprElim(),
    ]


def _check_temporaries(statement: Any, name: str) -> None:
    """Fail the build if a large temporary would land on the C stack."""
    from tvm import tirx

    if isinstance(statement, tirx.SeqStmt):
        for part in statement.seq:
            _check_temporaries(part, name)
    elif isinstance(statement, tirx.AllocBuffer):
        size = 1
        buffer: Any = statement.buffer
        for extent in buffer.shape:
            size *= int(extent)
        assert size <= STACK_TEMPORARY_BYTES, f"kernel {name} allocates {size} elements"
    elif isinstance(statement, tirx.IfThenElse):
        branches: list[Any] = [statement.then_case, statement.else_case]
        for branch in branches:
            _check_temporaries(branch, name)
    elif isinstance(statement, tirx.For | tirx.AttrStmt):
        _check_temporaries(statement.body, name)


def _bare(function: Any, name: str, params: Sequence[Param]) -> Any:
    """Replace the Buffer parameters of a lowered PrimFunc by raw pointers named as params."""
    import tvm_ffi
    from tvm import tirx

    pointers = [
        tirx.Var(param.name, buffer.data.ty)
        for param, buffer in zip(params, function.params, strict=True)
    ]

    def rewrite(statement: Any) -> Any:
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([rewrite(part) for part in statement.seq])
        if isinstance(statement, tirx.DeclBuffer):
            for parameter, pointer in zip(function.params, pointers, strict=True):
                if tvm_ffi.structural_equal(statement.data, parameter.data):
                    return tirx.DeclBuffer(statement.buffer, data=pointer)
        return statement

    _check_temporaries(function.body, name)
    return tirx.PrimFunc(pointers, rewrite(function.body), function.ret_type, function.attrs)


def c_functions(kernels: Mapping[str, Kernel], isa: str) -> str:
    """Return C text holding one static function per name -> kernel, in order."""
    params = {name: kernel.params(isa) for name, kernel in kernels.items()}
    bodies = c_text({name: kernel.build(isa) for name, kernel in kernels.items()}, params)
    return "\n".join(
        f"EDGEC_KERNEL void {name}({signature(params[name])})\n"
        f"{{\n{_unused(body, params[name])}{body}}}\n"
        for name, body in bodies.items()
    )


def c_text(functions: Mapping[str, Any], params: Mapping[str, Sequence[Param]]) -> dict[str, str]:
    """Return the C body of every PrimFunc; pointer parameters are named as params.

    All are lowered in one module: TVM's cost per call is far above its cost per function.
    """
    import tvm
    from tvm import tirx

    _name_math_functions()
    target = tvm.target.Target({"kind": "c"})
    named = {name: f.with_attr("global_symbol", name) for name, f in functions.items()}
    module = tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule(named))
    module = tvm.transform.Sequential(_passes())(module)
    bare = {
        g: _bare(f, str(g.name_hint), params[str(g.name_hint)]) for g, f in module.functions.items()
    }
    module = tirx.transform.LowerIntrin()(tvm.IRModule(bare))
    text: str = tvm.get_global_func("target.build.c")(module, target).inspect_source()
    bodies = {m.group(1): m.group(3) for m in _FUNCTION.finditer(text)}
    return {name: _reindent(bodies[name]) for name in params}


@cache
def _name_math_functions() -> None:
    """Tell TVM the C names of functions that it has no names for."""
    from tvm import tirx
    from tvm.tirx.op import register_intrin_lowering

    def fabs(call: Any) -> Any:
        name = "fabsf" if "float32" in str(call.ty) else "fabs"
        return tirx.call_pure_extern(call.ty, name, call.args[0])

    register_intrin_lowering("tirx.fabs", target="c", f=fabs)


_FUNCTION = re.compile(r"^TVM_DLL void (\w+)\(([^)]*)\) \{\n(.*?)^\}\n", re.S | re.M)


def _unused(body: str, params: Sequence[Param]) -> str:
    """Mark parameters that TVM proved unnecessary, so that -Wextra stays quiet."""
    idle = [p.name for p in params if not re.search(rf"\b{p.name}\b", body)]
    return "".join(f"    (void){name};\n" for name in idle)


def signature(params: Sequence[Param]) -> str:
    """Return the C parameters of a kernel."""
    return ", ".join(_declaration(p) for p in params)


def _declaration(param: Param) -> str:
    const = "const " if param.role in ("input", "constant") else ""
    return f"{const}{c_type(param.dtype)} *{param.name}"


def c_type(dtype: str) -> str:
    """Return the C type of one element."""
    return C_TYPES[dtype]


def _reindent(body: str) -> str:
    """Indent by four spaces and drop the parentheses TVM puts around every address."""
    lines: list[str] = []
    for line in body.splitlines():
        stripped = line.lstrip(" ")
        indent = " " * (2 * (len(line) - len(stripped)))
        lines.append(indent + _simplify(stripped))
    return "\n".join(lines) + "\n"


def _simplify(line: str) -> str:
    """Write `p` for (&(p[0])) and `p + i` for (&(p[i])); drop doubled parentheses.

    TVM starts maxima and minima from the largest finite numbers, which infinities do not win.
    """
    line = re.sub(r"\b(3\.402823e\+38f|1\.797693e\+308|inff?)(?!\w)", "INFINITY", line)
    line = re.sub(r"\(&\((\w+)\[0\]\)\)", r"\1", line)
    previous = None
    while previous != line:
        previous = line
        line = re.sub(r"\(&\((\w+)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\)\)", r"\1 + \2", line)
        line = re.sub(r"\[\(([^()]*)\)\]", r"[\1]", line)
        line = re.sub(r"\(\(([^()]*)\)\)", r"(\1)", line)
    return line
