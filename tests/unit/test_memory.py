"""The arena plan: in-place sharing, scratch, ports outside, small cases with known answers."""

from __future__ import annotations

import numpy as np

from edgec.compiler.lowering.kernels._access import dense
from edgec.compiler.lowering.kernels.add import Add, add_parameters
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.gemm import Gemm
from edgec.compiler.lowering.kernels.table import Table
from edgec.compiler.lowering.memory import ALIGNMENT, Arena, Block, plan_arena, scratch_name
from edgec.compiler.lowering.program import Array, Buffer, Call, Kernel, Port, Program

TABLE = (np.arange(-128, 128).astype(np.int8),)


def copy(size: int) -> Copy:
    return Copy((Part.of((size,), dense((size,)), dense((size,))),), size)


def table(size: int) -> Table:
    return Table.of((size,), dense((size,)))


def chain(*calls: tuple[Kernel, str, str], constants: tuple[Array, ...] = ()) -> Program:
    """Return the program of calls (kernel, inputs, output), names separated by spaces."""
    buffers: dict[str, Buffer] = {}
    built: list[Call] = []
    for kernel, inputs, output in calls:
        params = kernel.params("generic")
        names = [*inputs.split(), output]
        ends = [p for p in params if p.role in ("input", "output")]
        for name, param in zip(names, ends, strict=True):
            buffers[name] = Buffer(name, param.size, param.dtype)
        built.append(Call(kernel, tuple(inputs.split()), constants, (output,)))
    first, last = built[0].inputs[0], built[-1].outputs[0]
    ports = [Port(n, (buffers[n].size,), n, "int8", None) for n in (first, last)]
    return Program((ports[0],), (ports[1],), buffers, {}, built, {})


def plan(*calls: tuple[Kernel, str, str]) -> Arena:
    return plan_arena(chain(*calls), "generic")


def test_ports_are_not_in_the_arena() -> None:
    arena = plan((copy(40), "x", "y"))
    assert (arena.size_bytes, arena.lower_bound_bytes, dict(arena.offsets)) == (0, 0, {})


def test_neighbours_in_a_chain_need_both_places_at_once() -> None:
    arena = plan((copy(40), "x", "a"), (copy(40), "a", "b"), (copy(40), "b", "y"))
    assert arena.size_bytes == arena.lower_bound_bytes == 2 * 48
    assert {arena.offsets["a"], arena.offsets["b"]} == {0, 48}


def test_places_are_used_again_after_the_last_reader() -> None:
    arena = plan(*((copy(40), a, b) for a, b in ("xa", "ab", "bc", "cd", "dy")))
    assert arena.size_bytes == 2 * 48


def test_elementwise_results_take_over_their_inputs_memory() -> None:
    arena = plan(
        (copy(40), "x", "a"), (table(40), "a", "b"), (table(40), "b", "c"), (copy(40), "c", "y")
    )
    assert arena.size_bytes == 48
    assert len({arena.offsets[n] for n in "abc"}) == 1


def test_no_sharing_while_the_input_is_still_read() -> None:
    add = Add.of((40,), dense((40,)), dense((40,)))
    arena = plan((copy(40), "x", "a"), (table(40), "a", "b"), (add, "b a", "y"))
    assert arena.offsets["a"] != arena.offsets["b"]
    assert arena.size_bytes == 96


def test_an_operand_read_twice_is_not_overwritten() -> None:
    # y = a + a with one operand walked backwards would read what it already wrote.
    add = Add.of((40,), dense((40,)), dense((40,)))
    arena = plan((copy(40), "x", "a"), (add, "a a", "b"), (copy(40), "b", "y"))
    assert arena.offsets["a"] != arena.offsets["b"]


def test_scratch_lives_for_its_call_only() -> None:
    kernel = Gemm(2, 64, 3)
    program = chain((kernel, "x", "a"), (Gemm(2, 3, 5), "a", "y"))
    arena = plan_arena(program, "dsp")
    first, second = scratch_name(0, "columns"), scratch_name(1, "columns")
    assert arena.offsets["a"] >= 256 or arena.offsets[first] >= ALIGNMENT
    assert {first, second, scratch_name(1, "tail")} < set(arena.offsets)
    assert arena.size_bytes == arena.lower_bound_bytes


def test_outputs_of_different_size_share_the_larger_place() -> None:
    blocks = [Block(("a",), 16, 0, 2), Block(("b",), 32, 3, 4)]
    assert not blocks[0].meets(blocks[1])
    assert blocks[0].meets(Block(("c",), 16, 2, 3))


def test_the_plan_is_deterministic() -> None:
    calls = [
        (copy(40), "x", "a"),
        (copy(40), "a", "b"),
        (table(40), "b", "c"),
        (copy(40), "c", "y"),
    ]
    assert plan(*calls) == plan(*calls)


def test_an_unread_output_still_has_a_place() -> None:
    q = add_parameters((1.0, 1.0), (0, 0), 0, -128, 127)
    assert q.dtype == np.int32
    arena = plan((copy(40), "x", "a"), (copy(40), "x", "dead"), (copy(40), "a", "y"))
    assert arena.offsets["dead"] != arena.offsets["a"]
