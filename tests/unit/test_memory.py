"""The arena plan: in-place sharing, scratch, ports outside, small cases with known answers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from edgec.compiler.lowering.kernels._access import dense
from edgec.compiler.lowering.kernels._window import Window
from edgec.compiler.lowering.kernels.add import Add, add_parameters
from edgec.compiler.lowering.kernels.average_pool import AveragePool
from edgec.compiler.lowering.kernels.conv2d import Conv2d
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.depthwise_conv2d import DepthwiseConv2d
from edgec.compiler.lowering.kernels.gemm import Gemm
from edgec.compiler.lowering.kernels.max_pool import MaxPool
from edgec.compiler.lowering.kernels.table import Table
from edgec.compiler.lowering.memory import (
    ALIGNMENT,
    Arena,
    Block,
    Puzzle,
    plan_arena,
    scratch_name,
    search,
)
from edgec.compiler.lowering.program import Array, Buffer, Call, Kernel, Port, Program

Windowed = Conv2d | DepthwiseConv2d | MaxPool | AveragePool
WINDOWED: list[Windowed] = [
    Conv2d(1, Window(7, 9, 3, (3, 3), (2, 2), pads=(0, 0, 1, 1)), 5),
    Conv2d(2, Window(6, 6, 8, (3, 3), (1, 2), (2, 1), (2, 1, 2, 1)), 6, 2),
    Conv2d(1, Window(5, 5, 16, (1, 1), (2, 2)), 4),
    DepthwiseConv2d(1, Window(8, 8, 8, (3, 3), pads=(1, 1, 1, 1))),
    DepthwiseConv2d(2, Window(6, 6, 4, (5, 3))),
    MaxPool(2, Window(7, 5, 3, (3, 3), (2, 1), pads=(1, 1, 1, 1))),
    AveragePool(1, Window(8, 4, 6, (8, 4))),
]


def written_less_read(kernel: Windowed) -> int:
    """Return how far past the first byte still to be read a pixel's output ends, at most."""
    w, (oh, ow) = kernel.window, kernel.window.output
    filters = kernel.filters if isinstance(kernel, Conv2d) else w.channels
    found, still_read = -(10**9), kernel.batch * w.input_size
    ends = kernel.batch * oh * ow
    buffered = isinstance(kernel, Conv2d) and kernel.groups == 1
    for pixel in reversed(range(ends)):
        image, oy, ox = pixel // (oh * ow), pixel // ow % oh, pixel % ow
        reads = [
            ((image * w.height + y) * w.width + x) * w.channels
            for y in (oy * w.strides[0] - w.pads[0] + i * w.dilations[0]
                      for i in range(w.kernel[0])) if 0 <= y < w.height
            for x in (ox * w.strides[1] - w.pads[1] + i * w.dilations[1]
                      for i in range(w.kernel[1])) if 0 <= x < w.width
        ]  # fmt: skip
        later, still_read = still_read, min([still_read, *reads])
        found = max(found, (pixel + 1) * filters - (later if buffered else still_read))
    return found


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


@pytest.mark.parametrize("kernel", [k for k in WINDOWED if not k.window.pads[0]])
def test_an_output_never_reaches_what_is_still_to_be_read(kernel: Windowed) -> None:
    ((source, behind_bytes),) = kernel.behind("generic").values()
    assert (source, behind_bytes) == (0, written_less_read(kernel))


@pytest.mark.parametrize("kernel", WINDOWED)
def test_padding_costs_at_most_what_lies_before_the_image(kernel: Windowed) -> None:
    ((_, behind_bytes),) = kernel.behind("generic").values()
    assert behind_bytes >= written_less_read(kernel)


def test_a_depthwise_convolution_needs_a_row_more_than_its_image() -> None:
    window = Window(12, 10, 4, (3, 3), pads=(1, 1, 1, 1))
    image = 12 * 10 * 4
    assert DepthwiseConv2d(1, window).behind("dsp") == {0: (0, (10 + 2) * 4)}
    arena = plan((copy(image), "x", "a"), (DepthwiseConv2d(1, window), "a", "b"),
                 (copy(image), "b", "y"))  # fmt: skip
    assert arena.size_bytes == arena.lower_bound_bytes == image + 48 + 48
    assert arena.offsets["a"] - arena.offsets["b"] == 48


def test_a_wider_pointwise_convolution_takes_no_more_than_its_output() -> None:
    narrow, wide = 64 * 8, 64 * 16
    arena = plan_arena(
        chain((copy(narrow), "x", "a"), (Gemm(64, 8, 16), "a", "b"), (copy(wide), "b", "y")),
        "dsp",
    )
    scratch = arena.offsets[scratch_name(1, "columns")]
    assert arena.size_bytes == wide + 64 and scratch >= wide


def test_few_blocks_are_searched_exhaustively() -> None:
    # Greedy orders leave a gap below the last block; one order does not.
    sizes = {"a": 48, "b": 32, "c": 64, "d": 16, "e": 48}
    lives = {"a": (0, 2), "b": (1, 4), "c": (3, 5), "d": (2, 3), "e": (4, 6)}
    blocks = [Block((n,), sizes[n], *lives[n]) for n in sizes]
    puzzle = Puzzle(blocks, [], 7)
    bound = max(puzzle.alive_bytes)
    found = search(puzzle, bound)
    every = (puzzle.place(order, {})[1] for order in permutations(range(len(blocks))))
    assert found[1] == min(every)


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
