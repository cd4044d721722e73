"""Patches: the worked example of MobileNetV2, halos by hand, splits, refusals, choices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgec.compiler.lowering.kernels._access import Access, dense
from edgec.compiler.lowering.kernels._window import Window
from edgec.compiler.lowering.kernels.add import Add
from edgec.compiler.lowering.kernels.average_pool import AveragePool
from edgec.compiler.lowering.kernels.conv2d import Conv2d
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.depthwise_conv2d import DepthwiseConv2d
from edgec.compiler.lowering.kernels.gemm import Gemm
from edgec.compiler.lowering.kernels.linear_add import LinearAdd
from edgec.compiler.lowering.kernels.max_pool import MaxPool
from edgec.compiler.lowering.kernels.softmax import Softmax
from edgec.compiler.lowering.memory import least_bytes, plan_arena
from edgec.compiler.lowering.patches import Patches, Stage, choose, patched
from edgec.compiler.lowering.program import Buffer, Call, Kernel, Port, Program
from edgec.compiler.lowering.tiles import Rect, UnfitError, read_spans, tiled

KIB = 1024
# Expansion, channels, repetitions, first stride of the blocks of MobileNetV2-1.0.
BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
PAD = (1, 1, 1, 1)


def chain(*kernels: Kernel) -> Program:
    """Return kernels one after another; a LinearAdd adds what the block before it read."""
    calls: list[Call] = []
    buffers: dict[str, Buffer] = {}
    names = ["x"]
    for index, kernel in enumerate(kernels):
        params = [p for p in kernel.params("generic") if p.role in ("input", "output")]
        inputs = (names[-1], names[-3]) if isinstance(kernel, LinearAdd) else (names[-1],)
        names.append(f"b{index}")
        for name, param in zip((*inputs, names[-1]), params, strict=True):
            buffers.setdefault(name, Buffer(name, param.size, param.dtype))
            assert buffers[name].size == param.size
        calls.append(Call(kernel, inputs, (), (names[-1],), (f"node{index}",)))
    ports = [Port(n, (buffers[n].size,), n, "int8", None) for n in ("x", names[-1])]
    return Program((ports[0],), (ports[1],), buffers, {}, tuple(calls))


def mobilenet_v2() -> Program:
    """Return the kernels of MobileNetV2-1.0 at 224 x 224, without weights."""
    size, channels = 112, 32
    kernels: list[Kernel] = [Conv2d(1, Window(224, 224, 3, (3, 3), (2, 2), pads=(0, 0, 1, 1)), 32)]
    for expansion, out, count, first in BLOCKS:
        for index in range(count):
            stride, wide = (first, 1)[index > 0], channels * expansion
            if expansion > 1:
                kernels.append(Gemm(size * size, channels, wide))
            window = Window(size, size, wide, (3, 3), (stride, stride), pads=PAD)
            kernels.append(DepthwiseConv2d(1, window))
            size //= stride
            linear, total = Gemm(size * size, wide, out), size * size * out
            row = Add.of((total,), dense((total,)), dense((total,)))
            kernels.append(LinearAdd(linear, row) if index else linear)
            channels = out
    kernels += [Gemm(49, 320, 1280), AveragePool(1, Window(7, 7, 1280, (7, 7)))]
    return chain(*kernels, Gemm(1, 1280, 1000))


# Up to the last block at 28 x 28: 1 + 2 + 2 * 3 + 3 * 3 calls.
LAST = 17


@pytest.fixture(scope="module")
def mobilenet() -> Program:
    return mobilenet_v2()


@pytest.fixture(scope="module")
def stage(mobilenet: Program) -> Stage:
    return Stage(mobilenet)


def test_worked_example_per_layer(mobilenet: Program, stage: Stage) -> None:
    assert sum(c.kernel.macs() for c in mobilenet.calls) == pytest.approx(300e6, rel=0.01)
    expand = mobilenet.calls[3]
    per_layer = sum(stage.images[n].size for n in (*expand.inputs, *expand.outputs))
    assert per_layer == 1372 * KIB == 112 * 112 * (16 + 96)
    # Without any overlap the depthwise convolution after it is the peak: 1470 KiB.
    assert least_bytes(mobilenet, "cuda") == 1470 * KIB
    # The expansion writes behind what it reads: its output and scratch are all there is.
    assert 1176 * KIB < least_bytes(mobilenet, "dsp") < 1177 * KIB


def test_worked_example_after_the_stage(mobilenet: Program, stage: Stage) -> None:
    image = stage.image(LAST)
    assert (image.height, image.width, image.channels) == (28, 28, 32)
    rest = replace(mobilenet, calls=mobilenet.calls[LAST + 1 :])
    # 28 * 28 * (32 + 192) = 171.5 KiB where a depthwise convolution is in place: no block of 32
    # channels is left, and an expansion to 192 needs no more than its output.
    assert least_bytes(rest, "dsp") <= 28 * 28 * (32 + 192)


@pytest.mark.parametrize(
    ("tiles", "ratio"), [(1, 1.0), (2, 1.096), (3, 1.198), (4, 1.306), (7, 1.661)]
)
def test_worked_example_of_multiply_accumulates(
    tiles: int, ratio: float, mobilenet: Program, stage: Stage
) -> None:
    # The table is of 224 -> 28: conv1 to the first block at 28 x 28.
    last, step = 11, -(-28 // tiles)
    whole = sum(c.kernel.macs() for c in mobilenet.calls)
    first = sum(c.kernel.macs() for c in mobilenet.calls[: last + 1])
    more = stage.macs(Patches(last, step, step)) - whole
    assert (first + more) / first == pytest.approx(ratio, abs=0.02)
    assert tiles != 4 or more / whole < 0.10


def test_worked_example_fits_eight_times_less(mobilenet: Program) -> None:
    choice = choose(mobilenet, "dsp", 180 * KIB)
    assert choice.patches is not None
    assert choice.arena_bytes <= 180 * KIB < 1372 * KIB / 7
    assert choice.macs <= 1.10 * choice.macs_before
    program = patched(mobilenet, choice.patches)
    assert plan_arena(program, "dsp").size_bytes == choice.arena_bytes
    assert sum(c.kernel.macs() for c in program.calls) == choice.macs


def test_receptive_field_of_the_worked_example(stage: Stage) -> None:
    # One pixel at 28 x 28 after the first block there sees 27 pixels, a tile of 7 x 7 sees 75.
    assert [stage.spans(11, 0, s)["x"] for s in ((14, 15), (14, 21))] == [(100, 127), (100, 175)]


@pytest.mark.parametrize(
    ("window", "span", "read", "pads"),
    [
        (Window(9, 9, 1, (3, 3), pads=PAD), (0, 3), (0, 4), (1, 0)),
        (Window(9, 9, 1, (3, 3), pads=PAD), (3, 6), (2, 7), (0, 0)),
        (Window(9, 9, 1, (3, 3), pads=PAD), (6, 9), (5, 9), (0, 1)),
        (Window(9, 9, 1, (3, 3), (2, 2), pads=(0, 0, 1, 1)), (2, 4), (4, 9), (0, 0)),
        (Window(12, 12, 1, (3, 3), dilations=(2, 2), pads=(2, 2, 2, 2)), (0, 2), (0, 4), (2, 0)),
        (Window(11, 11, 1, (5, 5), (3, 3), pads=(2, 2, 2, 2)), (3, 4), (7, 11), (0, 1)),
    ],
)
def test_halos(window: Window, span: tuple[int, int], read: tuple[int, int],
               pads: tuple[int, int]) -> None:  # fmt: skip
    call = Call(DepthwiseConv2d(1, window), ("x",), (), ("y",))
    assert read_spans(call, 0, span) == [read]
    tile = tiled(call.kernel, Rect(span, span))
    assert isinstance(tile, DepthwiseConv2d)
    assert (tile.window.pads[0], tile.window.pads[2]) == pads
    assert tile.window.output == (span[1] - span[0],) * 2


def test_outputs_of_padding_alone_are_no_tile() -> None:
    kernel = MaxPool(1, Window(4, 4, 2, (1, 1), pads=(0, 0, 2, 2)))
    with pytest.raises(UnfitError, match="padding alone"):
        read_spans(Call(kernel, ("x",), (), ("y",)), 0, (4, 6))


def test_a_stage_ends_where_an_image_is_needed_whole() -> None:
    conv = Conv2d(1, Window(8, 8, 2, (3, 3), pads=PAD), 4)
    program = chain(conv, MaxPool(1, Window(8, 8, 4, (2, 2), (2, 2))), Softmax(16, 4))
    found = Stage(program)
    assert found.splits == [0, 1]
    assert found.ends == "node2: softmax has no form for a part of an image"


def test_a_stage_does_not_end_inside_a_residual_block(stage: Stage) -> None:
    # Calls 6 to 8 are the second block at 56 x 56, whose input is added at its end.
    assert [i for i in range(3, 9) if i in stage.splits] == [3, 4, 5, 8]


def test_a_layout_is_copied_tile_by_tile() -> None:
    turn = Copy((Part.of((6, 6, 2), Access(72, (6, 1, 36)), dense((6, 6, 2))),), 72)
    program = chain(turn, Conv2d(1, Window(6, 6, 2, (3, 3), pads=PAD), 3))
    tiles = patched(program, Patches(1, 3, 6))
    copies = [c for c in tiles.calls if isinstance(c.kernel, Copy)]
    assert next(c.kernel for c in copies).params("generic")[-1].size == 4 * 6 * 2
    assert {tiles.buffers[c.inputs[0]].part_of for c in copies} == {"x"}
    assert not any(c.kernel.name == "paste" for c in tiles.calls)  # rows lie together


def test_tiles_of_one_shape_share_a_function() -> None:
    program = chain(*(DepthwiseConv2d(1, Window(32, 32, 4, (3, 3), pads=PAD)) for _ in range(2)))
    kernels = {
        c.kernel for c in patched(program, Patches(1, 4, 4)).calls if "depthwise" in c.kernel.name
    }
    assert len(kernels) == 2 * 9  # corners, edges and the inside of two layers, for 64 tiles


def test_nothing_is_patched_that_fits_or_gains_nothing() -> None:
    wide = chain(DepthwiseConv2d(1, Window(16, 16, 8, (3, 3), pads=PAD)), Gemm(256, 8, 2))
    size = plan_arena(wide, "dsp").size_bytes
    assert choose(wide, "dsp", size).text == "none, for the model fits without"
    dense_only = chain(Gemm(1, 64, 32), Gemm(1, 32, 8))
    found = choose(dense_only, "dsp", None)
    assert found.patches is None and "gemm makes no image" in found.text
    assert "no split and tiles" in choose(wide, "dsp", 1).text


def test_the_smallest_arena_when_there_is_no_limit() -> None:
    window = Window(32, 32, 32, (3, 3), (2, 2), pads=PAD)
    program = chain(Gemm(1024, 4, 32), DepthwiseConv2d(1, window), Gemm(256, 32, 4))
    found = choose(program, "dsp", None)
    assert found.patches is not None and found.macs <= 1.25 * found.macs_before
    assert found.arena_bytes < found.arena_bytes_before / 3
    assert f"{found.arena_bytes:,} bytes in place of {found.arena_bytes_before:,}" in found.text
    assert np.prod(found.tiles) > 1
