"""Kernels dealt out to the threads of a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx
import pytest

from edgec.compiler.core.errors import ModelError
from edgec.compiler.lowering.gpu.codegen import Launch, cuda_functions
from edgec.compiler.lowering.kernels._access import Access, dense
from edgec.compiler.lowering.kernels._base import KernelBase
from edgec.compiler.lowering.kernels._tir import loop, store
from edgec.compiler.lowering.kernels.copy import Copy, Part
from edgec.compiler.lowering.kernels.float_op import FloatOp
from edgec.compiler.lowering.kernels.lstm import Lstm
from edgec.compiler.lowering.kernels.table import Table
from edgec.compiler.lowering.program import Array, Case, Param


@dataclass(frozen=True, slots=True)
class RunningSum(KernelBase):
    """y[i] = x[0] + ... + x[i]: every step needs the one before."""

    size: int

    name: ClassVar[str] = "running_sum"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, y."""
        return Param("x", self.size, "int8", "input"), Param("y", self.size, "int8", "output")

    def write(self, x: Any, y: Any) -> None:
        """Emit the loop."""
        store(y, 0, x[0])
        with loop("i", self.size - 1) as i:
            store(y, i + 1, y[i] + x[i + 1])

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """The running sum."""
        return (arrays[0].cumsum(dtype=arrays[0].dtype),)

    @staticmethod
    def cases() -> Iterable[Case]:
        """None: it is not a kernel of the compiler."""
        return ()


def test_independent_outputs_are_dealt_out_to_threads() -> None:
    found = cuda_functions({"table_1": Table.of((4, 5), dense((4, 5)))})
    assert found.launches == {"table_1": (Launch("table_1", 20),)}
    assert (
        "EDGEC_CUDA_KERNEL table_1(const int8_t *x, const int8_t *table, int8_t *y)" in found.text
    )
    assert (
        "for (int32_t thread = edgec_thread(); thread < 20; thread += edgec_threads()) {"
        in found.text
    )


def test_dependent_loops_are_refused_by_name() -> None:
    kernels = {"a": RunningSum(8), "b": RunningSum(9), "c": Table.of((2, 5), dense((2, 5)))}
    with pytest.raises(ModelError, match=r"kernel 'running_sum' has no form for NVIDIA") as caught:
        cuda_functions(kernels)
    assert len(caught.value.problems) == 1


def test_one_loop_after_the_other_is_one_launch_after_the_other() -> None:
    inner = Part.of((2, 3), dense((2, 3)), Access(20, (5, 1), 6))
    found = cuda_functions({"pad": Copy((inner,), 20, fill=-7)})
    assert found.launches["pad"] == (Launch("pad_part1", 20), Launch("pad_part2", 6))
    first, second = re.findall(r"EDGEC_CUDA_KERNEL.*?^\}\n", found.text, re.S | re.M)
    assert "-7" in first and "(void)x0;" in first
    assert "-7" not in second and "x0[" in second


def test_one_element_is_left_to_the_first_thread() -> None:
    found = cuda_functions({"one": Table.of((1, 1), dense((1, 1)))})
    assert found.launches["one"] == (Launch("one", 1),)
    assert "if (edgec_thread() == 0) {" in found.text


def float_op(text: str) -> FloatOp:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> m {text}')
    return FloatOp(model.SerializeToString(deterministic=True))


def test_every_step_of_a_float_island_is_a_launch() -> None:
    softmax = float_op("(float[2,3,4] A) => (float[2,3,4] Y) { Y = Softmax<axis = 1>(A) }")
    found = cuda_functions({"f": softmax})
    assert [launch.threads for launch in found.launches["f"]] == [8, 24, 8, 24]


def test_a_sum_of_everything_is_left_to_one_thread() -> None:
    total = float_op("(float[5] A) => (float[1] Y) { Y = ReduceSum<keepdims = 1>(A) }")
    found = cuda_functions({"f": total})
    assert found.launches["f"] == (Launch("f", 1),)
    assert "if (edgec_thread() == 0) {" in found.text


def test_every_step_of_a_recurrence_is_launched_by_itself() -> None:
    kernel = next(iter(Lstm.cases())).kernel  # three steps of four units
    found = cuda_functions({"lstm": kernel})
    first, *steps = found.launches["lstm"]
    assert first == Launch("lstm_part1", 4)
    gates, units = ("lstm_part2", 16), ("lstm_part3", 4)
    assert steps == [Launch(*part, step) for step in range(3) for part in (gates, units)]
    start, *rest = re.findall(r"EDGEC_CUDA_KERNEL.*?^\}\n", found.text, re.S | re.M)
    assert "const int32_t step" not in start
    assert all(", const int32_t step)" in text for text in rest)
