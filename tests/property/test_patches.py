"""Random convolutional networks on random tiles: the bits of the whole images, inside the plan."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.lowering.fusion import join_sums
from edgec.compiler.lowering.kernels._access import Access, dense
from edgec.compiler.lowering.kernels._shared import Epilogue, parameters, random_linear
from edgec.compiler.lowering.kernels._window import Window
from edgec.compiler.lowering.kernels.add import Add, add_parameters
from edgec.compiler.lowering.kernels.average_pool import AveragePool, average_multipliers
from edgec.compiler.lowering.kernels.conv2d import Conv2d
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.depthwise_conv2d import DepthwiseConv2d
from edgec.compiler.lowering.kernels.gemm import Gemm
from edgec.compiler.lowering.kernels.max_pool import MaxPool
from edgec.compiler.lowering.kernels.mul import Mul
from edgec.compiler.lowering.kernels.table import Table
from edgec.compiler.lowering.patches import Patches, Stage, patched
from edgec.compiler.lowering.program import Array, Buffer, Call, Kernel, Port, Program
from edgec.compiler.lowering.tiles import Image, UnfitError
from tests.property.test_memory import run_in_arena

TABLE = np.random.default_rng(0).permutation(np.arange(-128, 128)).astype(np.int8)


class Network:
    """A random network: layers of every kind that can run on tiles, residual blocks among them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        height, width = (int(n) for n in self.rng.integers(9, 20, 2))
        self.image = Image(height, width, self.pick(1, 3, 4))
        self.calls: list[Call] = []
        self.buffers = {"x": Buffer("x", self.image.size, "int8")}
        self.name = "x"
        if self.rng.random() < 0.5:
            self._turn()
        while len(self.calls) < 6:
            if self.rng.random() < 0.3:
                self._residual()
            else:
                self._layer()

    def program(self) -> Program:
        ports = [Port(n, (self.buffers[n].size,), n, "int8", None) for n in ("x", self.name)]
        return Program((ports[0],), (ports[1],), self.buffers, {}, tuple(self.calls))

    def pick(self, *values: int) -> int:
        return int(self.rng.choice(values))

    def _add(self, kernel: Kernel, constants: tuple[Array, ...], image: Image, *more: str) -> None:
        name = f"b{len(self.calls)}"
        self.calls.append(Call(kernel, (self.name, *more), constants, (name,), (name,)))
        self.buffers[name] = Buffer(name, image.size, "int8")
        self.name, self.image = name, image

    def _turn(self) -> None:
        h, w, c = self.image.height, self.image.width, self.image.channels
        part = Part.of((h, w, c), Access(h * w * c, (w, 1, h * w)), dense((h, w, c)))
        self._add(Copy((part,), h * w * c), (), self.image)

    def _window(self, same: bool = False, dilated: bool = True) -> Window:
        axes: list[tuple[int, int, int, int, int]] = []
        for extent in (self.image.height, self.image.width):
            kernel = self.pick(3, 5) if same else self.pick(1, 2, 3, 5)
            dilation = self.pick(1, 2) if dilated and not same else 1
            reach = (kernel - 1) * dilation + 1
            stride = 1 if same or extent < 8 else self.pick(1, 1, 2)
            before, after = (kernel // 2, kernel // 2) if same else self.rng.integers(0, reach, 2)
            if extent + before + after < reach + 2:
                kernel, dilation, before, after = 1, 1, 0, 0
            axes.append((kernel, stride, dilation, int(before), int(after)))
        rows, columns = axes
        return Window(
            self.image.height, self.image.width, self.image.channels, (rows[0], columns[0]),
            (rows[1], columns[1]), (rows[2], columns[2]),
            (rows[3], columns[3], rows[4], columns[4]),
        )  # fmt: skip

    def _convolution(self, filters: int, window: Window) -> None:
        even = window.channels % 2 == 0 and filters % 2 == 0
        groups = 2 if even and self.rng.random() < 0.2 else 1
        k = window.kernel[0] * window.kernel[1] * window.channels // groups
        w, bias, multiplier, q = random_linear(self.rng, filters, k)
        kernel = Conv2d(1, window, filters, groups, Epilogue.of(q))
        self._add(kernel, (w.reshape(-1), bias, multiplier, q), Image(*window.output, filters))

    def _pointwise(self, filters: int) -> None:
        w, bias, multiplier, q = random_linear(self.rng, filters, self.image.channels)
        rows = self.image.height * self.image.width
        kernel = Gemm(rows, self.image.channels, filters, Epilogue.of(q))
        image = Image(self.image.height, self.image.width, filters)
        self._add(kernel, (w.reshape(-1), bias, multiplier, q), image)

    def _depthwise(self, window: Window) -> None:
        taps = window.kernel[0] * window.kernel[1]
        w, bias, multiplier, q = random_linear(self.rng, window.channels, taps)
        constants = (np.ascontiguousarray(w.T).reshape(-1), bias, multiplier, q)
        kernel = DepthwiseConv2d(1, window, Epilogue.of(q))
        self._add(kernel, constants, Image(*window.output, window.channels))

    def _layer(self) -> None:
        kind = self.pick(0, 1, 2, 3, 4, 5)
        if kind == 0:
            self._convolution(self.pick(2, 3, 6), self._window())
        elif kind == 1:
            self._pointwise(self.pick(2, 4, 5))
        elif kind == 2:
            self._depthwise(self._window())
        elif kind == 3:
            window = self._window(dilated=False)
            self._add(MaxPool(1, window), (), Image(*window.output, window.channels))
        elif kind == 4:
            window = self._window(dilated=False)
            taps = window.kernel[0] * window.kernel[1]
            rule, multipliers = average_multipliers(1.3, taps, bool(self.pick(0, 1)))
            constants = (np.array(multipliers, np.int32), parameters(rule, 3, -128, 127, -20))
            image = Image(*window.output, window.channels)
            self._add(AveragePool(1, window), constants, image)
        else:
            self._add(Table.of((self.image.size,), dense((self.image.size,))), (TABLE,), self.image)

    def _residual(self) -> None:
        """Layers that keep the size, then a sum or product with what they began with."""
        start, filters, shape = self.name, self.image.channels, (self.image.size,)
        for _ in range(self.pick(1, 2)):
            if self.rng.random() < 0.5:
                self._depthwise(self._window(same=True))
            else:
                self._convolution(filters, self._window(same=True))
        if self.rng.random() < 0.5:
            self._pointwise(filters)
        if self.rng.random() < 0.7:
            q = add_parameters((0.9, 0.7), (3, -5), 1, -128, 127)
            self._add(Add.of(shape, dense(shape), dense(shape)), (q,), self.image, start)
            return
        q = np.array([40, 1, -128, 127, 0], np.int32)
        constants = (np.array([2, -3], np.int32), np.array([1 << 30], np.int32), q)
        kernel = Mul.of(shape, dense(shape), dense(shape), Epilogue.of(q))
        self._add(kernel, constants, self.image, start)


@pytest.mark.parametrize("seed", range(40))
def test_tiles_have_the_bits_of_whole_images(seed: int) -> None:
    network = Network(seed)
    program = network.program()
    if seed % 2:
        program = join_sums(program)
    stage = Stage(program)
    assert stage.splits, stage.ends
    x = network.rng.integers(-128, 128, program.buffers["x"].size).astype(np.int8)
    (want,) = program.interpret({"x": x}).values()
    done = 0
    for last in stage.splits[-3:]:
        image = stage.image(last)
        rows, columns = (int(network.rng.integers(1, n + 1)) for n in (image.height, image.width))
        patches = Patches(last, rows, image.width if seed % 5 == 0 else columns)
        try:
            tiles = patched(program, patches)
        except UnfitError:
            continue
        isa = ("generic", "dsp", "mve")[seed % 3]
        (got,) = run_in_arena(tiles, isa, {"x": x}).values()
        np.testing.assert_array_equal(got, want)
        assert sum(c.kernel.macs() for c in tiles.calls) == stage.macs(patches)
        done += 1
    assert done
