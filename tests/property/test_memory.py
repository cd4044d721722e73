"""Arena plans of random programs: nothing overlaps, and running inside changes no result."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.lowering.kernels._access import dense
from edgec.compiler.lowering.kernels.add import Add, add_parameters
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.gemm import Gemm
from edgec.compiler.lowering.kernels.table import Table
from edgec.compiler.lowering.lower import lower
from edgec.compiler.lowering.memory import ALIGNMENT, Arena, plan_arena
from edgec.compiler.lowering.program import Array, Buffer, Call, Kernel, Port, Program
from edgec.compiler.ports import encode_port
from tests.e2e.test_fuzz_graphs import random_model
from tests.pairs import pipeline_quantised, random_feeds

TABLE = np.random.default_rng(0).permutation(np.arange(-128, 128)).astype(np.int8)
ADD = add_parameters((0.7, 0.4), (3, -5), 1, -128, 127)


def _gemm(k: int, n: int) -> tuple[Kernel, tuple[Array, ...]]:
    rng = np.random.default_rng(k * 100 + n)
    weight = rng.integers(-127, 128, n * k).astype(np.int8)
    q = np.array([38, 0, -128, 127, 0], np.int32)
    return Gemm(1, k, n), (weight, np.zeros(n, np.int32), np.full(n, 1 << 30, np.int32), q)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Return a random sequence of copies, tables, sums and matrix products."""
    sizes = {"x": draw(st.integers(1, 60))}
    calls: list[Call] = []
    for step in range(draw(st.integers(1, 9))):
        a = draw(st.sampled_from(sorted(sizes)))
        n = sizes[a]
        kind = draw(st.sampled_from(["copy", "table", "add", "gemm"]))
        name, inputs = f"b{step}", (a,)
        if kind == "copy":
            kernel: Kernel = Copy((Part.of((n,), dense((n,)), dense((n,))),), n)
            constants: tuple[Array, ...] = ()
        elif kind == "table":
            kernel, constants = Table.of((n,), dense((n,))), (TABLE,)
        elif kind == "add":
            b = draw(st.sampled_from([k for k, s in sorted(sizes.items()) if s == n]))
            kernel, constants = Add.of((n,), dense((n,)), dense((n,))), (ADD,)
            inputs = (a, b)
        else:
            width = draw(st.integers(1, 40))
            kernel, constants = _gemm(n, width)
            n = width
        calls.append(Call(kernel, inputs, constants, (name,)))
        sizes[name] = n
    buffers = {name: Buffer(name, size, "int8") for name, size in sizes.items()}
    outputs = draw(st.sets(st.sampled_from([c.outputs[0] for c in calls]), min_size=1))
    ports = [Port(n, (sizes[n],), n, "int8", None) for n in ("x", *sorted(outputs))]
    return Program((ports[0],), tuple(ports[1:]), buffers, {}, calls, {})


def allowed_distances(
    program: Program, isa: str
) -> Iterator[tuple[tuple[int, str, str], int | None]]:
    """Yield (call, output, input) and the bytes from one to the other, at least; None: exactly 0.

    Only inputs that are read once, and not by a later call.
    """
    for index, call in enumerate(program.calls):
        later = {name for c in program.calls[index + 1 :] for name in c.inputs}
        free = [n for n in call.inputs if n not in later and call.inputs.count(n) == 1]
        least = {(t, s): b for t, (s, b) in call.kernel.behind(isa).items()}
        for target, source in {**dict.fromkeys(call.kernel.in_place(isa).items()), **least}:
            if call.inputs[source] in free:
                names = call.outputs[target], call.inputs[source]
                yield (index, *names), least.get((target, source))


def check_plan(program: Program, isa: str) -> Arena:
    """Nothing alive together overlaps but what a kernel allows; all is aligned and inside."""
    arena = plan_arena(program, isa)
    allowed = dict(allowed_distances(program, isa))
    for index, (block, offset) in enumerate(arena.blocks):
        assert offset % ALIGNMENT == 0
        assert offset >= 0 and offset + block.size_bytes <= arena.size_bytes
        for other, start in arena.blocks[:index]:
            apart = offset + block.size_bytes <= start or start + other.size_bytes <= offset
            if apart or not block.meets(other):
                continue
            pairs = [((block, offset), (other, start)), ((other, start), (block, offset))]
            distances = [
                (allowed[t.first, t.members[0], s.members[-1]], source - target)
                for (t, target), (s, source) in pairs
                if t.first == s.last and (t.first, t.members[0], s.members[-1]) in allowed
            ]
            assert any(d == 0 if least is None else d >= least for least, d in distances)
    assert arena.size_bytes >= arena.lower_bound_bytes
    ports = {p.buffer for p in (*program.inputs, *program.outputs)}
    assert not ports & set(arena.offsets)
    return arena


def run_in_arena(program: Program, isa: str, feeds: dict[str, Array]) -> dict[str, Array]:
    """Interpret program with every buffer at its place in one block of poisoned bytes."""
    arena = check_plan(program, isa)
    memory = np.full(arena.size_bytes, 0xA5, np.uint8)
    outside: dict[str, Array] = {**program.constants}
    for port in program.inputs:
        outside[port.buffer] = np.ascontiguousarray(feeds[port.name], port.dtype).reshape(-1)
    for port in program.outputs:
        outside[port.buffer] = np.zeros(program.buffers[port.buffer].size, port.dtype)

    def place(name: str) -> Array:
        buffer = program.buffers[name]
        if (whole := program.whole(name)) in outside:
            return outside[whole][buffer.start : buffer.start + buffer.size]
        start = arena.offsets[name]
        return memory[start : start + buffer.size_bytes].view(buffer.dtype)

    for index, call in enumerate(program.calls):
        for param in call.kernel.params(isa):  # scratch may hold anything before and after
            if param.role == "scratch":
                start = arena.offsets[f"{index}:{param.name}"]
                memory[start : start + param.size_bytes] = 0x5A
        inputs = [place(n).copy() for n in call.inputs]
        results = call.kernel.reference(*inputs, *call.constants)
        for name, data in zip(call.outputs, results, strict=True):
            place(name)[:] = data
    return {p.name: outside[p.buffer].reshape(p.shape) for p in program.outputs}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(programs(), st.sampled_from(["generic", "dsp"]))
def test_nothing_alive_together_overlaps(program: Program, isa: str) -> None:
    x = np.random.default_rng(1).integers(-128, 128, program.buffers["x"].size).astype(np.int8)
    got = run_in_arena(program, isa, {"x": x})
    for name, want in program.interpret({"x": x}).items():
        np.testing.assert_array_equal(got[name], want)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_run_inside_their_arena(seed: int) -> None:
    model = random_model(seed, 6, 14)
    samples = [random_feeds(model, s) for s in range(2)]
    program = lower(pipeline_quantised(model, samples))
    codes = {p.name: encode_port(p, samples[0][p.name]) for p in program.inputs}
    got = run_in_arena(program, "dsp" if seed % 2 else "generic", codes)
    for name, want in program.interpret(codes).items():
        np.testing.assert_array_equal(got[name], want)
