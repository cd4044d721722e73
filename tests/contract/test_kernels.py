"""Every kernel file is held to one contract; a new kernel is tested by existing.

Reference: NumPy integers. Device: the generated C, run here and on every kind of emulated core.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.compiler.core.artifact import SCHEMA_VERSION, Gates, Manifest, MemoryInfo
from edgec.compiler.core.encoding import TensorEncoding
from edgec.compiler.lowering import emit
from edgec.compiler.lowering.codegen import c_functions
from edgec.compiler.lowering.gpu.codegen import have_gpu_form
from edgec.compiler.lowering.gpu.emit import emit_cuda
from edgec.compiler.lowering.kernels import discover
from edgec.compiler.lowering.kernels._access import Access, dense
from edgec.compiler.lowering.kernels._int4 import Int4
from edgec.compiler.lowering.kernels._shared import Epilogue, parameters
from edgec.compiler.lowering.kernels._window import Window
from edgec.compiler.lowering.kernels.add import Add, add_parameters
from edgec.compiler.lowering.kernels.average_pool import AveragePool, average_multipliers
from edgec.compiler.lowering.kernels.conv2d import Conv2d
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.depthwise_conv2d import DepthwiseConv2d
from edgec.compiler.lowering.kernels.gemm import Gemm
from edgec.compiler.lowering.kernels.matmul import MatMul
from edgec.compiler.lowering.kernels.norm import Norm, norm_constants
from edgec.compiler.lowering.kernels.quantise import Quantise
from edgec.compiler.lowering.kernels.softmax import Softmax, softmax_constants
from edgec.compiler.lowering.memory import ALIGNMENT, Arena, plan_arena, scratch_name
from edgec.compiler.lowering.program import Array, Buffer, Call, Case, Kernel, Port, Program
from edgec.compiler.package import port_info
from edgec.runtime.devices import device_for
from edgec.targets import find_target

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "runtime" / "c" / "include"
KERNELS = list(discover())
_REFUSED = re.search(r"<!-- refused -->(.*?)<!--", (ROOT / "docs" / "cuda.md").read_text(), re.S)
assert _REFUSED is not None
WITHOUT_GPU_FORM = frozenset(re.findall(r"`(\w+)`", _REFUSED[1]))
CASES = {f"{k.name}_{i}": c for k in KERNELS for i, c in enumerate(k.cases())}
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared"]


def saturated(shift: int, multiplier: int, zero: int = 0, input_zero: int = 0) -> Array:
    """Return q[] with the widest clamp; `multiplier` only documents the pairing."""
    assert 2**30 <= multiplier < 2**31
    return np.array([shift, zero, -128, 127, input_zero], np.int32)


def extremes() -> Iterator[tuple[str, Case]]:
    """Yield cases at the edges of the arithmetic: outputs may all be the same."""
    largest = 2**31 - 1
    for shift in (1, 20, 32, 33, 34, 40, 54, 55, 62):  # both forms of the epilogue, their borders
        q = saturated(shift, largest, zero=-3 if shift < 54 else -128)
        for fill in (-128, 127):
            x, w = np.full(3 * 516, fill, np.int8), np.full(5 * 516, -128, np.int8)
            bias = np.array([-(2**31) + 2**24, 2**31 - 2**24, 0, 1, -1], np.int32)
            constants = (w, bias, np.full(5, largest, np.int32), q)
            yield f"gemm_{shift}_{fill}", Case(Gemm(3, 516, 5, Epilogue.of(q)), (x, *constants))
    sign = np.where(np.arange(5 * 516) // 516 % 2, 127, -127).astype(np.int8)
    for fill in (-128, 127):  # sums of pairs at the edge of 2**23, their carries of both signs
        q = saturated(54, largest)
        for rows in (1, 3):
            arrays = (np.full(rows * 516, fill, np.int8), sign, np.zeros(5, np.int32))
            kernel = Gemm(rows, 516, 5, Epilogue.of(q), paired=True)
            case = Case(kernel, (*arrays, np.full(5, largest, np.int32), q))
            yield f"gemm_pairs_{rows}_{fill}", case
    for dtype, reach in (("int8", 128), ("int16", 2048)):  # sums of four channels in one
        for group, scale in ((0, 1), (32, 255), (128, 255)):
            form, k = Int4(group), 1100 if not group or dtype == "int8" else 300
            for code in (-8, 7):
                x, codes = np.full(3 * k, -reach, dtype), np.full((6, k), code, np.int8)
                codes[1::2] = -1 - code
                scales = np.full((6, form.groups(k)), scale, np.int32)
                q = saturated(54, largest)
                constants = np.zeros(6, np.int32), np.full(6, largest, np.int32), q
                kernel = Gemm(3, k, 6, Epilogue.of(q), dtype, int4=form)
                case = Case(kernel, (x, form.pack(codes, scales), *constants))
                yield f"gemm4_{dtype}_{group}_{code}", case
    rng = np.random.default_rng(21)
    for channels, groups in ((8, 1), (8, 2), (3, 3), (4, 1)):  # columns expanded directly or not
        window = Window(5, 7, channels, (3, 3), pads=(1, 2, 1, 0))
        q = saturated(39, largest, input_zero=127)
        w = rng.choice([-128, 127], (channels * 9 * channels // groups)).astype(np.int8)
        x = rng.choice([-128, 127], 2 * 35 * channels).astype(np.int8)
        constants = (w, np.zeros(channels, np.int32), np.full(channels, largest, np.int32), q)
        kernel = Conv2d(2, window, channels, groups, Epilogue.of(q))
        yield f"conv2d_{channels}_{groups}", Case(kernel, (x, *constants))
    for channels in (1, 4, 7):
        window = Window(3, 3, channels, (3, 3), dilations=(2, 1), pads=(2, 1, 2, 1))
        q = saturated(38, largest, input_zero=-128)
        x, w = (rng.choice([-128, 127], 9 * channels).astype(np.int8) for _ in range(2))
        constants = (w, np.ones(channels, np.int32), np.full(channels, largest, np.int32), q)
        kernel = DepthwiseConv2d(1, window, Epilogue.of(q))
        yield f"depthwise_{channels}", Case(kernel, (x, *constants))
    for k, n in ((1, 1), (33, 3), (256, 2)):
        a, b = np.full(2 * k, 127, np.int8), rng.choice([-128, 127], k * n).astype(np.int8)
        q = saturated(50, largest)
        arrays = (a, b, np.array([-128, 127], np.int32), np.array([largest], np.int32), q)
        kernel = MatMul((), 2, k, n, dense((2, k)), dense((k, n)), dense((2, n)), Epilogue.of(q))
        yield f"matmul_{k}_{n}", Case(kernel, arrays)
    for n, layer in ((1, True), (1, False), (1024, True), (1024, False), (16384, True)):
        x = np.full((3, n), -128, np.int8)
        x[1, -1] = 127
        x[2] = rng.integers(-128, 128, n)
        ends = TensorEncoding(8, (1e-3,), (-128,)), TensorEncoding(8, (0.05,), (127,))
        constants = norm_constants(n, layer, 0.0, np.full(n, -9.0), np.full(n, 300.0), *ends)
        yield f"norm_{n}_{layer}", Case(Norm(3, n, layer), (x.reshape(-1), *constants))
    for n, scale, y_scale in ((1, 9.0, 1 / 256), (3000, 0.0, 1 / 256), (500, 0.01, 1.0)):
        constants = softmax_constants(n, scale, y_scale, -128)
        x = rng.integers(-128, 128, 2 * n).astype(np.int8)
        yield f"softmax_{n}", Case(Softmax(2, n), (x, *constants))
    nothing = Softmax(2, 8, "input", 1, Access(8, (0, 0, 1)))
    constants = softmax_constants(8, 0.1, 1 / 256, -128)
    yield "softmax_all_masked", Case(nothing, (rng.integers(-128, 128, 16).astype(np.int8),
                                               np.zeros(8, np.uint8), *constants))  # fmt: skip
    for largest_scale in (2.0**-12, 1.0, 2.0**15):
        for sign in (1, -1):
            q = add_parameters((largest_scale, sign * largest_scale), (-128, 127), 9, -128, 127)
            a = np.array([-128, 127, 127, -128], np.int8)
            kernel = Add.of((4,), dense((4,)), dense((4,)))
            yield f"add_{largest_scale}_{sign}", Case(kernel, (a, a[::-1].copy(), q))
    rule, multipliers = average_multipliers(1.0, 40 * 40, False)
    window = Window(40, 40, 2, (40, 40))
    x = np.full(3200, -128, np.int8)
    arrays = (x, np.array(multipliers, np.int32), parameters(rule, 0, -128, 127, 127))
    yield "average_of_1600", Case(AveragePool(1, window), arrays)


EXTREMES = {re.sub(r"\W", "_", f"extreme_{name}"): case for name, case in extremes()}
ALL_CASES = CASES | EXTREMES
# A constant cannot hold what is no number, so this runs here only: it gives the lowest code.
NO_NUMBER = Case(
    Quantise(3),
    (np.array([np.nan, 1, -np.nan], np.float32), np.ones(1, np.float32),
     np.array([0, -128, 127], np.int32)),
)  # fmt: skip
HERE = ALL_CASES | {"quantise_no_number": NO_NUMBER}


def library(folder: Path, compiler: str = "gcc") -> Any:
    text = c_functions({name: case.kernel for name, case in HERE.items()}, "generic")
    source = folder / "kernels.c"
    source.write_text(
        '#include <math.h>\n#include "edgec_kernels.h"\n'
        + text.replace("EDGEC_KERNEL void", "void")
    )
    output = folder / f"{compiler}.so"
    warn = "-Wno-missing-prototypes"
    subprocess.run(
        [compiler, *FLAGS, warn, f"-I{INCLUDE}", str(source), "-o", str(output), "-lm"], check=True
    )
    return ctypes.CDLL(str(output))


@pytest.fixture(scope="module", params=["gcc", "clang"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return library(tmp_path_factory.mktemp("kernels"), request.param)


def run(function: Any, case: Case) -> list[np.ndarray[Any, Any]]:
    params = case.kernel.params("generic")
    given = iter(case.arrays)
    arrays = [
        np.ascontiguousarray(next(given))
        if p.role in ("input", "constant")
        else np.full(p.size, 77, p.dtype)
        for p in params
    ]
    function(*[a.ctypes.data_as(ctypes.c_void_p) for a in arrays])
    return [a for a, p in zip(arrays, params, strict=True) if p.role == "output"]


@pytest.mark.parametrize("name", HERE)
def test_device_equals_reference(name: str, compiled: Any) -> None:
    case = HERE[name]
    for got, want in zip(
        run(getattr(compiled, name), case), case.kernel.reference(*case.arrays), strict=True
    ):
        np.testing.assert_array_equal(got, want)


BEHIND = {
    (name, target): case for name, case in CASES.items() for target in case.kernel.behind("generic")
}


@pytest.mark.parametrize(("name", "target"), BEHIND)
def test_an_output_may_overlap_the_input_it_is_written_behind(
    name: str, target: int, compiled: Any
) -> None:
    case = BEHIND[name, target]
    params = case.kernel.params("generic")
    source, behind_bytes = case.kernel.behind("generic")[target]
    given = iter(case.arrays)
    arrays = [
        np.ascontiguousarray(next(given)) if p.role in ("input", "constant")
        else np.full(p.size, 77, p.dtype)
        for p in params
    ]  # fmt: skip
    read = [i for i, p in enumerate(params) if p.role == "input"][source]
    written = [i for i, p in enumerate(params) if p.role == "output"][target]
    before, after = max(behind_bytes, 0), max(-behind_bytes, 0)
    memory = np.full(before + after + sum(p.size_bytes for p in params), 77, np.int8)
    x = memory[before : before + params[read].size_bytes].view(params[read].dtype)
    y = memory[after : after + params[written].size_bytes].view(params[written].dtype)
    x[:], arrays[read], arrays[written] = arrays[read], x, y
    getattr(compiled, name)(*[a.ctypes.data_as(ctypes.c_void_p) for a in arrays])
    np.testing.assert_array_equal(y, case.kernel.reference(*case.arrays)[target])


@pytest.mark.parametrize("name", CASES)
def test_reference_matches_declared_parameters(name: str) -> None:
    case = CASES[name]
    params = case.kernel.params("generic")
    given = [p for p in params if p.role in ("input", "constant")]
    assert [(p.size, p.dtype) for p in given] == [(a.size, str(a.dtype)) for a in case.arrays]
    outputs = [p for p in params if p.role == "output"]
    for param, value in zip(outputs, case.kernel.reference(*case.arrays), strict=True):
        assert (param.size, param.dtype) == (value.size, str(value.dtype))


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_not_trivial(name: str) -> None:
    case = CASES[name]
    for value in case.kernel.reference(*case.arrays):
        assert np.unique(value).size > 1 or value.size == 1


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_file_is_name_and_has_cases(kernel: type[Kernel]) -> None:
    assert kernel.__module__.rsplit(".", 1)[1] == kernel.name
    assert kernel.__doc__
    assert list(kernel.cases())


@pytest.mark.parametrize("isa", ["generic", "dsp", "mve", "dot", "cuda"])
@pytest.mark.parametrize("name", CASES)
def test_packed_constants_fit_the_parameters(name: str, isa: str) -> None:
    case = CASES[name]
    params = case.kernel.params(isa)
    inputs = sum(p.role == "input" for p in params)
    constants = [p for p in params if p.role == "constant"]
    packed = case.kernel.pack(isa, case.arrays[inputs:])
    assert [(p.size, p.dtype) for p in constants] == [(a.size, str(a.dtype)) for a in packed]


# ---------------------------------------------------------------- the same bits on every device

DEVICES = [
    pytest.param("host"),
    *(
        pytest.param(f"cortex-{c}", marks=pytest.mark.qemu_cortex_m)
        for c in ("m4", "m7", "m33", "m55")
    ),
    *(pytest.param(t, marks=pytest.mark.qemu_aarch64) for t in ("aarch64", "aarch64-cortex-a76")),
    pytest.param("cuda-sm80", marks=pytest.mark.cuda),
]


def copied(buffers: dict[str, Buffer], source: str, target: str) -> Call:
    """Return the call that copies one buffer to another, which it adds if it is not there."""
    held = buffers[source]
    buffers.setdefault(target, Buffer(target, held.size, held.dtype))
    part = Part.of((held.size,), dense((held.size,)), dense((held.size,)))
    return Call(Copy((part,), held.size, held.dtype), (source,), (), (target,))


def all_cases_program(isa: str) -> tuple[Program, dict[str, Array]]:
    """Return one program that runs every case on constants, and what each output must be.

    For GPUs without the kernels that are refused there by name: docs/cuda.md lists these.
    """
    buffers = {"start": Buffer("start", 4, "int8"), "echo": Buffer("echo", 4, "int8")}
    whole = Part.of((4,), dense((4,)), dense((4,)))
    calls = [Call(Copy((whole,), 4), ("start",), (), ("echo",))]
    outputs, constants = [Port("echo", (4,), "echo", "int8", None)], dict[str, Array]()
    wanted: dict[str, Array] = {}
    for name, case in ALL_CASES.items():
        if isa == "cuda" and case.kernel.name in WITHOUT_GPU_FORM:
            continue
        params, arrays = case.kernel.params("generic"), list(case.arrays)
        shares = case.kernel.behind(isa) or case.kernel.in_place(isa)
        inputs: list[str] = []
        for param in (p for p in params if p.role == "input"):
            buffer = f"{name}_{param.name}"
            constants[buffer] = arrays.pop(0)
            buffers[buffer] = Buffer(buffer, param.size, param.dtype)
            if shares:
                calls.append(copied(buffers, buffer, f"{buffer}_here"))
            inputs.append(f"{buffer}_here" if shares else buffer)
        written = {f"{name}_{p.name}": p for p in params if p.role == "output"}
        for port, param in written.items():
            buffers[port] = Buffer(port, param.size, param.dtype)
            outputs.append(Port(port, (param.size,), port, param.dtype, None))
        # What may share memory with an input lies in the arena, where the plan sees to it.
        here = {p: f"{p}_here" if shares else p for p in written}
        buffers |= {n: Buffer(n, written[p].size, written[p].dtype) for p, n in here.items()}
        calls.append(Call(case.kernel, tuple(inputs), tuple(arrays), tuple(here.values())))
        calls += [copied(buffers, n, p) for p, n in here.items() if n != p]
        wanted |= dict(zip(written, case.kernel.reference(*case.arrays), strict=True))
    start = Port("start", (4,), "start", "int8", None)
    return Program((start,), tuple(outputs), buffers, constants, calls, {}), wanted


def build(folder: Path, target: str, program: Program) -> Manifest:
    """Write, compile and link the program for target."""
    spec, backend = find_target(target)
    emitted = emit_cuda if spec.isa == "cuda" else emit.emit_c
    model = emitted(program, "cases", spec.isa, "test")
    for path, text in model.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for header in INCLUDE.glob("*.h"):
        shutil.copy(header, folder / "src")
    inputs, outputs = (tuple(map(port_info, p)) for p in (model.inputs, model.outputs))
    backend.compile_library(spec, folder, "cases", folder)
    backend.link_check(spec, folder, "cases", inputs, outputs)
    return Manifest(
        schema_version=SCHEMA_VERSION, edgec_version="test", versions={}, command="", seed=0,
        name="cases", target=target, source_sha256="", files={}, inputs=inputs, outputs=outputs,
        memory=MemoryInfo(arena_bytes=model.arena.size_bytes, weights_bytes=model.weights_bytes),
        macs=0, timings_s={}, isa=spec.isa, calibration="", gates=Gates(),
    )  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_gpu_form_is_there_or_refused_as_documented(kernel: type[Kernel]) -> None:
    found = have_gpu_form(case.kernel for case in kernel.cases())
    assert found == (kernel.name not in WITHOUT_GPU_FORM), "run `python tools/docs.py`"


def tight_arena(program: Program, isa: str) -> Arena:
    """Return a plan in which every output that may overlap an input does, as far as it may."""
    arena = plan_arena(program, isa)
    offsets, size = dict(arena.offsets), arena.size_bytes
    for overlap in arena.overlaps:
        call, behind_bytes = program.calls[overlap.call], overlap.behind_bytes or 0
        pair = {overlap.target: max(-behind_bytes, 0), overlap.source: max(behind_bytes, 0)}
        end = max(offset + program.buffers[name].size_bytes for name, offset in pair.items())
        scratch = [p for p in call.kernel.params(isa) if p.role == "scratch"]
        rest = {scratch_name(overlap.call, p.name): p.size_bytes for p in scratch}
        rest |= {n: program.buffers[n].size_bytes for n in call.inputs if n in offsets}
        for name in (n for n in rest if n not in pair):
            pair[name] = -(-end // ALIGNMENT) * ALIGNMENT
            end = pair[name] + rest[name]
        offsets |= pair
        size = max(size, end)
    return replace(arena, offsets=offsets, size_bytes=size)


@pytest.mark.parametrize("target", DEVICES)
def test_every_case_gives_the_same_bits_on_the_device(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, wanted = all_cases_program(find_target(target)[0].isa)
    monkeypatch.setattr(emit, "plan_arena", tight_arena)
    manifest = build(tmp_path, target, program)
    start = np.array([[1, -2, 3, -4], [5, 6, 7, 8]], np.int8)
    result = device_for(find_target(target)[0]).run(tmp_path, manifest, {"start": start})
    np.testing.assert_array_equal(result.outputs["echo"], start)
    for name, want in wanted.items():
        for got in result.outputs[
            name
        ]:  # twice: the second run finds the arena as the first left it
            np.testing.assert_array_equal(got, want, err_msg=name)
